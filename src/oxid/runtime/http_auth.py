"""Who we are to an HTTP server: Basic, NTLM and Negotiate, for one connection. [RFC7617], [RFC4559], [MS-NTHT]

    login = HttpLogin("ntlm", credentials, host="gateway", world=world)
    login.first()                          the value of the first Authorization header, or None
    login.answer(reply)                    the next value after a 401, or None where there is nothing more to say
    login.close()

NTLM and Negotiate authenticate the connection: the legs before the last are sent with an empty body, so that the
large body of a tunnel's request goes out once and to a server that wants it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

from oxid.auth import AuthLevel, AuthType, Credentials, SecurityContext, initiator
from oxid.auth.credentials import Keytab, Password, Ticket
from oxid.errors import AuthenticationError, ConfigurationError, NotSupported
from oxid.http.client import Reply
from oxid.world import World

SCHEMES: Final = ("auto", "basic", "ntlm", "negotiate", "none")

_PROVIDERS: Final = {"ntlm": AuthType.NTLM, "negotiate": AuthType.SPNEGO}


class HttpLogin:
    """One connection's authentication; `close` it with the connection."""

    def __init__(
        self,
        scheme: str,
        credentials: Credentials | None,
        *,
        host: str,
        world: World,
        secure: bool = False,
        channel_bindings: bytes | None = None,
    ) -> None:
        """`scheme` of SCHEMES; `auto` is NTLM with passwords and Negotiate with tickets, and Basic over TLS
        where the server has nothing else. Raises ConfigurationError, NotSupported."""
        if scheme not in SCHEMES:
            raise ConfigurationError(f"HTTP authentication {scheme!r}: {', '.join(SCHEMES)} were expected")
        self._auto = scheme == "auto"
        if credentials is None:
            scheme = "none"
        elif self._auto:
            scheme = "negotiate" if isinstance(credentials, Ticket | Keytab) else "ntlm"
        self.scheme = scheme
        self._credentials = credentials
        self._host = host
        self._world = world
        self._secure = secure
        self._bindings = channel_bindings
        self._context: SecurityContext | None = None
        if scheme == "basic":
            self._basic()  # fails here where it cannot be

    @property
    def asks_first(self) -> bool:
        """The first request asks for a challenge, and needs no body: NTLM, also inside SPNEGO. A ticket says it all."""
        return self.scheme in _PROVIDERS and not isinstance(self._credentials, Ticket | Keytab)

    @property
    def blocking(self) -> bool:
        """A step may wait for other machines and belongs in a thread."""
        return self.scheme == "negotiate" and isinstance(self._credentials, Ticket | Keytab)

    def first(self) -> str | None:
        """The value of the first request's Authorization header; None for none."""
        if self.scheme == "basic":
            return self._basic()
        if self.scheme in _PROVIDERS:
            return self._token(b"")
        return None

    def answer(self, reply: Reply) -> str | None:
        """What to say after a 401; None where it was final. Raises AuthenticationError for a bad token."""
        offers = [value.strip() for value in reply.values("www-authenticate")]
        if self._context is not None:
            prefix = self.scheme + " "
            for offer in offers:
                if offer.lower().startswith(prefix) and not self._context.complete:
                    try:
                        token = b64decode(offer[len(prefix) :].strip(), validate=True)
                    except ValueError as error:
                        raise AuthenticationError(
                            f"{self.scheme}: the server's token is no base64"
                        ) from error
                    return self._token(token)
        if self._auto and self._secure and self.scheme in _PROVIDERS:
            names = {offer.partition(" ")[0].lower() for offer in offers}
            if "basic" in names and self.scheme not in names and isinstance(self._credentials, Password):
                self.close()
                self.scheme = "basic"
                return self._basic()
        return None

    def _basic(self) -> str:
        who = self._credentials
        if not isinstance(who, Password):
            raise NotSupported("HTTP Basic needs a user with a password")
        name = f"{who.domain}\\{who.user}" if who.domain else who.user
        if ":" in name:
            raise NotSupported("HTTP Basic cannot carry a user name with a colon")
        return "Basic " + b64encode(f"{name}:{who.password}".encode()).decode("ascii")

    def _token(self, token: bytes) -> str | None:
        if self._context is None:
            assert self._credentials is not None
            self._context = initiator(
                self._credentials,
                _PROVIDERS[self.scheme],
                AuthLevel.CONNECT,
                world=self._world,
                target=f"HTTP/{self._host}",
                channel_bindings=self._bindings,
                dce_style=False,
            )
        ours = self._context.step(token)
        if ours is None:
            return None
        name = "NTLM" if self.scheme == "ntlm" else "Negotiate"
        return f"{name} {b64encode(ours).decode('ascii')}"

    def close(self) -> None:
        """Forget the keys; may be called twice."""
        context, self._context = self._context, None
        if context is not None:
            context.close()
