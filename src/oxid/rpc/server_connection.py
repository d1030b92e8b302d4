"""One connection of an RPC server, without I/O: bytes in, calls to handlers, bytes out. [MS-RPCE] 3.3.3

    connection = SomeShell(core, peer, identity, secondary_address)
    connection.receive(data)          handlers of complete requests run inside; replies gather in `outgoing`
    connection.finish(call, reply)    the answer of a handler that was a coroutine
    connection.closed(error)          the transport is gone: calls are cancelled, the association is left

A shell overrides `flush`, `hang_up`, `start`, `cancel_call`, `step_elsewhere`, `pause`, `resume`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from oxid.errors import RemoteProtocolError
from oxid.rpc import pdu as p
from oxid.rpc.calls import ServerCall
from oxid.rpc.faults import fault_of
from oxid.rpc.fragments import Partial, split, split_protected
from oxid.rpc.framing import DEAF, FULL, HELD, Buffer, PduStream
from oxid.rpc.pdu import (
    LITTLE_ENDIAN,
    REQUEST,
    WORD_LAST_REQUEST,
    WORD_MIDDLE_REQUEST,
    WORD_OBJECT_REQUEST,
    WORD_REQUEST,
    WORD_RESPONSE,
    Header,
    PacketType,
)
from oxid.rpc.presentation import NO_CONTEXTS, Contexts
from oxid.rpc.requests import Refused
from oxid.rpc.security import (
    LEVEL_PKT,
    SecurityEntry,
    check_verification,
)
from oxid.rpc.server_core import ServerCore, log
from oxid.values import status as s

if TYPE_CHECKING:
    from oxid.rpc.association import Association

_unpack: Final = REQUEST.unpack_from
_pack: Final = REQUEST.pack_into
MANY_BUFFERS: Final = 64
"""Buffers that gather before they are sent and the transport is asked whether the peer reads at all."""


_ANSWERED: Final = (PacketType.REQUEST, PacketType.ALTER_CONTEXT, PacketType.AUTH3)
"""PDUs whose errors are told in a fault."""


class ServerConnection(PduStream):
    """The protocol state of one accepted connection."""

    __slots__ = (
        "_auths",
        "_calls",
        "_default_auth",
        "_explicit",
        "_last_call_id",
        "_max_send",
        "_orphans",
        "_partial",
        "_plain",
        "_sole",
        "_waiting",
        "association",
        "concurrent",
        "contexts",
        "core",
        "features",
        "header_signing",
        "identity",
        "peer",
        "secondary_address",
        "stalled",
    )

    def __init__(self, core: ServerCore, peer: Any, identity: object, secondary_address: bytes) -> None:
        super().__init__(core.limits.max_fragment)
        self.core = core
        self.peer = peer
        self.identity = identity
        self.secondary_address = secondary_address
        self.association: Association | None = None
        self.contexts: Contexts = NO_CONTEXTS
        self.concurrent = False
        self.features = 0
        self.header_signing = False
        self._auths: dict[int, SecurityEntry] | None = None
        self._calls: dict[int, Any] | None = None
        self._waiting: list[ServerCall] | None = None
        self._default_auth: SecurityEntry | None = None
        """At level connect: who requests without a sec_trailer come from, see `requests`."""
        self._explicit = False
        self._orphans: set[int] | None = None
        self._partial: Partial | None = None
        self._plain = True
        self._sole: SecurityEntry | None = None
        self._last_call_id = -1
        self._max_send = 2048
        self.stalled = False
        """More waits for the peer than it may: it does not read."""
        core.world.ledger.rpc_connection.enter()

    # What a shell does ----------------------------------------------------------------------------

    def start(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> Any:
        """Run a handler's coroutine; its end is told through `finish`. Returns what `cancel_call` gets."""
        raise NotImplementedError

    def cancel_call(self, running: Any) -> None:
        """End a started coroutine early; `finish` is still told."""
        raise NotImplementedError

    def step_elsewhere(self, work: Callable[[], bytes | None], then: Stepped) -> None:
        """Run a blocking handshake step in a thread; then(token, error) afterwards, on this thread."""
        raise NotImplementedError

    def send(self, buffer: Buffer) -> None:
        """Send one buffer while nothing is in `outgoing`; a shell may have a shorter way."""
        self.outgoing = [buffer]
        self.flush()

    # Bytes in -------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer; answers of plain handlers are flushed before this returns."""
        size = len(data)
        if size >= 24 and self._plain and self._tail is None and self._need >= 0 and self.outgoing is None:
            word, drep, length, auth, call_id, _, context_id, opnum = _unpack(data)
            if length == size and drep == 0x10 and not auth and size <= self._max_receive:
                context = self.contexts.get(context_id)
                if context is not None and context.open:
                    if word == WORD_REQUEST:
                        self._one_call(
                            ServerCall(self, context, call_id, opnum, None, data[24:], None, context.syntax)
                        )
                        return
                    if word == WORD_OBJECT_REQUEST and size >= 40:
                        self._one_call(
                            ServerCall(
                                self, context, call_id, opnum, data[24:40], data[40:], None, context.syntax
                            )
                        )
                        return
        at = 0 if self._tail is None and self._need >= 0 else self._continue(data)
        if at < size and self._need < 0:
            self._keep(data, at)  # what was completed ended the connection, or holds it
        elif at < size:
            contexts = self.contexts
            max_receive = self._max_receive
            max_send = self._max_send
            out = self.outgoing
            if out is None:
                out = self.outgoing = []
            calls = 0
            while size - at >= 24:
                if len(out) > MANY_BUFFERS:
                    if not self._relieved():
                        break
                    out = self.outgoing = []
                word, drep, length, auth, call_id, hint, context_id, opnum = _unpack(data, at)
                end = at + length
                context = contexts.get(context_id)
                if (
                    (word == WORD_REQUEST or (word == WORD_OBJECT_REQUEST and length >= 40))
                    and drep == 0x10
                    and not auth
                    and end <= size
                    and 24 <= length <= max_receive
                    and self._plain
                    and context is not None
                    and context.open
                ):
                    calls += 1
                    self._last_call_id = call_id
                    if word == WORD_REQUEST:
                        call = ServerCall(
                            self, context, call_id, opnum, None, data[at + 24 : end], None, context.syntax
                        )
                    else:
                        call = ServerCall(
                            self,
                            context,
                            call_id,
                            opnum,
                            data[at + 24 : at + 40],
                            data[at + 40 : end],
                            None,
                            context.syntax,
                        )
                    at = end
                    try:
                        reply = context.handler(call)
                    except Exception as error:
                        out.append(self._refusal(call, error))
                        continue
                    if type(reply) is bytearray:
                        length = len(reply)
                        if length <= max_send:
                            _pack(
                                reply,
                                0,
                                WORD_RESPONSE,
                                0x10,
                                length,
                                0,
                                call_id,
                                length - 24,
                                context.echoed_id,
                                0,
                            )
                            out.append(reply)
                        else:
                            out += split(
                                reply, 24, PacketType.RESPONSE, call_id, context.echoed_id, 0, max_send
                            )
                    else:
                        self._begin(call, reply)
                        if self._need < 0:
                            break
                    continue
                if (
                    auth
                    and context is not None
                    and self._sole is not None
                    and end <= size
                    and length <= max_receive
                    and drep == 0x10
                    and requests.protected_call(self, data, at, end, word, auth, call_id, context, opnum)
                ):
                    at = end
                    calls += 1
                    if self._need < 0:
                        break
                    continue
                if (
                    word == WORD_MIDDLE_REQUEST
                    and end <= size
                    and 24 <= length <= max_receive
                    and self._partial is not None
                    and drep == 0x10
                    and not auth
                    and self._partial.takes(call_id, hint, length, self.core.limits)
                ):
                    # a slice, not a copy (the join makes the one); but a small one must not keep a read alive
                    small = length << 2 < size
                    self._partial.chunks.append(
                        data[at + 24 : end] if small else memoryview(data)[at + 24 : end]
                    )
                    at = end
                    continue
                if (
                    word == WORD_LAST_REQUEST
                    and end <= size
                    and 24 <= length <= max_receive
                    and self._partial is not None
                    and drep == 0x10
                    and not auth
                    and self._partial.hint <= self._partial.size + length - 24
                    and self._partial.takes(call_id, 0, length, self.core.limits)
                ):
                    partial = self._partial
                    partial.chunks.append(memoryview(data)[at + 24 : end])
                    at = end
                    self.core.packets_in += 1
                    requests.complete(self, partial, b"")
                else:
                    before = at
                    at = self._take(data, at, size)
                    if at == before:
                        break
                if self._need < 0:
                    break
                contexts = self.contexts
                max_receive = self._max_receive
                max_send = self._max_send
                out = self.outgoing
                if out is None:
                    out = self.outgoing = []
            else:
                while (
                    at < size and self._need >= 0 and self._relieved()
                ):  # header-only PDUs are shorter than a request
                    before = at
                    at = self._take(data, at, size)
                    if at == before:
                        break
            if calls:
                core = self.core
                core.calls_in += calls
                core.packets_in += calls
                core.packets_out += calls
                counter = core.rpc_call
                counter.total += calls
                if counter.live >= counter.peak:
                    counter.peak = counter.live + 1
            if at < size:
                self._keep(data, at)
        if self.outgoing:
            self.flush()

    def _one_call(self, call: ServerCall) -> None:
        """One plain request that came alone: the most common case, answered with the least ado."""
        self._last_call_id = call.call_id
        self.core.count_call()
        context = call.context
        try:
            reply = context.handler(call)
        except Exception as error:
            self._queue(self._refusal(call, error))
        else:
            if type(reply) is bytearray:
                length = len(reply)
                if length <= self._max_send:
                    _pack(
                        reply,
                        0,
                        WORD_RESPONSE,
                        0x10,
                        length,
                        0,
                        call.call_id,
                        length - 24,
                        context.echoed_id,
                        0,
                    )
                    self.send(reply)
                    return
                self.outgoing = split(
                    reply, 24, PacketType.RESPONSE, call.call_id, context.echoed_id, 0, self._max_send
                )
            else:
                self._begin(call, reply)
        if self.outgoing:
            self.flush()

    def without_verification(self, call: ServerCall, drep: int) -> bytes:
        """The stub without its verification trailer. Raises AuthenticationError for one that is wrong."""
        context = call.context
        return check_verification(
            call.stub,
            header_signing=self.header_signing,
            abstract=context.registration.syntax,
            transfer=context.transfer,
            drep=drep,
            call_id=call.call_id,
            context_id=context.context_id,
            opnum=call.opnum,
        )

    def _on_pdu(self, pdu: bytes, header: Header) -> None:
        self.core.packets_in += 1
        ptype = header.ptype
        if ptype == PacketType.REQUEST:
            if self.association is None:
                raise RemoteProtocolError("request before bind")
            requests.on_request(self, pdu, header)
        elif ptype in (PacketType.BIND, PacketType.ALTER_CONTEXT):
            handshake.on_bind(self, pdu, header)
        elif ptype == PacketType.AUTH3:
            handshake.on_auth3(self, pdu, header)
        elif ptype in (PacketType.CO_CANCEL, PacketType.ORPHANED):
            requests.on_cancel(self, pdu, header)
        else:
            raise RemoteProtocolError(f"packet type {ptype} is not for servers")

    # Requests ------------------------------------------------------------------------------------

    def _run(self, call: ServerCall) -> None:
        self.core.world.ledger.rpc_call.total += 1
        try:
            reply = call.context.handler(call)
        except Exception as error:
            self._queue(self._refusal(call, error))
            return
        if type(reply) is bytearray:
            self._answer(call, reply)
        else:
            self._begin(call, reply)

    # Running calls --------------------------------------------------------------------------------

    def _begin(self, call: ServerCall, work: Coroutine[Any, Any, bytearray]) -> None:
        """A handler became a coroutine: it runs in the shell and ends in `finish`."""
        calls = self._calls
        if calls is None:
            calls = self._calls = {}
        if call.call_id in calls:
            work.close()
            self._reject(PacketType.REQUEST, call.call_id, RemoteProtocolError("call id is in use"))
            return
        counter = self.core.rpc_call  # its total was counted when the call arrived
        counter.live = live = counter.live + 1
        if live > counter.peak:
            counter.peak = live
        call.association.pending += 1
        calls[call.call_id] = self.start(call, work)
        if not self.concurrent:
            self._settle_plain()
        if len(calls) >= self.core.limits.max_pending_calls:
            self._fill()

    def _fill(self) -> None:
        """As much as may be is under way: look at no more input until `relax`."""
        if self._need >= 0:
            self._need = FULL
            if self._tail is None:
                self._tail = bytearray()
        self.pause()

    def relax(self) -> None:
        """Something is done or was sent: go on with the input, unless something else still forbids it."""
        most = self.core.limits.max_pending_calls
        if self.stalled or len(self._calls or ()) >= most or len(self._waiting or ()) >= most:
            return
        if self._need == FULL:
            held, self._tail, self._need = self._tail, None, 0
            self.resume()
            if held:
                self.receive(bytes(held))
        else:
            self.resume()

    def _relieved(self) -> bool:
        """Send what has gathered; False where the peer does not read it, so that nothing is added."""
        if self.outgoing:
            self.flush()
        if self.stalled and self._need >= 0:
            self._fill()
        return self._need >= 0

    def finish(self, call: ServerCall, reply: bytearray | None, error: BaseException | None = None) -> None:
        """The coroutine of a call ended, with a reply buffer or an exception; answers exactly once."""
        calls = self._calls
        if calls is None or calls.pop(call.call_id, None) is None:
            return
        self.core.rpc_call.live -= 1
        association = call.association
        association.pending -= 1
        if self._need != DEAF:
            if self._orphans and call.call_id in self._orphans:
                self._orphans.discard(call.call_id)
            elif reply is not None:
                self._answer(call, reply)
            elif error is not None:
                self._queue(self._refusal(call, error))
            self._settle_plain()
            waiting = self._waiting
            while waiting and not calls:
                self._run(waiting.pop(0))
            if self.outgoing:
                self.flush()
            if self._need == FULL:
                self.relax()
        elif association.ended:
            self.run_down(association)

    def run_down(self, association: Association) -> None:
        """Run down the handles of an association that ended."""
        for handle in association.settle():
            if handle.rundown is None:
                continue
            try:
                handle.rundown(handle.value)
            except Exception:
                log.exception("rundown of a context handle failed")

    # Bytes out ------------------------------------------------------------------------------------

    def send_pdu(self, pdu: bytearray) -> None:
        self.core.packets_out += 1
        self._queue(pdu)

    def send_fault(self, call_id: int, context_id: int, status: int, *, executed: bool) -> None:
        self.send_pdu(p.fault_pdu(call_id, context_id, status, executed=executed))

    def _answer(self, call: ServerCall, reply: bytearray) -> None:
        """Queue a reply, cut and protected as the call asks; protecting and queueing are one step."""
        entry = call.entry
        out = self.outgoing
        if out is None:
            out = self.outgoing = []
        call_id, context_id, max_send = call.call_id, call.context.echoed_id, self._max_send
        if entry is not None and entry.level >= LEVEL_PKT:
            if entry.context.signature_size and not entry.failed:
                out += split_protected(
                    reply, 24, PacketType.RESPONSE, call_id, context_id, 0, max_send, entry
                )
            return
        length = len(reply)
        if length <= max_send:
            _pack(reply, 0, WORD_RESPONSE, LITTLE_ENDIAN, length, 0, call_id, length - 24, context_id, 0)
            out.append(reply)
        else:
            out += split(reply, 24, PacketType.RESPONSE, call_id, context_id, 0, max_send)

    def _refusal(self, call: ServerCall, error: BaseException) -> bytearray:
        """The fault for a call that failed; what nobody expected is logged here and revealed to nobody."""
        answer = fault_of(error)
        if answer is None:
            if isinstance(error, Exception):
                log.error("%r failed", call, exc_info=error)
                answer = s.NCA_S_FAULT_UNSPEC, True
            else:
                answer = s.NCA_S_FAULT_CANCEL, True  # asyncio.CancelledError: co_cancel, or we are stopping
        status, executed = answer
        if isinstance(error, RemoteProtocolError):
            self.core.note_protocol_error(self.peer, error)
        return p.fault_pdu(call.call_id, call.context.context_id, status, executed=executed)

    def _settle_plain(self) -> None:
        """Whether the short path applies: no request in pieces, no security, nothing to wait for."""
        short = self._partial is None and (self.concurrent or not self._calls)
        auths = self._auths
        self._plain = short and not auths
        self._sole = None
        if short and auths and len(auths) == 1:
            entry = next(iter(auths.values()))
            if entry.ready and not entry.failed and entry.level >= LEVEL_PKT:
                self._sole = entry

    # The end --------------------------------------------------------------------------------------

    def _reject(self, ptype: int, call_id: int, error: RemoteProtocolError) -> None:
        """Answer a broken PDU as its kind asks, then close."""
        self.core.note_protocol_error(self.peer, error)
        if ptype == PacketType.BIND:
            nak = getattr(error, "nak", None)
            self.send_pdu(p.bind_nak(call_id, 4 if nak is None else nak))
        elif self.association is not None and ptype in _ANSWERED:
            context_id, executed = 0, ptype == PacketType.REQUEST
            if isinstance(error, Refused):
                call_id = call_id if error.call_id is None else error.call_id
                context_id, executed = error.context_id, error.executed
            self.send_fault(call_id, context_id, error.status, executed=executed)
        self.stop()

    @property
    def address(self) -> str:
        """The client's host, as the failure limiter counts it."""
        peer = self.peer
        return str(peer[0]) if isinstance(peer, tuple) and peer else str(peer or "")

    @property
    def bound(self) -> bool:
        """A bind succeeded and no handshake is under way."""
        if self.association is None or self._need == HELD:
            return False
        return not self._auths or all(e.ready or e.failed for e in self._auths.values())

    @property
    def full(self) -> bool:
        """Its input waits for us, not for the peer."""
        return self._need == FULL

    @property
    def idle(self) -> bool:
        return not self._calls and self._partial is None and self._tail is None

    @property
    def last_call_id(self) -> int:
        return self._last_call_id

    def closed(self, error: BaseException | None = None) -> None:
        """The transport is gone. Calls are cancelled; the association is left; contexts are closed."""
        self._need = DEAF
        self._tail = self._partial = self._waiting = self.outgoing = None
        auths, self._auths = self._auths, None
        self._default_auth = None
        if auths:
            for entry in auths.values():
                entry.context.close()
        association = self.association
        core = self.core
        core.world.ledger.rpc_connection.leave()
        if association is not None:
            core.associations.leave(association)
            if self._calls:
                for running in list(self._calls.values()):
                    self.cancel_call(running)
            if association.ended:
                self.run_down(association)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.peer} {len(self.contexts)} contexts, "
            f"{len(self._calls or ())} calls, {len(self._auths or ())} security contexts>"
        )


Stepped: TypeAlias = "Callable[[bytes | None, Exception | None], None]"


from oxid.rpc import handshake, requests  # noqa: E402 - they work on connections and need their names
