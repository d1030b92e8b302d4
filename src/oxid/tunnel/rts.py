"""RTS PDUs: what each looks like, and the strict reader. [MS-RPCH] 2.2.3.5, 2.2.3.6, 2.2.4

    rts.conn_a1(vc, out_channel, window)      bytes of one PDU; a builder for every PDU of the table
    found = rts.parse(pdu)                     an Rts: its kind and what its commands say
    rts.ACK.unpack_from(pdu)                   the short way for the one that comes often

A PDU is known by its flags and its exact list of commands. Several share one shape, such as every PDU of one
cookie: the kind says the shape, and the state of the receiver says which PDU it is.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from ipaddress import ip_address
from struct import Struct
from typing import Final

from oxid.errors import RemoteProtocolError

RTS_TYPE: Final = 20
HEADER_SIZE: Final = 20
MAX_RTS: Final = 4096
"""Bytes of the longest RTS PDU that is read. The longest of the table has 140; padding may make one longer."""
COOKIE_SIZE: Final = 16
NIL_COOKIE: Final = bytes(COOKIE_SIZE)
VERSION: Final = 1
BANNER: Final = b"ncacn_http/1.0"
"""What a server says first on each TCP connection. [MS-RPCH] 2.1.1.2.1"""

MIN_WINDOW: Final = 8 << 10
MAX_WINDOW: Final = 256 << 10
MIN_LIFETIME: Final = 128 << 10
MAX_LIFETIME: Final = 1 << 31
MIN_TIMEOUT_MS: Final = 120_000
MAX_TIMEOUT_MS: Final = 14_400_000
MIN_KEEPALIVE_MS: Final = 60_000
DEFAULT_KEEPALIVE_MS: Final = 300_000
"""What 0 means."""


class Flags(IntFlag):
    """[MS-RPCH] 2.2.3.6.1"""

    NONE = 0
    PING = 0x01
    OTHER_CMD = 0x02
    RECYCLE_CHANNEL = 0x04
    IN_CHANNEL = 0x08
    OUT_CHANNEL = 0x10
    EOF = 0x20
    ECHO = 0x40


class Command(IntEnum):
    """[MS-RPCH] 2.2.3.5"""

    RECEIVE_WINDOW_SIZE = 0
    FLOW_CONTROL_ACK = 1
    CONNECTION_TIMEOUT = 2
    COOKIE = 3
    CHANNEL_LIFETIME = 4
    CLIENT_KEEPALIVE = 5
    VERSION = 6
    EMPTY = 7
    PADDING = 8
    NEGATIVE_ANCE = 9
    ANCE = 10
    CLIENT_ADDRESS = 11
    ASSOCIATION_GROUP_ID = 12
    DESTINATION = 13
    PING_TRAFFIC_SENT_NOTIFY = 14


class Destination(IntEnum):
    """[MS-RPCH] 2.2.3.3"""

    CLIENT = 0
    IN_PROXY = 1
    SERVER = 2
    OUT_PROXY = 3


class Kind(Enum):
    """A shape: flags and commands. The comment names the PDUs that have it."""

    CONN_A1 = "CONN/A1"
    CONN_A2 = "CONN/A2"
    CONN_A3 = "CONN/A3"
    CONN_B1 = "CONN/B1"
    CONN_B2 = "CONN/B2"
    CONN_B3 = "CONN/B3"
    CONN_C = "CONN/C1, C2"
    IN_A1 = "IN_R1/A1, IN_R2/A1"
    IN_R1_A2 = "IN_R1/A2"
    IN_R1_A4 = "IN_R1/A3, A4"
    IN_R2_A4 = "IN_R2/A3, A4"
    COOKIE = "IN_R1/A5, A6; IN_R2/A2, A5; OUT_R2/A4"
    EMPTY = "IN_R1/B1"
    WINDOW = "IN_R1/B2"
    OUT_A1 = "OUT_R1/A1, A2; OUT_R2/A1, A2"
    OUT_A3 = "OUT_R1/A3, OUT_R2/A3"
    OUT_R1_A4 = "OUT_R1/A4"
    OUT_R1_A6 = "OUT_R1/A5, A6"
    OUT_A8 = "OUT_R1/A7, A8; OUT_R2/A8"
    OUT_R2_A7 = "OUT_R2/A7"
    ANCE = "OUT_R1/A9, A10, A11; OUT_R2/B1"
    OUT_R2_A6 = "OUT_R2/A5, A6"
    NEGATIVE_ANCE = "OUT_R2/B2"
    OUT_R2_B3 = "OUT_R2/B3"
    OUT_R2_C1 = "OUT_R2/C1"
    KEEP_ALIVE = "Keep-Alive"
    PING_NOTIFY = "PingTrafficSentNotify"
    ECHO = "Echo"
    PING = "Ping"
    ACK = "FlowControlAck"
    ACK_FORWARDED = "FlowControlAckWithDestination"
    OTHER = "none of the table"


class Rts:
    """A PDU that was read. What its commands did not say is None or empty."""

    __slots__ = (
        "ack",
        "client_address",
        "cookies",
        "destination",
        "group",
        "keepalive",
        "kind",
        "lifetime",
        "sent",
        "timeout",
        "version",
        "window",
    )

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.cookies: list[bytes] = []
        self.destination: int | None = None
        self.window = 0
        """ReceiveWindowSize in bytes."""
        self.timeout = 0
        """ConnectionTimeout in ms."""
        self.lifetime = 0
        """ChannelLifetime in bytes."""
        self.keepalive = 0
        """ClientKeepalive in ms."""
        self.version = VERSION
        self.group = b""
        self.client_address = b""
        self.sent = 0
        """PingTrafficSent in bytes."""
        self.ack: tuple[int, int, bytes] | None = None
        """BytesReceived, AvailableWindow and the channel's cookie."""

    def __repr__(self) -> str:
        return f"<RTS {self.kind.value}>"


