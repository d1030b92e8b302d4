"""RPC PDUs written and read byte by byte, and both ends to throw them at: an RpcServer, or a script.

    async with arena() as there:                  an RpcServer with Echo and the probe interface below
        wire = await there.connect()              a plain TCP connection to it
        await wire.send(bind(element(0, ECHO, NDR20)))
        ack = await wire.pdu()
        await wire.nothing()                      nothing was answered, the connection lives
        await wire.gone()                         the server hung up

Nothing here uses oxid's own encoders: what the tests compare with is written down a second time.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from oxid import auth
from oxid.errors import fault
from oxid.rpc.calls import ServerCall
from oxid.rpc.interface import InterfaceSpec
from oxid.rpc.limits import Limits
from oxid.runtime.server import RpcServer
from oxid.samples.echo import Echo, IEcho
from oxid.world import World

# Syntaxes as they stand on the wire: UUID, major version, minor version
NDR20 = bytes.fromhex("045d888a eb1c c911 9fe8 08002b104860 0200 0000")
NDR64 = bytes.fromhex("33057171 babe 3749 8319 b5dbef9ccc36 0100 0000")
ECHO = bytes.fromhex("c55ea160 e84d d711 a637 005056a20182 0100 0000")
MANAGEMENT = bytes.fromhex("80bda8af 8a7d c911 bef4 08002b102989 0100 0000")
PROBE = bytes.fromhex("0b1e5b0f 0c0f 4d4e 8f01 6f7869640001 0100 0000")
PROBE_UUID = UUID("0f5b1e0b-0f0c-4e4d-8f01-6f7869640001")
GUARDED = bytes.fromhex("0b1e5b0f 0c0f 4d4e 8f01 6f7869640002 0100 0000")
GUARDED_UUID = UUID("0f5b1e0b-0f0c-4e4d-8f01-6f7869640002")
UNKNOWN = bytes.fromhex("11111111 2222 3333 4444 555555555555 0100 0000")
ZERO = bytes(20)

REQUEST, RESPONSE, FAULT, BIND, BIND_ACK, BIND_NAK = 0, 2, 3, 11, 12, 13
ALTER, ALTER_RESP, AUTH3, SHUTDOWN, CO_CANCEL, ORPHANED = 14, 15, 16, 17, 18, 19
FIRST, LAST, HEADER_SIGN, PENDING_CANCEL, BIT_08 = 0x01, 0x02, 0x04, 0x04, 0x08
CONC_MPX, DID_NOT_EXECUTE, MAYBE, OBJECT = 0x10, 0x20, 0x40, 0x80
WHOLE = FIRST | LAST

# Statuses of faults
ACCESS_DENIED = 5
NO_CALL_ACTIVE = 0x6BD
BAD_STUB = 0x6F7
SEC_PKG_ERROR = 0x721
OP_RANGE = 0x1C01_0002
UNKNOWN_IF = 0x1C01_0003
PROTO_ERROR = 0x1C01_000B
CANCELLED = 0x1C00_000D
UNSPECIFIED = 0x1C00_0012

NTLM, SPNEGO, KERBEROS = 10, 9, 16
NONE, CONNECT, CALL, PACKET, INTEGRITY, PRIVACY = 1, 2, 3, 4, 5, 6

USER = auth.Password("user", "pass word")
OTHER_USER = auth.Password("other", "word pass")
PATIENCE_S = 10


def feature(bits: int) -> bytes:
    """Bind-time feature syntax: 6cb71c2c-9812-4540- and eight bytes of bits, version 1.0."""
    return bytes.fromhex("2c1cb76c 1298 4045") + bits.to_bytes(8, "little") + bytes.fromhex("0100 0000")


# -- Writing ------------------------------------------------------------------------------------------


def pdu(ptype: int, body: bytes, *, flags: int = WHOLE, call_id: int = 1, auth_length: int = 0) -> bytes:
    """16 bytes of header (version 5.0, little-endian, ASCII, IEEE) and a body."""
    return struct.pack("<4BIHHI", 5, 0, ptype, flags, 0x10, 16 + len(body), auth_length, call_id) + body


def element(context_id: int, abstract: bytes, *transfers: bytes) -> bytes:
    return struct.pack("<HBx", context_id, len(transfers)) + abstract + b"".join(transfers)


def bind(
    *elements: bytes,
    ptype: int = BIND,
    flags: int = WHOLE,
    call_id: int = 1,
    xmit: int = 5840,
    recv: int = 5840,
    group: int = 0,
    auth: bytes = b"",
    padding: bytes = b"",
) -> bytes:
    """A bind or alter_context; `auth` is sec_trailer and token."""
    body = struct.pack("<HHIBxxx", xmit, recv, group, len(elements)) + b"".join(elements) + padding + auth
    return pdu(ptype, body, flags=flags, call_id=call_id, auth_length=max(0, len(auth) - 8))


def alter(*elements: bytes, **options: Any) -> bytes:
    return bind(*elements, ptype=ALTER, **options)


def auth3(auth: bytes, *, flags: int = WHOLE, call_id: int = 1, padding: bytes = b"") -> bytes:
    return pdu(
        AUTH3, bytes(4) + padding + auth, flags=flags, call_id=call_id, auth_length=max(0, len(auth) - 8)
    )


def sec_trailer(auth_type: int, level: int, pad: int, context_id: int) -> bytes:
    return struct.pack("<BBBxI", auth_type, level, pad, context_id)


def request(
    stub: bytes = b"",
    *,
    opnum: int = 0,
    call_id: int = 2,
    context_id: int = 0,
    flags: int = WHOLE,
    object: bytes = b"",
    hint: int | None = None,
    auth: bytes = b"",
) -> bytes:
    flags |= OBJECT if object else 0
    head = struct.pack("<IHH", len(stub) if hint is None else hint, context_id, opnum)
    body = head + object + stub + auth
    return pdu(REQUEST, body, flags=flags, call_id=call_id, auth_length=max(0, len(auth) - 8))


def cancel(call_id: int) -> bytes:
    return pdu(CO_CANCEL, b"", call_id=call_id)


def orphaned(call_id: int) -> bytes:
    return pdu(ORPHANED, b"", call_id=call_id)


def response(
    stub: bytes, call_id: int, *, flags: int = WHOLE, context_id: int = 0, hint: int | None = None
) -> bytes:
    head = struct.pack("<IHBx", len(stub) if hint is None else hint, context_id, 0)
    return pdu(RESPONSE, head + stub, flags=flags, call_id=call_id)


def fault_pdu(status: int, call_id: int, *, flags: int = WHOLE, context_id: int = 0) -> bytes:
    body = struct.pack("<IHBBII", 32, context_id, 0, 0, status, 0)
    return pdu(FAULT, body, flags=flags, call_id=call_id)


def bind_ack(
    *results: tuple[int, int, bytes],
    ptype: int = BIND_ACK,
    flags: int = WHOLE | CONC_MPX,
    call_id: int = 1,
    size: int = 5840,
    group: int = 0x53F0,
    address: bytes = b"135\0",
) -> bytes:
    body = struct.pack("<HHIH", size, size, group, len(address)) + address
    body += bytes(-len(body) % 4) + struct.pack("<Bxxx", len(results))
    body += b"".join(struct.pack("<HH", result, reason) + syntax for result, reason, syntax in results)
    return pdu(ptype, body, flags=flags, call_id=call_id)


def big_endian(message: bytes) -> bytes:
    """A request or response of ours with its header fields the other way round; the stub is left alone."""
    version, minor, ptype, flags, _, length, auth_length, call_id = struct.unpack_from("<4BIHHI", message)
    hint, context_id, last = struct.unpack_from("<IHH", message, 16)
    head = struct.pack(">4B", version, minor, ptype, flags) + bytes.fromhex("00 00 0000")
    head += struct.pack(">HHI", length, auth_length, call_id)
    tail = (
        struct.pack(">IHH", hint, context_id, last)
        if ptype == REQUEST
        else struct.pack(">IHBB", hint, context_id, last & 0xFF, 0)
    )
    return head + tail + message[24:]


# -- Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pdu:
    """A PDU the server sent; every field is looked up where the specification has it."""

    raw: bytes

    @property
    def ptype(self) -> int:
        return self.raw[2]

    @property
    def flags(self) -> int:
        return self.raw[3]

    @property
    def auth_length(self) -> int:
        return self.u16(10)

    @property
    def call_id(self) -> int:
        return self.u32(12)

    @property
    def hint(self) -> int:
        return self.u32(16)

    @property
    def context_id(self) -> int:
        return self.u16(20)

    @property
    def status(self) -> int:
        return self.u32(24)

    @property
    def stub(self) -> bytes:
        """The stub of a response without protection."""
        return self.raw[24:]

    @property
    def trailer(self) -> tuple[int, int, int, int]:
        """auth_type, level, padding and context id of the sec_trailer."""
        found: tuple[int, int, int, int] = struct.unpack_from("<BBBxI", self.raw, self.trailer_at)
        return found

    @property
    def trailer_at(self) -> int:
        return len(self.raw) - self.auth_length - 8

    @property
    def token(self) -> bytes:
        return self.raw[len(self.raw) - self.auth_length :]

    # bind_ack and alter_context_resp

    @property
    def sizes(self) -> tuple[int, int]:
        return self.u16(16), self.u16(18)

    @property
    def group(self) -> int:
        return self.u32(20)

    @property
    def address(self) -> bytes:
        return self.raw[26 : 26 + self.u16(24)]

    @property
    def results(self) -> list[tuple[int, int, bytes]]:
        at = (26 + self.u16(24) + 3) & ~3
        count, at = self.raw[at], at + 4
        starts = [at + 24 * i for i in range(count)]
        return [(self.u16(i), self.u16(i + 2), self.raw[i + 4 : i + 24]) for i in starts]

    # bind_nak

    @property
    def reason(self) -> int:
        return self.u16(16)

    def u16(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + 2], "little")

    def u32(self, at: int) -> int:
        return int.from_bytes(self.raw[at : at + 4], "little")

    def __repr__(self) -> str:
        return f"<Pdu type {self.ptype} {self.raw.hex(' ', -4)}>"


ACCEPTED = (0, 0, NDR20)
NO_ABSTRACT = (2, 1, ZERO)
NO_TRANSFER = (2, 2, ZERO)


def check_fault(
    answer: Pdu | None, status: int, call_id: int, context_id: int = 0, *, flags: int = WHOLE
) -> None:
    """All 32 bytes of a fault without extended error information."""
    assert answer is not None, "the server hung up without a fault"
    assert answer.ptype == FAULT, answer
    assert (hex(answer.status), answer.call_id, answer.context_id, hex(answer.flags)) == (
        hex(status),
        call_id,
        context_id,
        hex(flags),
    )
    expected = struct.pack("<4BIHHI", 5, 0, FAULT, flags, 0x10, 32, 0, call_id)
    expected += struct.pack("<IHBBII", 32, context_id, 0, 0, status, 0)
    assert answer.raw == expected


def check_nak(answer: Pdu | None, reason: int, call_id: int = 1) -> None:
    """A bind_nak of 24 bytes that lists version 5.0."""
    assert answer is not None, "the server hung up without a bind_nak"
    assert (answer.ptype, answer.reason) == (BIND_NAK, reason), answer
    assert answer.raw == pdu(
        BIND_NAK, struct.pack("<H", reason) + bytes.fromhex("01 05 00 000000"), call_id=call_id
    )


class Wire:
    """A plain TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.group = 0

    async def send(self, *messages: bytes, piece: int = 1 << 20) -> None:
        data = b"".join(messages)
        for at in range(0, len(data), piece):
            self.writer.write(data[at : at + piece])
            await turns(2 if piece < len(data) else 0)
        await self.writer.drain()

    async def pdu(self) -> Pdu | None:
        """The next PDU; None where the peer hung up."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self.reader.readexactly(16)
                length = struct.unpack_from("<H" if head[4] & 0xF0 else ">H", head, 8)[0]
                return Pdu(head + await self.reader.readexactly(length - 16))
        except ConnectionResetError:
            return None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None

    async def ask(self, *messages: bytes) -> Pdu:
        """Send and read one answer."""
        await self.send(*messages)
        answer = await self.pdu()
        assert answer is not None, "the peer hung up"
        return answer

    async def nothing(self) -> None:
        """The peer is silent and there; both ends share this loop, so a few turns are enough to know."""
        await turns(12)
        assert not self.reader._buffer, Pdu(bytes(self.reader._buffer))  # type: ignore[attr-defined]
        assert not self.reader.at_eof(), "the peer hung up"

    async def gone(self) -> None:
        answer = await self.pdu()
        assert answer is None, answer

    async def bound(self, *elements: bytes, **options: Any) -> Pdu:
        """Bind without security."""
        ack = await self.ask(bind(*(elements or (element(0, PROBE, NDR20),)), **options))
        assert ack.ptype == BIND_ACK, ack
        self.group = ack.group
        return ack

    async def echoes(self, call_id: int = 0x50, context_id: int = 0, **options: Any) -> None:
        """The connection is as good as ever: a call of the probe interface goes through."""
        stub = call_id.to_bytes(8, "big")
        answer = await self.ask(request(stub, call_id=call_id, context_id=context_id, **options))
        assert (answer.ptype, answer.call_id, answer.stub) == (RESPONSE, call_id, stub), answer

    def close(self) -> None:
        self.writer.close()


async def turns(count: int) -> None:
    """Let the loop go round: what was sent to ourselves arrives and is answered."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(true: Callable[[], object]) -> None:
    """Let the loop go round until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0)


# -- The server ---------------------------------------------------------------------------------------


@dataclass
class Probe:
    """The tiny interface: echo (0), a call that waits (1), broken (2), who calls (3), a chosen fault (4)."""

    calls: list[ServerCall] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    def handle(self, call: ServerCall) -> bytearray | Coroutine[Any, Any, bytearray]:
        self.calls.append(call)
        if call.opnum == 1:
            return self.later(call)
        if call.opnum == 2:
            raise RuntimeError("broken on purpose")
        if call.opnum == 3:
            return bytearray(24) + who(call).encode()
        if call.opnum == 4:
            raise fault(int.from_bytes(call.stub[:4], "little"), executed=call.stub[4:] != b"not")
        if call.opnum == 5:
            return bytearray(24) + bytes(int.from_bytes(call.stub[:4], "little"))
        if call.opnum > 5:
            raise fault(OP_RANGE, executed=False)
        return bytearray(24) + call.stub

    async def later(self, call: ServerCall) -> bytearray:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return bytearray(24) + call.stub


def who(call: ServerCall) -> str:
    """Everything a handler may know of its caller."""
    imp = "" if call.security is None else f" {call.security.impersonation.name}"
    return f"{call.principal} {call.auth_type} {call.level}{imp}"


@dataclass
class Arena:
    """A server, its probe, and the connections tests made to it."""

    server: RpcServer
    world: World
    port: int
    probe: Probe
    wires: list[Wire] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    async def connect(self, host: str = "127.0.0.1") -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(host, 0))
        wire = Wire(reader, writer)
        self.wires.append(wire)
        return wire

    async def bound(self, *elements: bytes, **options: Any) -> Wire:
        wire = await self.connect()
        await wire.bound(*elements, **options)
        return wire


def accounts() -> Any:
    return auth.MemoryAccountStore({"user": "pass word", "other": "word pass"})


@asynccontextmanager
async def arena(
    *, limits: Limits | None = None, keytab: Any = None, echo: bool = True, **guarded: Any
) -> AsyncIterator[Arena]:
    """`guarded` are the options under which the second tiny interface is registered."""
    world = World.real()
    authenticator = auth.Authenticator(accounts(), world=world, keytab=keytab)
    server = RpcServer(world, limits=limits, authenticator=authenticator)
    probe = Probe()
    if echo:
        server.register(IEcho, Echo())
    server.register(InterfaceSpec(PROBE_UUID, (1, 0), "probe", False, {}), handler=probe.handle)
    server.register(
        InterfaceSpec(GUARDED_UUID, (1, 3), "guarded", False, {}), handler=probe.handle, **guarded
    )
    endpoint = await server.listen("127.0.0.1")
    there = Arena(server, world, endpoint.port, probe)
    try:
        yield there
    finally:
        for context in there.contexts:
            context.close()
        for wire in there.wires:
            wire.close()
        await server.aclose()
        for wire in there.wires:
            try:
                await wire.writer.wait_closed()
            except OSError:
                pass  # the server was quicker


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(told())


# -- The other role: a scripted server ------------------------------------------------------------------


@asynccontextmanager
async def scripted(script: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server that plays a script on each connection; its port. A script that fails fails the test."""
    failures: list[BaseException] = []
    running: set[asyncio.Task[Any]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(Wire(reader, writer))
        except Exception as error:
            failures.append(error)
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass
            running.discard(task)

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            await asyncio.wait({task}, timeout=PATIENCE_S)
        await server.wait_closed()
    if failures:
        raise failures[0]
