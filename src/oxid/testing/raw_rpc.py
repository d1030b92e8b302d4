"""RPC cores turned by hand, and PDUs made piece by piece: what tests of the wire need.

server = TurnedServer(register)            a server core without I/O
answers = server.take(bind(...))           its PDUs for the bytes given
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from oxid.errors import fault
from oxid.rpc import pdu as p
from oxid.rpc.calls import ServerCall
from oxid.rpc.client_connection import ClientConnection
from oxid.rpc.interface import InterfaceSpec
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import ContextElement, PacketType, SyntaxId
from oxid.rpc.presentation import NDR20, Registration
from oxid.rpc.server_connection import ServerConnection, Stepped
from oxid.rpc.server_core import Acceptors, ServerCore
from oxid.world import World

ECHO_ID = UUID("60a15ec5-4de8-11d7-a637-005056a20182")
ECHO = SyntaxId(ECHO_ID, 1)
OTHER = SyntaxId(UUID("11111111-2222-3333-4444-555555555555"), 0)


class Pdu(NamedTuple):
    """One PDU apart."""

    header: p.Header
    raw: bytes

    @property
    def ptype(self) -> int:
        return self.header.ptype

    @property
    def flags(self) -> int:
        return self.header.flags

    @property
    def call_id(self) -> int:
        return self.header.call_id

    @property
    def status(self) -> int:
        return p.parse_fault(self.raw, self.header)[0]

    @property
    def context_id(self) -> int:
        return p.parse_call(self.raw, self.header)[1]

    @property
    def stub(self) -> bytes:
        return self.raw[24:]

    @property
    def reason(self) -> int:
        return p.parse_bind_nak(self.raw, self.header)

    @property
    def ack(self) -> p.BindAck:
        trailer = p.parse_trailer(self.raw, self.header, 16, aligned=False)
        return p.parse_bind_ack(self.raw, self.header, len(self.raw) if trailer is None else trailer.at)


def pdus(data: bytes) -> list[Pdu]:
    """Cut a byte stream into PDUs."""
    found, at = [], 0
    while at < len(data):
        header = p.parse_header(data, at)
        found.append(Pdu(header, data[at : at + header.frag_length]))
        at += header.frag_length
    return found


def element(context_id: int = 0, abstract: SyntaxId = ECHO, *transfers: SyntaxId) -> ContextElement:
    return ContextElement(context_id, abstract, transfers or (NDR20,))


def bind(
    *elements: ContextElement,
    call_id: int = 1,
    flags: int = p.FIRST | p.LAST | p.CONC_MPX,
    size: int = 5840,
    recv: int | None = None,
    group: int = 0,
    alter: bool = False,
) -> bytes:
    kind = PacketType.ALTER_CONTEXT if alter else PacketType.BIND
    made = p.bind(kind, flags, call_id, size, group, elements)
    if recv is not None:
        made[18:20] = recv.to_bytes(2, "little")
    return bytes(made)


def request(
    stub: bytes = b"",
    *,
    opnum: int = 0,
    call_id: int = 2,
    context_id: int = 0,
    flags: int = p.FIRST | p.LAST,
    object: bytes = b"",
    hint: int | None = None,
) -> bytes:
    if object:
        flags |= p.OBJECT_UUID
    word = p.VERSION | flags << 24
    length = 24 + len(object) + len(stub)
    head = p.REQUEST.pack(
        word, 0x10, length, 0, call_id, len(stub) if hint is None else hint, context_id, opnum
    )
    return head + object + stub


def cancel(call_id: int) -> bytes:
    return bytes(p.header_only(PacketType.CO_CANCEL, call_id))


def orphaned(call_id: int) -> bytes:
    return bytes(p.header_only(PacketType.ORPHANED, call_id))


def echo_handler(call: ServerCall) -> Any:
    """Answers the stub it got; operation 1 as a coroutine, 2 fails, above 9 there is none."""
    if call.opnum == 1:

        async def later() -> bytearray:
            return bytearray(24) + call.stub

        return later()
    if call.opnum == 2:
        raise RuntimeError("broken")
    if call.opnum > 9:
        raise fault(0x1C01_0002, executed=False)
    return bytearray(24) + call.stub


def echo_registration(handler: Callable[[ServerCall], Any] = echo_handler, **options: Any) -> Registration:
    return Registration(InterfaceSpec(ECHO_ID, (1, 0), "echo", False, {}), handler, **options)


_turned: list[TurnedConnection] = []


def close_turned() -> None:
    """End every connection that a test turned; for a fixture."""
    while _turned:
        connection = _turned.pop()
        if connection.open:
            connection.closed()


class TurnedConnection(ServerConnection):
    """A server connection whose transport is two lists."""

    __slots__ = ("hung_up", "open", "sent", "started", "steps")

    def __init__(self, core: ServerCore, peer: Any = ("192.0.2.1", 5), identity: Any = "192.0.2.1") -> None:
        super().__init__(core, peer, identity, b"135\0")
        self.sent = bytearray()
        self.hung_up = False
        self.started: dict[int, tuple[ServerCall, Coroutine[Any, Any, bytearray]]] = {}
        self.steps: list[tuple[Callable[[], bytes | None], Stepped]] = []
        self.open = True
        _turned.append(self)

    def closed(self, error: BaseException | None = None) -> None:
        self.open = False
        super().closed(error)

    def flush(self) -> None:
        for buffer in self.outgoing or ():
            self.sent += buffer
        self.outgoing = None

    def hang_up(self) -> None:
        self.hung_up = True

    def start(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> Any:
        self.started[call.call_id] = call, work
        return call.call_id

    def cancel_call(self, running: Any) -> None:
        call, work = self.started.pop(running)
        work.close()
        self.finish(call, None, CancelledError())

    def step_elsewhere(self, work: Callable[[], bytes | None], then: Stepped) -> None:
        self.steps.append((work, then))

    def run(self, call_id: int) -> None:
        """Let a started coroutine end."""
        call, work = self.started.pop(call_id)
        try:
            work.send(None)
        except StopIteration as end:
            self.finish(call, end.value)
        else:
            raise AssertionError("the coroutine waits")

    def take(self, data: bytes, piece: int = 1 << 20) -> list[Pdu]:
        """Give bytes in pieces, return what is answered."""
        for at in range(0, len(data), piece):
            self.receive(data[at : at + piece])
        answered, self.sent = bytes(self.sent), bytearray()
        return pdus(answered)


@dataclass
class TurnedServer:
    """A server core and a connection to it."""

    world: World = field(default_factory=World.real)
    limits: Limits = field(default_factory=Limits)
    acceptors: Acceptors | None = None
    registration: Registration = field(default_factory=echo_registration)

    def __post_init__(self) -> None:
        self.core = ServerCore(self.world, self.limits, self.acceptors)
        self.core.registry.add(self.registration)

    def connect(self, host: str = "192.0.2.1") -> TurnedConnection:
        return TurnedConnection(self.core, (host, 5), host)

    def bound(self, flags: int = p.FIRST | p.LAST | p.CONC_MPX, **options: Any) -> TurnedConnection:
        connection = self.connect()
        (answer,) = connection.take(bind(element(), flags=flags, **options))
        assert answer.ptype == PacketType.BIND_ACK
        return connection


class Waiter:
    """A future that needs no loop."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self.result, self._done = result, True

    def set_exception(self, error: BaseException) -> None:
        self.error, self._done = error, True


class TurnedClient(ClientConnection):
    """A client connection whose transport is a list."""

    __slots__ = ("hung_up", "sent")

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits or Limits())
        self.sent = bytearray()
        self.hung_up = False
        self.write = self._write
        self.write_all = lambda buffers: self._write(b"".join(buffers))
        self.make_waiter = Waiter

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def hang_up(self) -> None:
        self.hung_up = True

    def taken(self) -> bytes:
        data, self.sent = bytes(self.sent), bytearray()
        return data
