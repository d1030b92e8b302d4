"""How an RPC proxy is set up: what Windows keeps in the registry under `Rpc\\RpcProxy`, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from oxid.errors import ConfigurationError
from oxid.iis.rpc_proxy.valid_ports import Ports, ValidPorts
from oxid.tunnel.options import TunnelOptions
from oxid.tunnel.rts import MAX_LIFETIME, MIN_LIFETIME

MAX_WINDOW: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """One proxy. Times are seconds."""

    enabled: bool = True
    """Off: every tunnel is refused."""
    valid_ports: Ports = field(default_factory=ValidPorts)
    """Which servers clients may ask for; empty for none. RH-30"""
    allow_anonymous: bool = False
    """Clients that do not say who they are. RH-27"""
    allow_plain: bool = False
    """Clients without TLS. RH-27"""
    nearby: bool = True
    """Servers of this process are reached without a socket."""
    connect_timeout: float = 10.0
    """For the look-up of a server's name and the connection to it."""
    banner_timeout: float = 10.0
    """For a server's first bytes in version 1."""
    half_close_grace: float = 5.0
    """What a server may still send in version 1 when its client has ended its half. RH-11"""
    max_channels_per_source: int = 10_000
    """Channels of one client address; behind one address there may be many machines. RH-115"""
    max_connects_per_second: int = 5_000
    """Connections that are begun to one server: a proxy is no means to flood others. RH-115"""
    tunnel: TunnelOptions = field(default_factory=lambda: TunnelOptions(receive_window=MAX_WINDOW))
    """Windows, timers and limits of version 2."""

    def scaled(self, period: float) -> ProxySettings:
        """The same with the timers of the wire scaled: a ConnectionTimeout of 120 s takes `period` seconds."""
        return replace(self, tunnel=replace(self.tunnel, period=period))


_SWITCHES: Final = ("enabled", "allow_anonymous", "allow_plain", "nearby")


def proxy_settings(table: Mapping[str, Any], where: str, base: ProxySettings | None = None) -> ProxySettings:
    """Read the table `[rpc_proxy]`. Raises ConfigurationError naming the key that is wrong."""
    changes: dict[str, Any] = {}
    for name, value in table.items():
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise ConfigurationError(f"{where} {name}: true or false was wanted")
            changes[name] = value
        elif name == "valid_ports":
            entries = value if isinstance(value, list) else [value]
            if not all(isinstance(entry, str) for entry in entries):
                raise ConfigurationError(
                    f"{where} valid_ports: text like 'server:593;server:1024-65535' was wanted"
                )
            changes[name] = ValidPorts.parse(";".join(entries))
        elif name == "out_lifetime":
            if not isinstance(value, int) or not MIN_LIFETIME <= value <= MAX_LIFETIME:
                raise ConfigurationError(
                    f"{where} out_lifetime: bytes from {MIN_LIFETIME} to {MAX_LIFETIME} were wanted"
                )
            tunnel = (base or ProxySettings()).tunnel
            changes["tunnel"] = replace(tunnel, channel_lifetime=value)
        else:
            known = ", ".join((*_SWITCHES, "valid_ports", "out_lifetime"))
            raise ConfigurationError(f"{where}: unknown key {name!r}; there are {known}")
    return replace(base or ProxySettings(), **changes)
