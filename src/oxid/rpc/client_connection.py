"""One connection of an RPC client, without I/O: calls out, replies to their waiters. [MS-RPCE] 3.3.2

    connection.exchange(PacketType.BIND, elements, entry, token)     a waiter for the server's answer
    connection.submit(context_id, opnum, out)                        a waiter for the reply's stub
    connection.receive(data)                                         wakes waiters
    connection.abandon(waiter, now)                                  nobody waits any more: cancel over there

Waiters are what the shell makes (asyncio futures); whatever ends the connection wakes all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from oxid.errors import (
    AuthenticationError,
    LocalProtocolError,
    Origin,
    RemoteProtocolError,
    TransportError,
    error_for,
)
from oxid.rpc import pdu as p
from oxid.rpc import replies
from oxid.rpc.fragments import Partial, split, split_protected
from oxid.rpc.framing import DEAF, Buffer, PduStream
from oxid.rpc.limits import Limits
from oxid.rpc.pdu import (
    LITTLE_ENDIAN,
    MAX_CALL_ID,
    MAX_HINT,
    REQUEST,
    WORD_LAST_RESPONSE,
    WORD_MIDDLE_RESPONSE,
    WORD_OBJECT_REQUEST,
    WORD_REQUEST,
    WORD_RESPONSE,
    Header,
    PacketType,
    SyntaxId,
)
from oxid.rpc.presentation import FEATURE_KEEP_ON_ORPHAN
from oxid.rpc.replies import Answer
from oxid.rpc.security import (
    LEVEL_PKT,
    TRAILER_SHORT,
    VT_HEADER_SIGNING,
    SecurityEntry,
    verification_trailer,
)
from oxid.values import status as s
from oxid.values.status import Win32

_unpack: Final = REQUEST.unpack_from
_pack: Final = REQUEST.pack_into

_NAK_MEANING: Final = {
    0: ("the server refused the bind", s.RPC_S_CALL_FAILED_DNE),
    1: ("the server is congested", s.RPC_S_SERVER_TOO_BUSY),
    2: ("the server is at its limits", s.RPC_S_SERVER_TOO_BUSY),
    4: ("the server does not speak RPC version 5.0", s.RPC_S_PROTOCOL_ERROR),
    8: ("the server does not know this kind of authentication", 1747),  # RPC_S_UNKNOWN_AUTHN_SERVICE
    9: ("the server refused the credentials", s.ERROR_ACCESS_DENIED),
}


class Waiter(Protocol):
    """What waits for an answer."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, error: Any, /) -> None: ...


class _Pair(NamedTuple):
    abstract: SyntaxId
    transfer: SyntaxId