# Layout ---------------------------------------------------------------------------------------------------

_HEADER: Final = Struct("<BBBBIHHIHH")
_WORD: Final = Struct("<I")
_PAIR: Final = Struct("<II")
_DREP: Final = 0x10
_FIRST_LAST: Final = 0x03
_FIXED: Final = (8, 28, 8, 20, 8, 8, 8, 4, 0, 4, 4, 0, 20, 8, 8)
"""Total size of each command; 0 where it varies."""
_ADDRESS_SIZES: Final = {0: (24, 4), 1: (36, 16)}

ACK: Final = Struct("<BBBBIHHIHHIII16s")
"""A FlowControlAck as a whole: the last three are BytesReceived, AvailableWindow, ChannelCookie."""
ACK_SIZE: Final = ACK.size
ACK_FORWARDED: Final = Struct("<BBBBIHHIHHIIIII16s")
ACK_FORWARDED_SIZE: Final = ACK_FORWARDED.size


def _pdu(flags: int, *commands: bytes) -> bytes:
    body = b"".join(commands)
    return (
        _HEADER.pack(5, 0, RTS_TYPE, _FIRST_LAST, _DREP, HEADER_SIZE + len(body), 0, 0, flags, len(commands))
        + body
    )


def _number(command: Command, value: int) -> bytes:
    return _PAIR.pack(command, value)


def _window(size: int) -> bytes:
    return _PAIR.pack(Command.RECEIVE_WINDOW_SIZE, size)


def _timeout(milliseconds: int) -> bytes:
    return _PAIR.pack(Command.CONNECTION_TIMEOUT, milliseconds)


def _cookie(cookie: bytes) -> bytes:
    return _WORD.pack(Command.COOKIE) + cookie


def _version(version: int) -> bytes:
    return _PAIR.pack(Command.VERSION, version)


def _to(destination: Destination) -> bytes:
    return _PAIR.pack(Command.DESTINATION, destination)


_EMPTY: Final = _WORD.pack(Command.EMPTY)
_ANCE: Final = _WORD.pack(Command.ANCE)


def client_address(text: str) -> bytes:
    """The ClientAddress command of an IP address. Little-endian as the specification says; nobody may rely on it.

    [MS-RPCH] 2.2.3.2. A text that is no address becomes 0.0.0.0.
    """
    try:
        packed = ip_address(text.partition("%")[0]).packed
    except ValueError:
        packed = bytes(4)
    return _PAIR.pack(Command.CLIENT_ADDRESS, len(packed) == 16) + packed[::-1] + bytes(12)


# Connection establishment ---------------------------------------------------------------------------------


def conn_a1(vc: bytes, channel: bytes, window: int, version: int = VERSION) -> bytes:
    """Client to out-proxy. [MS-RPCH] 2.2.4.2"""
    return _pdu(Flags.NONE, _version(version), _cookie(vc), _cookie(channel), _window(window))


