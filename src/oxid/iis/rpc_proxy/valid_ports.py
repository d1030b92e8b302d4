"""Which servers and ports a proxy may be asked for: ValidPorts. RH-30, RH-31, RH-114

    ports = ValidPorts.parse("server:593;server:49152-65535")
    target = parse_target(b"server:593")          raises Refused for what is no plain HOST:PORT
    ports.admits(target)

The host's text is compared as the client gave it, before any look-up: a name, its address and its other names are
each an entry of their own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self

log = logging.getLogger("oxid.iis.rpc_proxy")

MAX_HOST: Final = 1023
"""Characters of a server's name. [MS-RPCH] 2.2.2"""

_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_IPV6: Final = frozenset("abcdefABCDEF0123456789:.")


class Refused(Exception):
    """The target of a request is not one."""


class Target(NamedTuple):
    """An RPC server as a client names it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(query: bytes) -> Target:
    """Read `host:port` of a request's raw query. Raises Refused.

    The last colon splits; a port is decimal from 1 to 65535 without sign or leading zero, and the host holds nothing
    that anybody could read in another way: no escapes, no control characters.
    """
    try:
        text = query.decode("ascii")
    except UnicodeDecodeError:
        raise Refused("a server's name is ASCII") from None
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise Refused("HOST:PORT was expected")
    if len(host) > MAX_HOST:
        raise Refused("the server's name is too long")
    if not port.isdigit() or not 1 <= len(port) <= 5 or port[0] == "0" or int(port) > 0xFFFF:
        raise Refused("the port is no decimal number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise Refused("brackets belong to an IPv6 address")
    if ":" in host:
        if not _IPV6.issuperset(host):
            raise Refused("the server's address is no IPv6 address")
    elif not _NAME.issuperset(host):
        raise Refused("the server's name has characters that no name has")
    return Target(host, int(port))


class Ports(Protocol):
    """What decides which servers a proxy may be asked for."""

    def admits(self, target: Target, /) -> bool:
        """Whether a client may ask for this server and port, named like this."""
        ...

    def place(self, target: Target, /) -> str:
        """Name or address to connect to for it."""
        ...


@dataclass(frozen=True, slots=True)
class PortRule:
    """One entry: a host, or the beginning of its name, and a range of ports."""

    host: str
    """In lower case."""
    prefix: bool
    low: int
    high: int

    def admits(self, host: str, port: int) -> bool:
        if not self.low <= port <= self.high:
            return False
        return host.startswith(self.host) if self.prefix else host == self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{host}{'*' if self.prefix else ''}:{ports}"


@dataclass(frozen=True, slots=True)
class ValidPorts:
    """The list; an empty one admits nothing."""

    rules: tuple[PortRule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port[-port];…` as the registry has it. An entry that cannot be read is skipped, and the log
        says so."""
        rules = []
        for entry in text.split(";"):
            if entry.strip():
                rule = _rule(entry.strip())
                if rule is None:
                    log.warning(
                        "ValidPorts: %r is no HOST:PORT[-PORT] and admits nothing", entry.strip()[:80]
                    )
                else:
                    rules.append(rule)
        return cls(tuple(rules))

    def admits(self, target: Target) -> bool:
        """Whether a client may ask for this server and port, named like this."""
        host = target.host.lower()
        return any(rule.admits(host, target.port) for rule in self.rules)

    def place(self, target: Target) -> str:
        """Name or address to connect to: what the client said."""
        return target.host

    def __str__(self) -> str:
        return ";".join(map(str, self.rules))


def _rule(entry: str) -> PortRule | None:
    host, colon, ports = entry.rpartition(":")
    low, dash, high = ports.partition("-")
    if not colon or not _is_port(low) or (dash and not _is_port(high)):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    prefix = host.endswith("*")
    host = host.removesuffix("*").lower()
    if not (_NAME.issuperset(host) or _IPV6.issuperset(host)) or (not host and not prefix):
        return None
    first, last = int(low), int(high or low)
    return PortRule(host, prefix, first, last) if first <= last else None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= len(text) <= 5 and 0 < int(text) <= 0xFFFF
