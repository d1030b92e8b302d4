"""One request of an extension: the references of the model, and the exchange they keep. isapi.md §3, §6

`ControlBlock` is what the asynchronous interface, classic Python extensions and native ones have in common: it
begins with an exchange, and when its last reference is dropped it ends that exchange, once, on the loop's thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from oxid.iis.isapi.constants import (
    HSE_STATUS_ERROR,
    HSE_STATUS_SUCCESS,
    HSE_STATUS_SUCCESS_AND_KEEP_CONN,
)
from oxid.iis.isapi.references import References, State

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.isapi.application import Application

log: Final = logging.getLogger("oxid.iis.isapi")


class ControlBlock(References):
    """One request: who holds it, its exchange, and how that is to end."""

    __slots__ = ("_open", "_response", "abortive", "application", "began", "exchange", "keep_conn")

    application: Application

    def __init__(self, application: Application, exchange: Exchange) -> None:
        self.exchange: Exchange | None = exchange
        """The host's own hold on the client's connection, until `let_go`."""
        self._open: Exchange | None = exchange
        """The same while the extension may use it."""
        self.application = application
        self.keep_conn = True
        """fKeepConn of the head: any non-zero value is true. A head written raw says nothing against it. IS-10"""
        self._response: tuple[int, bytes, Any, bool] | None = None
        """A whole response that is sent when the request ends."""
        self.abortive = False
        self.began = application.now()
        References.__init__(self, application.blocks)

    def mark_done(self, status: int = HSE_STATUS_SUCCESS) -> bool:
        """DONE_WITH_SESSION. False, and nothing happens, where it was done before. Any thread."""
        self._open = None
        return References.mark_done(self, status)

    def force(self) -> None:
        """End it although it was not done; where its proc still runs the client is cut off now. S10, S19"""
        self._open = None
        References.force(self)
        if self.exchange is not None and self.state != State.FREED:
            self.cut()

    def cut(self) -> None:
        """Nothing more is sent or read for this request, which is still held. Loop's thread."""
        exchange = self.exchange
        if exchange is not None and not exchange.finished:
            exchange.finish(keep=False, abort=True)

    def freed(self) -> None:
        self._open = None
        application = self.application
        if application.on_loop():
            self.let_go()
        else:
            application.post(self.let_go)

    def let_go(self) -> None:
        """End the exchange: the last use of it. Called once, on the loop's thread."""
        exchange = self.exchange
        self.exchange = None
        self._open = None
        self.application.gone(self)
        if exchange is None or exchange.finished:
            return
        self.drop_connection(exchange)

    def drop_connection(self, exchange: Exchange) -> None:
        """Give back the reference on the client's connection; the server then keeps or closes it. KB Q142658"""
        final = self.final
        response = self._response
        if response is not None:
            self._response = None
            status, body, headers, keep = response
            exchange.respond(status, body, headers, keep=keep and final == HSE_STATUS_SUCCESS_AND_KEEP_CONN)
        elif final != HSE_STATUS_ERROR:
            exchange.finish(
                keep=self.keep_conn and final == HSE_STATUS_SUCCESS_AND_KEEP_CONN and not self.abortive,
                abort=self.abortive,
            )
        elif exchange.head_sent or exchange.lost:
            exchange.finish(keep=False, abort=self.abortive)
        else:
            exchange.respond(500, b"", keep=False)

    def close_now(self) -> None:
        """Close the client's socket; the request itself goes on until it is done. Loop's thread."""
        exchange = self.exchange
        if exchange is not None:
            self.keep_conn = False
            self.application.services.close_connection(exchange)

    def __reduce__(self) -> Any:
        raise TypeError("a control block cannot be copied")