def conn_a2(vc: bytes, channel: bytes, lifetime: int, window: int, version: int = VERSION) -> bytes:
    """Out-proxy to server. [MS-RPCH] 2.2.4.3"""
    return _pdu(
        Flags.OUT_CHANNEL,
        _version(version),
        _cookie(vc),
        _cookie(channel),
        _number(Command.CHANNEL_LIFETIME, lifetime),
        _window(window),
    )


def conn_a3(timeout_ms: int) -> bytes:
    """Out-proxy to client. [MS-RPCH] 2.2.4.4"""
    return _pdu(Flags.NONE, _timeout(timeout_ms))


def conn_b1(
    vc: bytes, channel: bytes, lifetime: int, keepalive_ms: int, group: bytes, version: int = VERSION
) -> bytes:
    """Client to in-proxy. [MS-RPCH] 2.2.4.5"""
    return _pdu(
        Flags.NONE,
        _version(version),
        _cookie(vc),
        _cookie(channel),
        _number(Command.CHANNEL_LIFETIME, lifetime),
        _number(Command.CLIENT_KEEPALIVE, keepalive_ms),
        _WORD.pack(Command.ASSOCIATION_GROUP_ID) + group,
    )


def conn_b2(
    vc: bytes,
    channel: bytes,
    window: int,
    timeout_ms: int,
    group: bytes,
    address: bytes,
    version: int = VERSION,
) -> bytes:
    """In-proxy to server; `address` is a whole command, see `client_address`. [MS-RPCH] 2.2.4.6"""
    return _pdu(
        Flags.IN_CHANNEL,
        _version(version),
        _cookie(vc),
        _cookie(channel),
        _window(window),
        _timeout(timeout_ms),
        _WORD.pack(Command.ASSOCIATION_GROUP_ID) + group,
        address,
    )


def conn_b3(window: int, version: int = VERSION) -> bytes:
    """Server to in-proxy. [MS-RPCH] 2.2.4.7"""
    return _pdu(Flags.NONE, _window(window), _version(version))


def conn_c(window: int, timeout_ms: int, version: int = VERSION) -> bytes:
    """Server to out-proxy (C1) to client (C2): the in-proxy's values. [MS-RPCH] 2.2.4.8, 2.2.4.9"""
    return _pdu(Flags.NONE, _version(version), _window(window), _timeout(timeout_ms))


# Recycling an IN channel ----------------------------------------------------------------------------------


def in_a1(vc: bytes, predecessor: bytes, successor: bytes, version: int = VERSION) -> bytes:
    """Client to successor in-proxy, IN_R1 and IN_R2. [MS-RPCH] 2.2.4.10, 2.2.4.18"""
    return _pdu(
        Flags.RECYCLE_CHANNEL, _version(version), _cookie(vc), _cookie(predecessor), _cookie(successor)
    )


def in_r1_a2(
    vc: bytes, predecessor: bytes, successor: bytes, window: int, timeout_ms: int, version: int = VERSION
) -> bytes:
    """Successor in-proxy to server. [MS-RPCH] 2.2.4.11"""
    return _pdu(
        Flags.IN_CHANNEL | Flags.RECYCLE_CHANNEL,
        _version(version),
        _cookie(vc),
        _cookie(predecessor),
        _cookie(successor),
        _window(window),
        _timeout(timeout_ms),
    )


def in_r1_a3(window: int, timeout_ms: int, version: int = VERSION) -> bytes:
    """Server to out-proxy to client (A4): the successor in-proxy's values. [MS-RPCH] 2.2.4.12, 2.2.4.13"""
    return _pdu(Flags.NONE, _to(Destination.CLIENT), _version(version), _window(window), _timeout(timeout_ms))


def one_cookie(cookie: bytes) -> bytes:
    """IN_R1/A5 and A6, IN_R2/A2 and A5, OUT_R2/A4. [MS-RPCH] 2.2.4.14, 2.2.4.15, 2.2.4.19, 2.2.4.22, 2.2.4.37"""
    return _pdu(Flags.NONE, _cookie(cookie))


IN_R1_B1: Final = _pdu(Flags.NONE, _EMPTY)
"""Predecessor in-proxy to server: nothing follows. [MS-RPCH] 2.2.4.16"""


def in_r1_b2(window: int) -> bytes:
    """Server to successor in-proxy. [MS-RPCH] 2.2.4.17"""
    return _pdu(Flags.NONE, _window(window))


IN_R2_A3: Final = _pdu(Flags.NONE, _to(Destination.CLIENT))
"""Server to out-proxy to client (A4). [MS-RPCH] 2.2.4.20, 2.2.4.21"""

# Recycling an OUT channel ---------------------------------------------------------------------------------

