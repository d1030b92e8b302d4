"""Who a client of the web server is: Basic, NTLM, Negotiate and certificates. RH-26, AB-21, AB-22, [MS-NTHT]

NTLM and Negotiate authenticate the connection they were spoken on and no other: the context lives in the connection
and ends with it. Whether it holds for later requests of the connection is the directory's choice (AuthPersistence).
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from oxid.auth import Account, Authenticator, AuthLevel, AuthType, SecurityContext, find_account, nt_hash
from oxid.errors import AuthenticationError, OxidError
from oxid.http.authorization import basic_credentials, decode_token, split_authorization
from oxid.iis.settings import Auth, DirectorySettings

if TYPE_CHECKING:
    from oxid.iis.connection import HttpConnection
    from oxid.iis.exchange import Exchange

SCHEMES: Final = {"basic": Auth.BASIC, "ntlm": Auth.NTLM, "negotiate": Auth.NEGOTIATE}
_PROVIDERS: Final = {"ntlm": AuthType.NTLM, "negotiate": AuthType.SPNEGO}
_NAMES: Final = {"basic": "Basic", "ntlm": "NTLM", "negotiate": "Negotiate"}
_NOBODY_HASH: Final = bytes(16)

RunInThread = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class HttpUser:
    """Who sent a request."""

    name: str
    """`admin`, `DOMAIN\\name`, `name@REALM`."""
    auth_type: str
    """`Basic`, `NTLM`, `Negotiate` or `Certificate`: AUTH_TYPE."""
    admin: bool = False
    password: str | None = field(default=None, repr=False)
    """Basic only: AUTH_PASSWORD."""
    identity: Account | None = field(default=None, repr=False)
    """The account, where there is one of that name here."""


class ConnectionLogin:
    """The handshake, and who came out of it, of one connection."""

    __slots__ = ("_busy", "_over", "_scheme", "context", "user")

    def __init__(self) -> None:
        self.user: HttpUser | None = None
        """Who authenticated this connection for good."""
        self.context: SecurityContext | None = None
        self._scheme = ""
        self._busy = False
        """A thread uses the context: it is closed behind it."""
        self._over = False

    async def step(self, token: bytes, run: RunInThread) -> bytes | None:
        """One leg in a thread. Raises AuthenticationError, also where the connection went meanwhile."""
        context = self.context
        assert context is not None
        self._busy = True
        try:
            reply: bytes | None = await run(partial(context.step, token))
        finally:
            self._busy = False
            if self._over:
                self.close()
        if self._over:
            raise AuthenticationError("the client went in the middle of its handshake")
        return reply

    def context_for(
        self, scheme: str, token: bytes, authenticator: Authenticator, peer: str, bindings: bytes | None
    ) -> SecurityContext:
        """The handshake that a token belongs to; a first token begins a new one."""
        first = token.startswith(b"NTLMSSP\0\1") or token[:1] == b"\x60"
        if self.context is None or self._scheme != scheme or first:
            self.close()
            self.context = authenticator.acceptor(
                _PROVIDERS[scheme],
                AuthLevel.CONNECT,
                peer=peer,
                channel_bindings=bindings,
                dce_style=False,
            )
            self._scheme = scheme
        return self.context

    def close(self) -> None:
        """Forget everybody; may be called twice."""
        self.user = None
        if self._busy:
            self._over = True
            return
        context, self.context = self.context, None
        if context is not None:
            context.close()

    def settle(self) -> None:
        """The handshake is over: its keys protect nothing in HTTP."""
        user = self.user
        self.close()
        self.user = user


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of looking at a request's credentials."""

    user: HttpUser | None = None
    refused: bool = False
    """401: with `reply` the handshake goes on, without the credentials were wrong or missing."""
    reply: bytes | None = None
    """The value of WWW-Authenticate for the next leg."""
    reply_with_success: bytes | None = None
    """The last leg of a mutual handshake, for the response that goes through."""
    substatus: int = 1
    """401.1 wrong credentials, 401.2 none of the schemes."""


GRANTED: Final = Verdict()
MISSING: Final = Verdict(refused=True, substatus=2)
WRONG: Final = Verdict(refused=True, substatus=1)


def certificate_user(
    connection: HttpConnection, directory: DirectorySettings, authenticator: Authenticator | None
) -> HttpUser | None:
    """The account that a client certificate stands for by the directory's table."""
    tls = connection.tls
    if tls is None or tls.peer_certificate is None or not directory.certificates:
        return None
    name = directory.certificates.get(hashlib.sha256(tls.peer_certificate).hexdigest())
    if name is None:
        return None
    account = None if authenticator is None else find_account(authenticator.accounts, "", name)
    return HttpUser(name, "Certificate", account is not None and account.admin, identity=account)