class ClientConnection(PduStream):
    """The protocol state of one connection to a server."""

    __slots__ = (
        "_answer",
        "_answer_id",
        "_backlog",
        "_bitmask_sent",
        "_call_id",
        "_cancelled",
        "_entry",
        "_max_send",
        "_pairs",
        "_partials",
        "_plain",
        "_sole",
        "calls",
        "concurrent",
        "either_order",
        "features",
        "group_id",
        "header_signing",
        "limits",
        "lost",
        "make_waiter",
        "write",
        "write_all",
    )

    write: Callable[[Buffer], object]
    """Sends at once; the shell gives it, as the two below."""
    write_all: Callable[[list[Buffer]], object]
    make_waiter: Callable[[], Any]

    def __init__(self, limits: Limits) -> None:
        super().__init__(max(limits.max_fragment, limits.large_fragment))
        self.limits = limits
        self.calls: dict[int, Any] = {}
        self.concurrent = True
        self.features = 0
        self.group_id = 0
        self.header_signing = False
        self.lost: Exception | None = None
        """Why the connection ended; None while it lives."""
        self._answer: Any = None
        self._answer_id = 0
        self._backlog: deque[tuple[int, list[Any]]] | None = None
        self._bitmask_sent = False
        self._call_id = 0
        self._cancelled: dict[int, float] | None = None
        self._entry: SecurityEntry | None = None
        self._max_send = limits.max_fragment
        self._pairs: dict[int, _Pair] = {}
        self._partials: dict[int, Partial] | None = None
        self.either_order: set[int] = set()
        """Presentation contexts whose users take a BigEndianStub where the server is big-endian."""
        self._plain = True
        self._sole: SecurityEntry | None = None

    def flush(self) -> None:
        buffers, self.outgoing = self.outgoing, None
        if buffers:
            self.write_all(buffers)

    # Binding --------------------------------------------------------------------------------------------

    def exchange(
        self,
        ptype: int,
        elements: Sequence[p.ContextElement],
        entry: SecurityEntry | None = None,
        token: bytes | None = None,
        group_id: int = 0,
        large: bool = False,
    ) -> Any:
        """Send a BIND or ALTER_CONTEXT; the waiter gets an `Answer` or the refusal as an exception."""
        self._alive()
        if self._answer is not None:
            raise LocalProtocolError("a bind is under way already")
        flags = p.FIRST | p.LAST | (p.CONC_MPX if ptype == PacketType.BIND else 0)
        if entry is not None:
            flags |= p.SUPPORT_HEADER_SIGN
        call_id = self._next_call_id()
        size = self.limits.large_fragment if large else self.limits.max_fragment
        message = p.bind(ptype, flags, call_id, size, group_id, elements)
        if entry is not None and token is not None:
            p.with_token(message, entry.auth_type, entry.level, entry.context_id, token)
        self._answer_id = call_id
        self._answer = waiter = self.make_waiter()
        self.write(message)
        return waiter

    def send_auth3(self, entry: SecurityEntry, token: bytes) -> None:
        """Send the last token of a handshake with an odd number of legs; there is no answer."""
        self._alive()
        message = bytearray(p.common_header(PacketType.AUTH3, p.FIRST | p.LAST, 20, self._answer_id))
        message += bytes(4)
        self.write(p.with_token(message, entry.auth_type, entry.level, entry.context_id, token))

    def agree(self, answer: Answer, *, large: bool) -> None:
        """Take over what a BIND_ACK settled; `large` where both ends are ours and said so."""
        limits = self.limits
        ack = answer.ack
        most = limits.large_fragment if large else limits.max_fragment
        self._max_send = max(1024, min(ack.max_recv or most, most)) & ~7
        self.group_id = ack.group
        self.concurrent = bool(answer.flags & p.CONC_MPX)
        self._settle_plain()

    def use_security(self, entry: SecurityEntry, *, header_signing: bool) -> None:
        """From here on every request is made under this security context."""
        entry.context.header_signing = header_signing
        entry.establish()
        self.header_signing = header_signing
        self._entry = entry
        self._settle_plain()

    def add_context(self, context_id: int, abstract: SyntaxId, transfer: SyntaxId) -> None:
        self._pairs[context_id] = _Pair(abstract, transfer)

    # Calls ----------------------------------------------------------------------------------------------

    def submit(self, context_id: int, opnum: int, out: bytearray, object: bytes | None = None) -> Any:
        """Send a request at once; the returned waiter gets the reply's stub.

        `out` has 24 free bytes in front of the stub, or 40 where `object` (16 bytes, little-endian) is
        given; it belongs to the connection from here on. Raises TransportError on a connection that ended.
        """
        call_id = self._call_id = self._call_id + 1
        if not self._plain or call_id > MAX_CALL_ID:
            if self._sole is not None and call_id <= MAX_CALL_ID:
                return self._submit_protected(self._sole, call_id, context_id, opnum, out, object)
            return self._submit(call_id, context_id, opnum, out, object)
        length = len(out)
        if length > self._max_send:
            return self._submit(call_id, context_id, opnum, out, object)
        if object is None:
            _pack(out, 0, WORD_REQUEST, 0x10, length, 0, call_id, length - 24, context_id, opnum)
        else:
            out[24:40] = object
            _pack(out, 0, WORD_OBJECT_REQUEST, 0x10, length, 0, call_id, length - 40, context_id, opnum)
        self.calls[call_id] = waiter = self.make_waiter()
        self.write(out)
        return waiter

    def _submit_protected(
        self,
        entry: SecurityEntry,
        call_id: int,
        context_id: int,
        opnum: int,
        out: bytearray,
        object: bytes | None,
    ) -> Any:
        """The short path of a protected request."""
        if entry.seen is None or self._pairs.get(context_id) not in entry.seen:
            self._add_verification(entry, context_id, out)
        header, word = 24, WORD_REQUEST
        if object is not None:
            header, word = 40, WORD_OBJECT_REQUEST
            out[24:40] = object
        self.calls[call_id] = waiter = self.make_waiter()
        if len(out) - header <= entry.room(self._max_send, header):
            entry.seal_one(out, header, word, call_id, context_id, opnum)
            self.write(out)
        else:
            self.write_all(
                split_protected(
                    out, header, PacketType.REQUEST, call_id, context_id, opnum, self._max_send, entry
                )
            )
        return waiter

    def _submit(self, call_id: int, context_id: int, opnum: int, out: bytearray, object: bytes | None) -> Any:
        self._alive()
        if call_id > MAX_CALL_ID:
            self._call_id = MAX_CALL_ID
            raise TransportError("this connection has used up its call ids; open a new one")
        header = 24
        if object is not None:
            header = 40
            out[24:40] = object
        entry = self._entry
        waiter = self.make_waiter()
        if not self.concurrent and (self.calls or self._backlog):
            if self._backlog is None:
                self._backlog = deque()
            self._backlog.append((call_id, [context_id, opnum, out, header, waiter]))
            return waiter
        self.calls[call_id] = waiter
        self._send_request(call_id, context_id, opnum, out, header, entry)
        return waiter

    def _send_request(
        self,
        call_id: int,
        context_id: int,
        opnum: int,
        out: bytearray,
        header: int,
        entry: SecurityEntry | None,
    ) -> None:
        if entry is not None and entry.level >= LEVEL_PKT:
            self._add_verification(entry, context_id, out)
            self.write_all(
                split_protected(
                    out, header, PacketType.REQUEST, call_id, context_id, opnum, self._max_send, entry
                )
            )
            return
        length = len(out)
        if length > self._max_send:
            self.write_all(split(out, header, PacketType.REQUEST, call_id, context_id, opnum, self._max_send))
            return
        word = WORD_REQUEST if header == 24 else WORD_OBJECT_REQUEST
        _pack(out, 0, word, LITTLE_ENDIAN, length, 0, call_id, length - header, context_id, opnum)
        self.write(out)

    def _add_verification(self, entry: SecurityEntry, context_id: int, out: bytearray) -> None:
        """Once per connection what it supports, once per pair of syntaxes what was negotiated."""
        seen = entry.seen
        if seen is None:
            seen = entry.seen = set()
        pair = self._pairs.get(context_id)
        if pair in seen or pair is None:
            return
        seen.add(pair)
        bitmask = None
        if not self._bitmask_sent:
            self._bitmask_sent = True
            bitmask = VT_HEADER_SIGNING if self.header_signing else 0
        out += bytes(-len(out) % 4)
        out += verification_trailer(bitmask=bitmask, pcontext=pair)

    def abandon(self, waiter: Any, now: float, patience: float) -> None:
        """The caller of `waiter` went away: ask the server to cancel, and give it `patience` seconds."""
        call_id = next((number for number, other in self.calls.items() if other is waiter), None)
        if call_id is None:
            for item in self._backlog or ():
                if item[1][4] is waiter:
                    assert self._backlog is not None
                    self._backlog.remove(item)
                    return
            return
        if self.lost is not None or (self._cancelled and call_id in self._cancelled):
            return
        self.write(p.header_only(PacketType.CO_CANCEL, call_id))
        if self._cancelled is None:
            self._cancelled = {}
        self._cancelled[call_id] = now + patience

    def expire_cancelled(self, now: float) -> float | None:
        """Orphan the calls whose cancel was not heard; returns when to ask again, None for never.

        Without the feature to keep a connection over an orphan, the connection ends.
        """
        cancelled = self._cancelled
        if not cancelled:
            return None
        for call_id in [c for c, deadline in cancelled.items() if deadline <= now]:
            del cancelled[call_id]
            if self.calls.pop(call_id, None) is None:
                continue
            if not self.features & FEATURE_KEEP_ON_ORPHAN:
                self.fail(TransportError("the server did not heed a cancel; the connection was closed"))
                return None
            if self._partials:
                self._partials.pop(call_id, None)
            self.write(p.header_only(PacketType.ORPHANED, call_id))
            self.next_in_line()
        return min(cancelled.values(), default=None)

    def _alive(self) -> None:
        if self.lost is not None:
            raise _again(self.lost)

    def _next_call_id(self) -> int:
        call_id = self._call_id = self._call_id + 1
        return call_id

    @property
    def last_call_id(self) -> int:
        return self._call_id

    # Bytes in -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the server; waiters of whole replies are woken."""
        size = len(data)
        if size >= 24 and self._plain and self._tail is None and self._need >= 0:
            word, drep, length, auth, call_id, hint, _, _ = _unpack(data)
            if length == size and word == WORD_RESPONSE and drep == 0x10 and not auth and hint <= MAX_HINT:
                waiter = self.calls.pop(call_id, None)
                if waiter is not None:  # one whole reply that came alone
                    if not waiter.done():
                        waiter.set_result(data[24:])
                    elif self._cancelled:
                        self._cancelled.pop(call_id, None)
                    return
        at = 0 if self._tail is None and self._need >= 0 else self._continue(data)
        if self._need < 0:
            return  # what was completed ended the connection
        calls = self.calls
        while size - at >= 24:
            word, drep, length, auth, call_id, hint, _, _ = _unpack(data, at)
            end = at + length
            if (
                word == WORD_RESPONSE
                and drep == 0x10
                and not auth
                and hint <= MAX_HINT
                and end <= size
                and length >= 24
                and self._plain
                and call_id in calls
            ):
                waiter = calls.pop(call_id)
                if not waiter.done():
                    waiter.set_result(data[at + 24 : end])
                elif self._cancelled:
                    self._cancelled.pop(call_id, None)
                at = end
                continue
            if (
                word == WORD_RESPONSE
                and drep == 0x10
                and end <= size
                and call_id in calls
                and hint <= MAX_HINT
                and self._protected_reply(data, at, end, auth, call_id)
            ):
                at = end
                continue
            if (
                word in (WORD_MIDDLE_RESPONSE, WORD_LAST_RESPONSE)
                and end <= size
                and self._partials is not None
            ):
                partial = self._partials.get(call_id)
                if (
                    partial is not None
                    and not partial.big
                    and drep == 0x10
                    and not auth
                    and hint <= MAX_HINT
                    and length >= 24
                    and self._plain
                    and partial.size + length <= self.limits.max_response
                ):
                    # a slice of `data`, not a copy: the only copy is the join of the last fragment; but
                    # a small one must not keep a whole read alive
                    partial.size += length - 24
                    small = length << 2 < size
                    partial.chunks.append(data[at + 24 : end] if small else memoryview(data)[at + 24 : end])
                    at = end
                    if word == WORD_LAST_RESPONSE:
                        del self._partials[call_id]
                        self.reply(call_id, partial.join())
                    continue
            before = at
            at = self._take(data, at, size)
            if at == before or self._need < 0:
                break
        else:
            while at < size and self._need >= 0:
                before = at
                at = self._take(data, at, size)
                if at == before:
                    break
        if at < size:
            self._keep(data, at)

    def _protected_reply(self, data: bytes, at: int, end: int, auth: int, call_id: int) -> bool:
        """The short path of a protected reply in one fragment; False where it is anything else."""
        entry = self._sole
        if entry is None or auth != entry.signature_size:
            return False
        trailer_at = end - auth - 8
        if trailer_at < at + 24 or self._need < 0 or end - at > self._max_receive:
            return False
        kind, padding, auth_id = TRAILER_SHORT(data, trailer_at)
        if (
            auth_id != entry.context_id
            or kind != entry.auth_type | entry.level << 8
            or padding > trailer_at - at - 24
        ):
            return False
        pdu = data if at == 0 and end == len(data) else data[at:end]
        try:
            body = entry.context.unseal(pdu, 24, trailer_at - at)
        except AuthenticationError as error:
            self.fail(error)
            return True
        waiter = self.calls.pop(call_id)
        if not waiter.done():
            waiter.set_result(body[:-padding] if padding else body)
        elif self._cancelled:
            self._cancelled.pop(call_id, None)
        return True

    def _on_pdu(self, pdu: bytes, header: Header) -> None:
        ptype = header.ptype
        if ptype == PacketType.RESPONSE:
            replies.on_response(self, pdu, header)
        elif ptype == PacketType.FAULT:
            replies.on_fault(self, pdu, header)
        elif ptype in (PacketType.BIND_ACK, PacketType.ALTER_CONTEXT_RESP):
            replies.on_bind_ack(self, pdu, header)
        elif ptype == PacketType.BIND_NAK:
            reason = p.parse_bind_nak(pdu, header)
            meaning, code = _NAK_MEANING.get(reason, (f"the server refused the bind, reason {reason}", 1727))
            waiter, self._answer = self._answer, None
            if waiter is None:
                raise RemoteProtocolError("bind_nak without a bind")
            if not waiter.done():
                waiter.set_exception(error_for(Win32(code), meaning, origin=Origin.BIND, executed=False))
        elif ptype == PacketType.SHUTDOWN:
            return  # a wish of servers that no Windows sends; the connection's end will be heard anyway
        else:
            raise RemoteProtocolError(f"packet type {ptype} is not for clients")

    def _whole(self, pdu: bytes, header: Header) -> None:
        try:
            super()._whole(pdu, header)
        except AuthenticationError as error:
            self.fail(error)

    def reply(self, call_id: int, stub: bytes) -> None:
        waiter = self.calls.pop(call_id)
        if self._cancelled:
            self._cancelled.pop(call_id, None)
        if not waiter.done():
            waiter.set_result(stub)
        self.next_in_line()

    def next_in_line(self) -> None:
        """A server without concurrent multiplexing takes the next call when this one is answered."""
        backlog = self._backlog
        while backlog and not self.calls:
            call_id, (context_id, opnum, out, header, waiter) = backlog.popleft()
            if waiter.done():
                continue
            self.calls[call_id] = waiter
            self._send_request(call_id, context_id, opnum, out, header, self._entry)

    # The end --------------------------------------------------------------------------------------------

    def _settle_plain(self) -> None:
        entry = self._entry
        short = self.concurrent and self.lost is None
        self._plain = short and (entry is None or entry.level < LEVEL_PKT)
        self._sole = entry if short and entry is not None and entry.level >= LEVEL_PKT else None

    def _reject(self, ptype: int, call_id: int, error: RemoteProtocolError) -> None:
        self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the connection for a reason: everybody who waits hears it."""
        self._end(error)
        self.stop()

    def closed(self, error: Exception | None = None) -> None:
        """The transport is gone."""
        self._need = DEAF
        self._end(error or TransportError("the server closed the connection"))
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.context.close()

    def _end(self, error: Exception) -> None:
        if self.lost is not None:
            return
        self.lost = error
        self._plain = False
        self._sole = None
        waiters = list(self.calls.values())
        waiters += [item[1][4] for item in self._backlog or ()]
        if self._answer is not None:
            waiters.append(self._answer)
        self.calls = {}
        self._answer = self._backlog = self._partials = self._cancelled = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def __repr__(self) -> str:
        state = f"lost: {self.lost}" if self.lost else f"{len(self.calls)} calls"
        return f"<{type(self).__name__} {state}, {len(self._pairs)} contexts>"


def _again(error: Exception) -> Exception:
    """The error for whoever comes after a connection ended; its cause is what ended it."""
    later = TransportError(f"the connection has ended: {error}")
    later.__cause__ = error
    return later
