"""How much a peer may ask of us before we refuse: the bounds of the RPC core and its listeners.

    Limits()                                   the defaults, each with its reason
    dataclasses.replace(Limits(), max_request=65536)

Exceeding one bound ends the connection that did it and disturbs no other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    max_request: int = 0x40_0000
    """Bytes of one reassembled request; what Windows since 2003 takes. [MS-RPCE] 3.3.3.5.4"""
    max_response: int = 0x800_0000
    """Bytes of one reassembled response that our client accepts."""
    max_fragment: int = 5840
    """Bytes of one PDU over TCP: four Ethernet segments of 1,460, as Windows has it."""
    large_fragment: int = 65_528
    """Bytes of one PDU between two oxid ends that agreed so while binding: the most frag_length can say."""
    max_fragments: int = 8192
    """Fragments of one request: 4 MiB in pieces of 512 bytes, smaller than any real client sends."""
    max_pending_calls: int = 512
    """Calls of one connection that run at once; above it the connection is not read."""
    max_presentation_contexts: int = 1024
    """Accepted presentation contexts of one connection; Windows allows 4,000 per interface."""
    max_security_contexts: int = 2048
    """Security contexts of one connection. [MS-RPCE] 3.3.1.5.4"""
    max_token: int = 65_535
    """Bytes of one authentication token, other than NTLM's."""
    max_ntlm_token: int = 2888
    """Bytes of one NTLM token, as Windows announces them (cbMaxToken)."""
    max_handles: int = 4096
    """Context handles of one association group."""
    max_connections: int = 20_000
    """Connections of one server, all its endpoints together."""
    max_connections_per_address: int = 20_000
    """Connections of one client address; behind one address there may be many machines."""
    bind_timeout: float = 30.0
    """Seconds from accepting a connection to its first complete bind, handshake included."""
    fragment_timeout: float = 30.0
    """Seconds a peer has to finish a PDU, or a request, that it began."""
    idle_timeout: float | None = None
    """Seconds without a call after which a server closes a connection; None for never, as Windows."""
    write_buffer: int = 1 << 20
    """Bytes that may wait for a peer that does not read before we stop reading from it."""
    strict_call_level: bool = False
    """Refuse authentication level 3 (call), as Windows does; [MS-RPCE] 2.2.1.1.8 takes it as packet."""
