"""What a request has to pass before its handler sees it: address, TLS, size, and who sent it. AB-20 to AB-22, RH-26"""

from __future__ import annotations

from collections.abc import Awaitable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from oxid.http.errors import BadRequest
from oxid.iis import error_pages, login
from oxid.iis.settings import Access, Auth, DirectorySettings

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange
    from oxid.iis.login import Verdict
    from oxid.iis.server import WebServer

_TLS = Access.SSL | Access.SSL_128 | Access.REQUIRE_CERTIFICATE
_TUNNEL = ("RPC_IN_DATA", "RPC_OUT_DATA")


class Gate:
    """The checks of one server."""

    __slots__ = ("_server",)

    def __init__(self, server: WebServer) -> None:
        self._server = server

    @staticmethod
    def is_open(directory: DirectorySettings) -> bool:
        """Whether there is nothing to ask of a request that brings no credentials."""
        return (
            bool(directory.auth & Auth.ANONYMOUS)
            and not directory.access & _TLS
            and not directory.allow
            and not directory.deny
            and not directory.certificates
            and directory.max_body is None
        )

    def admit(self, exchange: Exchange) -> None:
        """Let a request through to its handler, or answer why not."""
        directory = exchange.directory
        connection = exchange.connection
        if (directory.allow or directory.deny) and not address_allowed(directory, connection.peer[0]):
            error_pages.deny(exchange, 403, 6)
            return
        if directory.access & _TLS:
            tls = connection.tls
            if tls is None:
                error_pages.deny(exchange, 403, 4)
                return
            if directory.access & Access.SSL_128 and tls.bits < 128:
                error_pages.deny(exchange, 403, 5)
                return
            if directory.access & Access.REQUIRE_CERTIFICATE and tls.peer_certificate is None:
                error_pages.deny(exchange, 403, 7)
                return
        most = directory.max_body
        if most is not None and (exchange.content_length or 0) > most:
            error_pages.deny(exchange, 413, keep=False)
            return
        authenticator = self._server.authenticator
        try:
            found = login.look(exchange, authenticator)
            if isinstance(found, tuple):
                assert authenticator is not None
                scheme, token = found
                verdict = login.step(exchange, scheme, token, authenticator)
                if verdict is None:
                    work = login.step_in_thread(
                        exchange, scheme, token, authenticator, self._server.threads.run
                    )
                    self._server.spawn(exchange, self._later(exchange, work))
                    return
                found = verdict
        except BadRequest:
            error_pages.deny(exchange, 400, keep=False)
            return
        self._pass(exchange, found)

    async def _later(self, exchange: Exchange, work: Awaitable[Verdict]) -> None:
        verdict = await work
        if not exchange.finished:
            self._pass(exchange, verdict)

    def _pass(self, exchange: Exchange, verdict: Verdict) -> None:
        if verdict.refused:
            self._challenge(exchange, verdict)
            return
        exchange.user = verdict.user
        if verdict.reply_with_success is not None:
            exchange.added_headers += b"WWW-Authenticate: %s\r\n" % verdict.reply_with_success
        exchange.route.handler(exchange)

    def _challenge(self, exchange: Exchange, verdict: Verdict) -> None:
        """401, with the next leg of a handshake or the schemes to choose from.

        A tunnel's request may have declared a gigabyte: where no byte of it has come, it is not waited for, because
        the next leg follows on the same connection. RH-26
        """
        directory = exchange.directory
        connection = exchange.connection
        if verdict.reply is not None:
            headers = [(b"WWW-Authenticate", verdict.reply)]
        else:
            headers = login.challenges(
                directory,
                tls=connection.tls is not None,
                available=self._server.authenticator is not None,
                realm=exchange.site.realm or _host_of(exchange),
            )
            if not headers and directory.auth & Auth.BASIC:
                error_pages.deny(exchange, 403, 4)  # a password would be read on the way. AB-22
                return
        if exchange.method in _TUNNEL and not exchange.bytes_received and exchange.content_length:
            exchange.forget_body()
        error_pages.deny(exchange, 401, verdict.substatus, headers)


def _host_of(exchange: Exchange) -> str:
    host = exchange.header(b"host") or b"oxid"
    return host.decode("latin-1").partition(":")[0]


def address_allowed(directory: DirectorySettings, host: str) -> bool:
    """Whether an address may come."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    if any(address in network for network in directory.deny):
        return False
    return not directory.allow or any(address in network for network in directory.allow)
