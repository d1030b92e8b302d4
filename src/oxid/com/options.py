"""What a client may choose. [MS-DCOM] 3.2.1, 3.2.4.1.1"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from oxid.auth.accounts import AccountStore
from oxid.auth.context import AuthLevel, AuthType, Impersonation
from oxid.auth.credentials import Anonymous, Credentials, Keytab, Ticket
from oxid.errors import ConfigurationError, hresult
from oxid.runtime.proxy_route import RESOLVER_PORT as PROXIED_RESOLVER_PORT
from oxid.runtime.proxy_route import ProxyRoute
from oxid.values.bindings import NCACN_HTTP, NCACN_IP_TCP
from oxid.values.status import E_INVALIDARG

RESOLVER_PORT: Final = 135
PING_PERIOD: Final = 120.0
"""Seconds between two pings. [MS-DCOM] 3.2.2.1"""
AGENTS: Final = ("auto", "own", "machine")


class Capabilities(IntFlag):
    """How calls carry identities and references: EOLE_AUTHENTICATION_CAPABILITIES of objidl.h."""

    NONE = 0
    SECURE_REFS = 0x2
    """References are counted per account, so that nobody else can release them."""
    STATIC_CLOAKING = 0x20
    """The identity of a proxy is the one that acts at its first call, or when its blanket is set."""
    DYNAMIC_CLOAKING = 0x40
    """The identity of each call is the one that acts when it is made."""
    DISABLE_AAA = 0x1000
    """Activation is refused where the server would run under our own identity."""

    def check(self) -> None:
        """Raises InvalidArgument for a combination that COM refuses."""
        both = Capabilities.STATIC_CLOAKING | Capabilities.DYNAMIC_CLOAKING
        if self & both == both:
            raise hresult(E_INVALIDARG, "cloaking is static or dynamic, not both")
        if unknown := int(self) & ~int(_KNOWN):
            raise hresult(E_INVALIDARG, f"capabilities {unknown:#x} are not known here")


_KNOWN: Final = (
    Capabilities.SECURE_REFS
    | Capabilities.STATIC_CLOAKING
    | Capabilities.DYNAMIC_CLOAKING
    | Capabilities.DISABLE_AAA
)


@dataclass(frozen=True, slots=True)
class Blanket:
    """How calls to a server are secured; connections are shared only within one. [MS-DCOM] 3.2.4.1.1.1

    What IClientSecurity::QueryBlanket tells: `auth_type` is the authentication service, `target_name` the server's
    principal name. The authorization service is always none, as for every provider that Windows has.
    """

    credentials: Credentials | None
    """Whose calls these are; None for unauthenticated ones."""
    level: int = AuthLevel.PKT_PRIVACY
    auth_type: AuthType | None = None
    target_name: str = ""
    impersonation: Impersonation = Impersonation.IMPERSONATE
    """What the server may do in our name."""
    capabilities: Capabilities = Capabilities.NONE
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    """Blankets are keys of what every activation and call looks up."""

    def __post_init__(self) -> None:
        key = (
            self.credentials,
            self.level,
            self.auth_type,
            self.target_name,
            self.impersonation,
            self.capabilities,
        )
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, credentials: Credentials | None, options: ClientOptions, *, minimum: int = 0) -> Blanket:
        """The blanket of `credentials`, at the chosen level or at `minimum` where that is more."""
        if credentials is None:
            return UNAUTHENTICATED
        return cls(
            credentials,
            int(options.level),
            options.auth_type or usual_provider(credentials),
            options.target_name,
            options.impersonation,
            options.capabilities,
        ).at_least(minimum if options.raise_level else 0)

    def at_least(self, level: int) -> Blanket:
        """The same with at least this level. Anonymous and unauthenticated callers have nothing to protect with."""
        if level <= self.level or self.credentials is None or isinstance(self.credentials, Anonymous):
            return self
        return Blanket(
            self.credentials, level, self.auth_type, self.target_name, self.impersonation, self.capabilities
        )

    def __str__(self) -> str:
        who = self.credentials
        if who is None:
            return "nobody"
        name = getattr(who, "user", None) or getattr(who, "principal", None) or type(who).__name__.lower()
        return f"{name} at level {int(self.level)}"


UNAUTHENTICATED: Final = Blanket(None, 1)


def usual_provider(credentials: Credentials) -> AuthType:
    """NTLM with passwords, SPNEGO with Kerberos tickets."""
    return AuthType.SPNEGO if isinstance(credentials, Ticket | Keytab) else AuthType.NTLM


@dataclass(frozen=True, slots=True)
class AuthInfo:
    """How one activation is secured, and nothing else: COAUTHINFO of objidl.h.

    Proxies of the object are secured as the machine's options say, not like this.
    """

    credentials: Credentials | None
    level: AuthLevel = AuthLevel.PKT_PRIVACY
    auth_type: AuthType | None = None
    target_name: str = ""
    impersonation: Impersonation = Impersonation.IMPERSONATE

    def blanket(self) -> Blanket:
        if self.credentials is None:
            return UNAUTHENTICATED
        provider = self.auth_type or usual_provider(self.credentials)
        return Blanket(self.credentials, int(self.level), provider, self.target_name, self.impersonation)


@dataclass(frozen=True, slots=True)
class CallbackOptions:
    """How objects of this process are reached by the servers that it passes them to."""

    host: str | None = None
    """Where to listen; None for the address by which the server is reached."""
    ports: int | tuple[int, int] = 0
    """The port of objects, or a range of them; 0 for any that is free."""
    resolver_port: int | None = None
    """The port of the machine's resolver, where servers ask for objects and ping them; None for any."""
    advertise: tuple[str, ...] = ()
    """Names or addresses told to servers, where they do not see the address listened on (NAT, containers)."""
    accounts: AccountStore | None = field(default=None, repr=False)
    """Who may call with NTLM; None for nobody."""
    keytab: Keytab | None = None
    """Our keys for callers with Kerberos; None for no Kerberos."""
    minimum_level: int = AuthLevel.PKT_INTEGRITY
    """The least protection of a call."""
    allow_anonymous: bool = False
    """Anybody may call: for servers that cannot say who they are."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a Machine connects, authenticates and waits. Times are seconds."""

    port: int = RESOLVER_PORT
    """Where the other machine's resolver listens."""
    level: AuthLevel = AuthLevel.PKT_PRIVACY
    """Protection of calls; activation is never below integrity, as hardened servers demand."""
    auth_type: AuthType | None = None
    """The security package; None for NTLM with passwords and SPNEGO with Kerberos tickets."""
    target_name: str = ""
    """The service's principal name (SPN) for Kerberos; empty for `host/<the name connected to>`."""
    impersonation: Impersonation = Impersonation.IMPERSONATE
    """What servers may do in our name."""
    capabilities: Capabilities = Capabilities.NONE
    """Cloaking, and references that are ours alone."""
    connect_timeout: float = 10.0
    """For one connection with its handshake."""
    call_timeout: float | None = 120.0
    """For one call; None waits for ever."""
    idle_timeout: float = 10.0
    """A connection that nothing uses is closed after this."""
    release_timeout: float = 5.0
    """For telling a server what was released; after it the server's own time-outs do it."""
    ping_period: float = field(default_factory=lambda: _period_of(os.environ))
    """Of all DCOM lifetime timers; must be the server's, scaled down only in tests. Without a word 120 s, or what
    `OXID_PING_PERIOD` says."""
    raise_level: bool = True
    """Raise activation, and calls to exporters that ask for it, to integrity (CVE-2021-26414, CVE-2022-37978)."""
    agent: str = "auto"
    """Who pings: `machine`, the machine's agent, started where none runs; `own`, this process by itself; `auto`,
    the machine's agent once something is held for longer than a moment, and this process where there can be none."""
    agent_socket: str = ""
    """Where the machine's agent is found; empty for `OXID_AGENT_SOCKET`, or the usual place."""
    callbacks: CallbackOptions = CallbackOptions()
    """For objects of this process that servers call."""
    proxy: ProxyRoute | None = None
    """The RPC proxy through which every call travels; None for TCP. The port is then 593 unless another one is named,
    and this process pings for itself: the machine's agent does not know the way."""

    @property
    def tower_id(self) -> int:
        """The protocol of the bindings by which servers are reached."""
        return NCACN_IP_TCP if self.proxy is None else NCACN_HTTP

    @property
    def usual_port(self) -> int:
        """Where a resolver listens whose bindings name no port."""
        return RESOLVER_PORT if self.proxy is None else PROXIED_RESOLVER_PORT

    def __post_init__(self) -> None:
        if self.proxy is not None and self.port == RESOLVER_PORT:
            object.__setattr__(self, "port", PROXIED_RESOLVER_PORT)
        self.capabilities.check()
        if self.agent not in AGENTS:
            raise ConfigurationError(f"agent {self.agent!r}: {', '.join(AGENTS)} were expected")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> ClientOptions:
        """The defaults, with the period of `OXID_PING_PERIOD` and the agent of `OXID_AGENT` where those are set."""
        environ = os.environ if environ is None else environ
        return cls(ping_period=_period_of(environ), agent=environ.get("OXID_AGENT") or "auto")


def _period_of(environ: Mapping[str, str]) -> float:
    text = environ.get("OXID_PING_PERIOD", "")
    if not text:
        return PING_PERIOD
    try:
        period = float(text)
    except ValueError:
        period = 0.0
    if not 0.05 <= period <= 86400:  # as a host's --ping-period
        raise ConfigurationError(
            f"OXID_PING_PERIOD: {text!r} is no period: seconds from 0.05 to 86400 were wanted"
        )
    return period
