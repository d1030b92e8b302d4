"""Live cores of both roles without sockets: what the fuzz tests feed.

    with a running loop:  async with LiveHost(state, anonymous=True) as host: ...
    shell = host.connection("rpc", seed)     the server's side of one connection, all services behind it
    shell.take(data); shell.settle()         bytes in, coroutines run to their end
    outcome = shell.outcome                  answered, fault, nak, closed or ignored

Every connection sees the same randomness and time of day, so that a recorded session, NTLM included, is
understood again when it is replayed byte by byte.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import patch

from oxid.auth import Authenticator, FailureLimiter, MemoryAccountStore, ServerNames
from oxid.com.objref import ExtendedObjRef, HandlerObjRef, StandardObjRef, decode_objref
from oxid.com.reference_table import ExportedObject
from oxid.config import Address, HostOptions
from oxid.errors import NotSupported
from oxid.host import Host
from oxid.rpc.calls import ServerCall
from oxid.rpc.interface import spec_of
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import PacketType
from oxid.rpc.server_connection import ServerConnection
from oxid.rpc.server_core import ServerCore
from oxid.runtime.dispatch import set_current_call
from oxid.runtime.server import Endpoint, RpcServer
from oxid.samples import sample_classes, sample_interfaces
from oxid.samples.calculator import Calculator, ICalculator
from oxid.world import World

USER, PASSWORD = "admin", "secret"
RPC_PORT, OBJECT_PORT = 135, 49664
PING_PERIOD = 120.0
TIGHT = Limits(
    max_request=2048,
    max_fragments=4,
    max_pending_calls=1,
    max_presentation_contexts=2,
    max_security_contexts=1,
    max_handles=1,
)
MAX_STEPS = 10_000
"""Coroutine steps one case may take; a case that takes more hangs."""


class FuzzClock:
    """Time that the tests move; the time of day stands still, so that NTLM's bytes come again."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def utc(self) -> float:
        return 1_700_000_000.0