OUT_A1: Final = _pdu(Flags.RECYCLE_CHANNEL, _to(Destination.CLIENT))
"""Server to out-proxy to client (A2), OUT_R1 and OUT_R2. [MS-RPCH] 2.2.4.23, 2.2.4.24, 2.2.4.34, 2.2.4.35"""


def out_a3(vc: bytes, predecessor: bytes, successor: bytes, window: int, version: int = VERSION) -> bytes:
    """Client to successor out-proxy, OUT_R1 and OUT_R2. [MS-RPCH] 2.2.4.25, 2.2.4.36"""
    return _pdu(
        Flags.RECYCLE_CHANNEL,
        _version(version),
        _cookie(vc),
        _cookie(predecessor),
        _cookie(successor),
        _window(window),
    )


def out_r1_a4(
    vc: bytes,
    predecessor: bytes,
    successor: bytes,
    lifetime: int,
    window: int,
    timeout_ms: int,
    version: int = VERSION,
) -> bytes:
    """Successor out-proxy to server. [MS-RPCH] 2.2.4.26"""
    return _pdu(
        Flags.RECYCLE_CHANNEL | Flags.OUT_CHANNEL,
        _version(version),
        _cookie(vc),
        _cookie(predecessor),
        _cookie(successor),
        _number(Command.CHANNEL_LIFETIME, lifetime),
        _window(window),
        _timeout(timeout_ms),
    )


def out_r1_a5(timeout_ms: int, version: int = VERSION) -> bytes:
    """Server to predecessor out-proxy to client (A6). [MS-RPCH] 2.2.4.27, 2.2.4.28"""
    return _pdu(Flags.OUT_CHANNEL, _to(Destination.CLIENT), _version(version), _timeout(timeout_ms))


def out_r1_a7(successor: bytes) -> bytes:
    """Client to in-proxy to server (A8); OUT_R2/A8. [MS-RPCH] 2.2.4.29, 2.2.4.30, 2.2.4.41"""
    return _pdu(Flags.OUT_CHANNEL, _to(Destination.SERVER), _cookie(successor))


OUT_R1_A9: Final = _pdu(Flags.NONE, _ANCE)
"""OUT_R1/A9, A10 and A11, OUT_R2/B1. [MS-RPCH] 2.2.4.31 to 2.2.4.33, 2.2.4.42"""
OUT_R2_A5: Final = _pdu(Flags.NONE, _to(Destination.CLIENT), _ANCE)
"""Server to out-proxy to client (A6). [MS-RPCH] 2.2.4.38, 2.2.4.39"""


def out_r2_a7(successor: bytes, version: int = VERSION) -> bytes:
    """Client to in-proxy; forwarded as it is. [MS-RPCH] 2.2.4.40"""
    return _pdu(Flags.OUT_CHANNEL, _to(Destination.SERVER), _cookie(successor), _version(version))


OUT_R2_B1: Final = OUT_R1_A9
"""Server to out-proxy: the successor stands. [MS-RPCH] 2.2.4.42"""
OUT_R2_B2: Final = _pdu(Flags.NONE, _WORD.pack(Command.NEGATIVE_ANCE))
"""Server to out-proxy: it does not. [MS-RPCH] 2.2.4.43"""
OUT_R2_B3: Final = _pdu(Flags.EOF, _ANCE)
"""Out-proxy to client, the last bytes of a predecessor. [MS-RPCH] 2.2.4.44"""
OUT_R2_C1: Final = _pdu(Flags.PING, _EMPTY)
"""Client to out-proxy: fills the declared body, as long as A11. [MS-RPCH] 2.2.4.45"""

# Outside sequences ----------------------------------------------------------------------------------------

ECHO: Final = _pdu(Flags.ECHO)
"""The body of an echo response. [MS-RPCH] 2.2.4.48"""
PING: Final = _pdu(Flags.PING)
"""Client to in-proxy, out-proxy to client. [MS-RPCH] 2.2.4.49"""


def keep_alive(milliseconds: int) -> bytes:
    """Client to in-proxy. [MS-RPCH] 2.2.4.46"""
    return _pdu(Flags.OTHER_CMD, _number(Command.CLIENT_KEEPALIVE, milliseconds))


def ping_notify(sent: int) -> bytes:
    """Out-proxy to server: bytes of pings that it did not know of. [MS-RPCH] 2.2.4.47"""
    return _pdu(Flags.OTHER_CMD, _number(Command.PING_TRAFFIC_SENT_NOTIFY, sent))