def look(exchange: Exchange, authenticator: Authenticator | None) -> Verdict | tuple[str, bytes]:
    """Judge what can be judged at once; else (scheme, token) of a handshake that `step` goes on with.

    Raises BadRequest for a malformed header.
    """
    directory = exchange.directory
    connection = exchange.connection
    value = exchange.header(b"authorization")
    if value is not None and authenticator is not None:
        scheme, token = split_authorization(value)
        flag = SCHEMES.get(scheme, Auth.NONE)
        if flag & directory.auth:
            if flag is Auth.BASIC:
                if connection.tls is None and not directory.allow_plain_basic:
                    return MISSING
                return _basic(token, authenticator, connection.peer[0])
            return scheme, decode_token(token)
    login = connection.login
    if login is not None and login.user is not None:
        return Verdict(login.user)
    if (user := certificate_user(connection, directory, authenticator)) is not None:
        return Verdict(user)
    if directory.auth & Auth.ANONYMOUS:
        return GRANTED
    return MISSING


def _basic(token: bytes, authenticator: Authenticator, peer: str) -> Verdict:
    """Check a name and a password; wrong ones count against the peer."""
    user, password = basic_credentials(token)
    domain, _, name = user.rpartition("\\")
    limiter = authenticator.limiter
    now = authenticator.world.clock.now()
    try:
        if limiter is not None:
            limiter.check(peer, now)
    except AuthenticationError:
        return WRONG
    account = find_account(authenticator.accounts, domain, name) if name else None
    # a name that does not exist costs the same time
    expected = _NOBODY_HASH if account is None else account.nt_hash
    if not hmac.compare_digest(nt_hash(password), expected) or account is None:
        if limiter is not None:
            limiter.failed(peer, now)
        return WRONG
    if limiter is not None:
        limiter.succeeded(peer)
    return Verdict(HttpUser(account.name, "Basic", account.admin, password, account))


def begin_step(
    exchange: Exchange, scheme: str, token: bytes, authenticator: Authenticator
) -> tuple[ConnectionLogin, SecurityContext]:
    """The login and the context that takes `token`."""
    connection = exchange.connection
    login = connection.login
    if login is None:
        login = connection.login = ConnectionLogin()
    if login.user is not None:
        login.close()  # who speaks up again is asked again
    bindings = None
    if exchange.directory.require_channel_binding and connection.tls is not None:
        bindings = connection.tls.channel_binding
    return login, login.context_for(scheme, token, authenticator, connection.peer[0], bindings)


def end_step(
    login: ConnectionLogin,
    context: SecurityContext,
    scheme: str,
    reply: bytes | None,
    authenticator: Authenticator,
    *,
    persists: bool,
) -> Verdict:
    """What a step that went well means."""
    answer = b"" if reply is None else _NAMES[scheme].encode() + b" " + b64encode(reply)
    if not context.complete:
        return Verdict(refused=True, reply=answer or None)
    name = context.principal
    if context.anonymous or name is None:
        login.close()
        return WRONG
    account = find_account(authenticator.accounts, "", name)
    user = HttpUser(name, _NAMES[scheme], context.admin, identity=account)
    if persists:
        login.user = user
        login.settle()
    else:
        login.close()
    return Verdict(user, reply_with_success=answer or None)


def step(exchange: Exchange, scheme: str, token: bytes, authenticator: Authenticator) -> Verdict | None:
    """One leg of a handshake; None where it waits for others: `step_in_thread` then."""
    if not token:
        return MISSING
    login, context = begin_step(exchange, scheme, token, authenticator)
    if context.blocking:
        return None
    try:
        reply = context.step(token)
    except OxidError:
        login.close()
        return WRONG
    return end_step(login, context, scheme, reply, authenticator, persists=exchange.directory.auth_persists)


async def step_in_thread(
    exchange: Exchange, scheme: str, token: bytes, authenticator: Authenticator, run: RunInThread
) -> Verdict:
    """One leg of a handshake that asks other machines."""
    login = exchange.connection.login
    assert login is not None
    context = login.context
    assert context is not None  # begun by `step`
    persists = exchange.directory.auth_persists
    try:
        reply = await login.step(token, run)
    except OxidError:
        login.close()
        return WRONG
    return end_step(login, context, scheme, reply, authenticator, persists=persists)


def challenges(
    directory: DirectorySettings, *, tls: bool, available: bool, realm: str
) -> list[tuple[bytes, bytes]]:
    """WWW-Authenticate for whatever the directory takes, the strongest first."""
    found = []
    if available:
        if directory.auth & Auth.NEGOTIATE:
            found.append((b"WWW-Authenticate", b"Negotiate"))
        if directory.auth & Auth.NTLM:
            found.append((b"WWW-Authenticate", b"NTLM"))
        if directory.auth & Auth.BASIC and (tls or directory.allow_plain_basic):
            name = "".join(c for c in realm if c.isprintable() and c not in '"\\')
            found.append((b"WWW-Authenticate", b'Basic realm="' + name.encode() + b'", charset="UTF-8"'))
    return found