class Replayable:
    """Randomness that starts anew with `rewind`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def rewind(self) -> None:
        self._count = 0

    def token(self, size: int) -> bytes:
        self._count += 1
        out = b""
        while len(out) < size:
            text = b"%d %d %d" % (self._seed, self._count, len(out))
            out += hashlib.blake2b(text, digest_size=min(64, max(1, size - len(out)))).digest()
        return out


class Running:
    """A handler's coroutine, turned by hand."""

    def __init__(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> None:
        self.call = call
        self.work = work
        self.waiting: Any = None
        self.cancelled = False
        self.done = False


class Shell(ServerConnection):
    """The server's side of a connection; what it sends is looked at and counted, or kept."""

    __slots__ = ("_left", "_ready", "_steps", "gone", "keep", "kinds", "sent", "sent_size")

    def __init__(self, core: ServerCore, host: str) -> None:
        super().__init__(core, (host, 40000), host, b"135\0")
        self.keep = False
        self.sent: list[bytes] = []
        self.sent_size = 0
        self.kinds: Counter[int] = Counter()
        self.gone = False
        self._left = 0
        self._steps = 0
        self._ready: list[Running | Callable[[], None]] = []

    # What a shell does

    def flush(self) -> None:
        out, self.outgoing = self.outgoing, None
        for buffer in out or ():
            if self._left == 0:  # the beginning of a PDU
                assert len(buffer) >= 16, f"a PDU of {len(buffer)} bytes was sent"
                assert buffer[0] == 5, "something that is no PDU was sent"
                self.kinds[buffer[2]] += 1
                self._left = buffer[8] | buffer[9] << 8
            self._left -= len(buffer)
            assert self._left >= 0, "a PDU longer than its frag_length was sent"
            self.sent_size += len(buffer)
            if self.keep:
                self.sent.append(bytes(buffer))

    def hang_up(self) -> None:
        self.gone = True

    def start(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> Running:
        running = Running(call, work)
        self._ready.append(running)
        return running

    def cancel_call(self, running: Running) -> None:
        running.cancelled = True
        if running not in self._ready:
            self._ready.append(running)

    def step_elsewhere(self, work: Callable[[], bytes | None], then: Any) -> None:
        def step() -> None:
            try:
                token = work()
            except Exception as error:
                then(None, error)
            else:
                then(token, None)

        self._ready.append(step)

    # Turning it

    def take(self, data: bytes) -> None:
        """Bytes from the peer, as a transport hands them over."""
        self.receive(data)
        tail = self._tail
        assert tail is None or len(tail) <= 1 << 21, f"{len(tail)} bytes are kept of a PDU"
        partial = self._partial
        assert partial is None or partial.size <= self.core.limits.max_request, "a request grows too big"
        if self._ready:
            self.settle()

    def settle(self, *, wake: bool = False) -> None:
        """Run what is ready to its end; `wake` lets time pass for what sleeps."""
        sleepers: list[Running] = []
        while self._ready:
            self._steps += 1
            assert self._steps < MAX_STEPS, "the case does not come to an end"
            item = self._ready.pop(0)
            if isinstance(item, Running):
                self._step(item)
                if wake and not item.done and item.waiting is not None:
                    sleepers.append(item)
            else:
                item()
            if wake and not self._ready:
                sleepers += [r for r in (self._calls or {}).values() if not r.done and r not in sleepers]
                for sleeper in sleepers:
                    if sleeper.waiting is not None and not sleeper.waiting.done():
                        sleeper.waiting.set_result(None)
                    if sleeper not in self._ready and not sleeper.done:
                        self._ready.append(sleeper)
                sleepers = []

    def wake(self) -> None:
        """Time passes for whatever sleeps."""
        for running in list((self._calls or {}).values()):
            if not running.done and running not in self._ready:
                if running.waiting is not None and not running.waiting.done():
                    running.waiting.set_result(None)
                self._ready.append(running)
        self.settle(wake=True)

    def _step(self, running: Running) -> None:
        if running.done:
            return
        reply: bytearray | None = None
        error: BaseException | None = None
        try:
            if running.cancelled:
                running.cancelled = False
                running.waiting = running.work.throw(asyncio.CancelledError())
            else:
                running.waiting = running.work.send(None)
        except StopIteration as end:
            reply = end.value
        except BaseException as raised:
            if not isinstance(raised, Exception | asyncio.CancelledError):
                raise
            error = raised
        else:
            return
        finally:
            set_current_call(None)
        running.done = True
        self.finish(running.call, reply, error)

    def end(self) -> None:
        """The transport is gone; whatever ran ends."""
        self.closed(None)
        self.settle()

    @property
    def outcome(self) -> str:
        kinds = self.kinds
        if kinds[PacketType.BIND_NAK]:
            return "nak"
        if self.gone:
            return "closed"
        if kinds[PacketType.FAULT]:
            return "fault"
        return "answered" if kinds else "ignored"


class ForeignObject:
    """What a reference to an object elsewhere becomes: nothing is ever asked of it."""


class NoNetwork:
    """An importer whose objects live nowhere; the references are read as strictly as real ones."""

    def proxy(self, objref: bytes, declared: type[Any] | None) -> Any:
        reference = decode_objref(objref)
        if not isinstance(reference, StandardObjRef | HandlerObjRef | ExtendedObjRef):
            raise NotSupported("custom marshalling is not known here")
        return ForeignObject()

    def marshal(self, proxy: Any, *, hand_over: bool = False) -> bytes | None:
        return None

    async def adopt(self, proxies: list[Any]) -> None:
        return None

    async def dismiss(self, proxies: list[Any]) -> None:
        return None

    def abandon(self, proxies: list[Any]) -> None:
        return None


class LiveHost(Host):
    """The host as it is, on no network: every service of both its servers is registered."""

    def __init__(self, state: Path, *, anonymous: bool) -> None:
        """`anonymous` lets anybody in, within the usual bounds; the other host's are met by many a case."""
        self.tight = not anonymous
        self.clock = FuzzClock()
        world = World(self.clock, Replayable(1))
        options = HostOptions(
            state=state,
            rpc=(Address("127.0.0.1", RPC_PORT),),
            ping_period=PING_PERIOD,
            insecure_anonymous=anonymous,
        )
        super().__init__(options, world, classes=sample_classes(), interfaces=sample_interfaces())
        self.replayable = Replayable(2)
        self.cores: dict[str, ServerCore] = {}

    async def _start(self) -> None:
        async def nowhere(
            server: RpcServer,
            host: str,
            wanted: int | tuple[int, int] = 0,
            *,
            avoid: Collection[int] = (),
            protseq: str = "ncacn_ip_tcp",
        ) -> Endpoint:
            return Endpoint(host, RPC_PORT if server is self.rpc_server else OBJECT_PORT)

        # everything is as it is, save that nobody hears
        with patch.object(RpcServer, "listen", nowhere):
            await super()._start()
        self.exporter.importer = NoNetwork()
        world = World(self.clock, self.replayable, self.world.ledger)
        accounts = MemoryAccountStore({USER: PASSWORD}, admins={USER})
        acceptors = Authenticator(
            accounts, world=world, names=ServerNames(computer="FUZZ"), limiter=FailureLimiter()
        )
        self.cores = {"rpc": self.rpc_server.core, "object": self.object_server.core}
        for core in self.cores.values():
            core.world = core.associations.world = world
            core.acceptors = acceptors
            if self.tight:
                core.limits = TIGHT
                core.associations.max_handles = TIGHT.max_handles
        self.calculator: ExportedObject = self.exporter.export(Calculator(), pinned=True)
        self.reference = self.exporter.marshal(self.calculator.target, spec_of(ICalculator))

    @property
    def intact(self) -> bool:
        """Whether the object that recorded sessions call is still there."""
        return self.exporter.table.object(self.calculator.oid) is self.calculator

    def connection(self, core: str, host: str = "10.0.0.1", *, rewind: bool = True) -> Shell:
        if rewind:
            self.replayable.rewind()
        return Shell(self.cores[core], host)

    def forget(self) -> None:
        """Let the leases of whatever activations left behind run out."""
        resolver = self.service.resolver
        for _ in range(8):
            self.clock.time += 4 * PING_PERIOD
            now = self.clock.now()
            while (due := resolver.next_deadline()) is not None and due <= now:
                resolver.expire(now)
            for question in resolver.questions():
                verdicts = self.exporter.table.reclaim(question.oids, now, PING_PERIOD)
                resolver.answered(question, [verdicts[oid] for oid in question.oids], now)