def ack(received: int, window: int, cookie: bytes) -> bytes:
    """Receiver to its direct sender. [MS-RPCH] 2.2.4.50"""
    return ACK.pack(5, 0, 20, 3, _DREP, ACK_SIZE, 0, 0, Flags.OTHER_CMD, 1, 1, received, window, cookie)


def ack_forwarded(destination: Destination, received: int, window: int, cookie: bytes) -> bytes:
    """Receiver to a sender that it cannot reach directly. [MS-RPCH] 2.2.4.51"""
    return ACK_FORWARDED.pack(
        *(5, 0, 20, 3, _DREP, ACK_FORWARDED_SIZE, 0, 0, Flags.OTHER_CMD, 2),
        *(Command.DESTINATION, destination, 1, received, window, cookie),
    )


# Reading --------------------------------------------------------------------------------------------------

_V, _K, _W, _T, _D = (
    Command.VERSION,
    Command.COOKIE,
    Command.RECEIVE_WINDOW_SIZE,
    Command.CONNECTION_TIMEOUT,
    Command.DESTINATION,
)
_NONE, _RECYCLE, _IN, _OUT, _OTHER = (
    int(Flags.NONE),
    int(Flags.RECYCLE_CHANNEL),
    int(Flags.IN_CHANNEL),
    int(Flags.OUT_CHANNEL),
    int(Flags.OTHER_CMD),
)
_SHAPES: Final[dict[tuple[int, ...], Kind]] = {
    (_NONE, _V, _K, _K, _W): Kind.CONN_A1,
    (_OUT, _V, _K, _K, Command.CHANNEL_LIFETIME, _W): Kind.CONN_A2,
    (_NONE, _T): Kind.CONN_A3,
    (
        *(_NONE, _V, _K, _K),
        *(Command.CHANNEL_LIFETIME, Command.CLIENT_KEEPALIVE, Command.ASSOCIATION_GROUP_ID),
    ): Kind.CONN_B1,
    (
        *(_IN, _V, _K, _K, _W, _T),
        *(Command.ASSOCIATION_GROUP_ID, Command.CLIENT_ADDRESS),
    ): Kind.CONN_B2,
    (_NONE, _W, _V): Kind.CONN_B3,
    (_NONE, _V, _W, _T): Kind.CONN_C,
    (_RECYCLE, _V, _K, _K, _K): Kind.IN_A1,
    (_IN | _RECYCLE, _V, _K, _K, _K, _W, _T): Kind.IN_R1_A2,
    (_NONE, _D, _V, _W, _T): Kind.IN_R1_A4,
    (_NONE, _D): Kind.IN_R2_A4,
    (_NONE, _K): Kind.COOKIE,
    (_NONE, Command.EMPTY): Kind.EMPTY,
    (_NONE, _W): Kind.WINDOW,
    (_RECYCLE, _D): Kind.OUT_A1,
    (_RECYCLE, _V, _K, _K, _K, _W): Kind.OUT_A3,
    (_OUT | _RECYCLE, _V, _K, _K, _K, Command.CHANNEL_LIFETIME, _W, _T): Kind.OUT_R1_A4,
    (_OUT, _D, _V, _T): Kind.OUT_R1_A6,
    (_OUT, _D, _K): Kind.OUT_A8,
    (_OUT, _D, _K, _V): Kind.OUT_R2_A7,
    (_NONE, Command.ANCE): Kind.ANCE,
    (_NONE, _D, Command.ANCE): Kind.OUT_R2_A6,
    (_NONE, Command.NEGATIVE_ANCE): Kind.NEGATIVE_ANCE,
    (int(Flags.EOF), Command.ANCE): Kind.OUT_R2_B3,
    (int(Flags.PING), Command.EMPTY): Kind.OUT_R2_C1,
    (int(Flags.PING), Command.PADDING): Kind.OUT_R2_C1,
    (_OTHER, Command.CLIENT_KEEPALIVE): Kind.KEEP_ALIVE,
    (_OTHER, Command.PING_TRAFFIC_SENT_NOTIFY): Kind.PING_NOTIFY,
    (int(Flags.ECHO),): Kind.ECHO,
    (int(Flags.PING),): Kind.PING,
    (_OTHER, Command.FLOW_CONTROL_ACK): Kind.ACK,
    (_OTHER, _D, Command.FLOW_CONTROL_ACK): Kind.ACK_FORWARDED,
}


