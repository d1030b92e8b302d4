"""What a client may choose. [MS-DCOM] 3.2.1, 3.2.4.1.1"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from oxid.auth.context import AuthLevel, AuthType
from oxid.auth.credentials import Anonymous, Credentials, Keytab, Ticket
from oxid.errors import ConfigurationError

RESOLVER_PORT: Final = 135
PING_PERIOD: Final = 120.0
"""Seconds between two pings. [MS-DCOM] 3.2.2.1"""


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
    connect_timeout: float = 10.0
    """For one connection with its handshake."""
    call_timeout: float | None = 120.0
    """For one call; None waits for ever."""
    idle_timeout: float = 10.0
    """A connection that nothing uses is closed after this."""
    release_timeout: float = 5.0
    """For telling a server what was released; after it the server's own time-outs do it."""
    ping_period: float = PING_PERIOD
    """Of all DCOM lifetime timers; must be the server's, scaled down only in tests."""
    raise_level: bool = True
    """Raise activation, and calls to exporters that ask for it, to integrity (CVE-2021-26414, CVE-2022-37978)."""

    @classmethod
    def from_environment(cls) -> ClientOptions:
        """The defaults, with the period of `OXID_PING_PERIOD` where that is set."""
        text = os.environ.get("OXID_PING_PERIOD", "")
        if not text:
            return cls()
        try:
            period = float(text)
        except ValueError:
            period = 0.0
        if not 0.05 <= period <= 86400:  # as a host's --ping-period
            raise ConfigurationError(
                f"OXID_PING_PERIOD: {text!r} is no period: seconds from 0.05 to 86400 were wanted"
            )
        return cls(ping_period=period)


@dataclass(frozen=True, slots=True)
class Blanket:
    """How calls to a server are secured; connections are shared only within one. [MS-DCOM] 3.2.4.1.1.1"""

    credentials: Credentials | None
    """None for unauthenticated calls."""
    level: int
    auth_type: AuthType | None
    target_name: str = ""

    @classmethod
    def of(cls, credentials: Credentials | None, options: ClientOptions, *, minimum: int = 0) -> Blanket:
        """The blanket of `credentials`, at the chosen level or at `minimum` where that is more."""
        if credentials is None:
            return UNAUTHENTICATED
        level = int(options.level)
        if options.raise_level and not isinstance(credentials, Anonymous):
            level = max(level, minimum)
        auth_type = options.auth_type
        if auth_type is None:
            auth_type = AuthType.SPNEGO if isinstance(credentials, Ticket | Keytab) else AuthType.NTLM
        return cls(credentials, level, auth_type, options.target_name)


UNAUTHENTICATED: Final = Blanket(None, 1, None)