def parse(pdu: bytes | memoryview) -> Rts:
    """Read one whole RTS PDU. Raises RemoteProtocolError for anything the table does not have. RH-40

    The work is bounded by the size of the PDU, whatever its counts say. A PDU that carries Destination may have a
    shape we do not know (`Kind.OTHER`): it is somebody else's to understand.
    """
    size = len(pdu)
    if size < HEADER_SIZE:
        raise RemoteProtocolError(f"RTS PDU of {size} bytes, wanted at least {HEADER_SIZE}")
    major, minor, ptype, pfc, drep, length, auth, call_id, flags, count = _HEADER.unpack_from(pdu)
    if (major, minor, ptype, pfc, drep, auth, call_id) != (5, 0, RTS_TYPE, _FIRST_LAST, _DREP, 0, 0):
        raise RemoteProtocolError(f"RTS header {bytes(pdu[:16]).hex()}")
    if length != size or size > MAX_RTS:
        raise RemoteProtocolError(f"RTS PDU says {length} bytes, has {size}")
    if count > (size - HEADER_SIZE) >> 2:
        raise RemoteProtocolError(f"{count} commands in {size} bytes")
    rts = Rts(Kind.OTHER)
    shape = [flags]
    at = HEADER_SIZE
    for _ in range(count):
        at = _command(pdu, at, size, rts, shape)
    if at != size:
        raise RemoteProtocolError(f"{size - at} bytes behind the last of {count} commands")
    kind = _SHAPES.get(tuple(shape))
    if kind is not None:
        rts.kind = kind
    elif rts.destination is None:
        raise RemoteProtocolError(f"no RTS PDU has flags {flags:#x} and commands {shape[1:]}")
    return rts


def _command(pdu: bytes | memoryview, at: int, size: int, rts: Rts, shape: list[int]) -> int:
    """Read the command at `at`; returns where it ends."""
    if size - at < 4:
        raise RemoteProtocolError(f"command at {at} of {size} bytes")
    command = _WORD.unpack_from(pdu, at)[0]
    if command >= len(_FIXED):
        raise RemoteProtocolError(f"RTS command {command:#x}")
    shape.append(command)
    length = _FIXED[command]
    if not length:
        if size - at < 8:
            raise RemoteProtocolError(f"command {command} at {at} of {size} bytes")
        word = _WORD.unpack_from(pdu, at + 4)[0]
        if command == Command.PADDING:
            length = 8 + word
        elif word in _ADDRESS_SIZES:
            length, address = _ADDRESS_SIZES[word]
            rts.client_address = bytes(pdu[at + 8 : at + 8 + address])
        else:
            raise RemoteProtocolError(f"client address of type {word}")
    if length > size - at:
        raise RemoteProtocolError(f"command {command} of {length} bytes at {at} of {size}")
    if length == 8 and command != Command.PADDING:
        _take_number(rts, command, _WORD.unpack_from(pdu, at + 4)[0])
    elif command == Command.COOKIE:
        rts.cookies.append(bytes(pdu[at + 4 : at + 20]))
    elif command == Command.ASSOCIATION_GROUP_ID:
        rts.group = bytes(pdu[at + 4 : at + 20])
    elif command == Command.FLOW_CONTROL_ACK:
        received, window = _PAIR.unpack_from(pdu, at + 4)
        rts.ack = received, window, bytes(pdu[at + 12 : at + 28])
    return at + length


def _take_number(rts: Rts, command: int, value: int) -> None:
    """Keep the value of a command of one number. Raises RemoteProtocolError outside its range."""
    low, high = 0, 0xFFFF_FFFF
    if command == Command.RECEIVE_WINDOW_SIZE:
        low, high = MIN_WINDOW, MAX_WINDOW
        rts.window = value
    elif command == Command.CONNECTION_TIMEOUT:
        low, high = MIN_TIMEOUT_MS, MAX_TIMEOUT_MS
        rts.timeout = value
    elif command == Command.CHANNEL_LIFETIME:
        low, high = MIN_LIFETIME, MAX_LIFETIME
        rts.lifetime = value
    elif command == Command.CLIENT_KEEPALIVE:
        value = value or DEFAULT_KEEPALIVE_MS
        low = MIN_KEEPALIVE_MS
        rts.keepalive = value
    elif command == Command.VERSION:
        rts.version = value  # "MUST ignore it on receiving": only the minimum goes on
    elif command == Command.DESTINATION:
        high = Destination.OUT_PROXY
        rts.destination = value
    else:
        rts.sent = value
    if not low <= value <= high:
        raise RemoteProtocolError(f"RTS command {command} says {value}, wanted {low} to {high}")
