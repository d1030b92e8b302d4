"""What `oxid bench rpc` measures, against what, and how fast it has to be. (Others: `rpcss_cases`, `http_cases`.)

A case names its server and client, the case whose rate of the same round it is divided by, and its bars.
Sequential cases run both processes on one core: calls per second are then one over the processor time of both
ends, and the tens of microseconds that a virtual machine needs to wake another core hide nobody's slowness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from oxid.bench.peers import installed

KIB: Final = 1024


AT_MOST: Final = {
    "mean_ms": "ms",
    "bytes": "bytes",
    "longest_ms": "ms at a stretch",
    "pings": "pings of a set a period",
    "tick": "periods for a tick",
    "first": "periods to tell all",
    "kib": "KiB",
    "grown_mib": "MiB of growth",
}
AT_LEAST: Final = {"adds": "adds/s", "served": "in a second of the server's core"}
"""Measures of a report that bars may be of, with their units."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a case has to reach."""

    value: float
    of: str = "ratio"
    """`ratio` to the base, `times` another case's rate, or a measure: of AT_MOST, AT_LEAST."""
    against: str | None = None
    """The other case of `times`."""

    @property
    def at_most(self) -> bool:
        return self.of in AT_MOST

    def met(self, measured: float) -> bool:
        return measured <= self.value if self.at_most else measured >= self.value

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        number = f"{self.value:.0f}" if self.value >= 1000 else f"{self.value:g}"
        unit = f"x {self.against}" if self.of == "times" else {**AT_MOST, **AT_LEAST}.get(self.of, "")
        return f"{sign} {number} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    what: str
    server: str | None
    """Function of `oxid.bench.servers`, or `module.function`; None for a server that somebody else runs."""
    client: str
    """Function of `oxid.bench.clients`, or `module.function`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the client."""
    server_options: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    bars: tuple[Bar, ...] = ()
    cores: str = "one"
    """`one`: both processes on one core; `two`: each on a core of its own; `any`."""
    peer: str | None = None
    """Module of `oxid.bench.peers`."""
    how: str = "load"
    """`load`: calls are counted, in every round. Once: `hold`, connections are held and counted; `alone`, one
    process measures itself; `fleet`, processes of a whole machine; `tunnels`, idle ones are held and counted."""
    adds: int = 0
    """Objects that one call adds to a ping set."""
    figure: str = "{rate:.0f}"
    """What the table shows in the second column."""
    tells: str = ""
    """A line below the table."""

    @property
    def once(self) -> bool:
        """Whether more rounds would say nothing more."""
        return self.how != "load"


def _cores(connections: int) -> str:
    return "one" if connections == 1 else "any"


def _raw(name: str, what: str, **options: Any) -> Case:
    return Case(name, what, "raw", "raw", options, cores=_cores(options.get("connections", 1)))


def _calls(name: str, what: str, base: str, *bars: Bar, **options: Any) -> Case:
    cores = _cores(options.get("connections", 1))
    return Case(name, what, "rpc", "calls", options, base=base, bars=bars, cores=cores)


OURS: Final = (
    _raw("raw", "raw uvloop echo, 100 bytes"),
    _calls(
        "null",
        "plain RPC null call, sequential",
        "raw",
        Bar(0.65),
        Bar(1.3, "times", "pyro5-null"),
        Bar(2, "times", "rpyc-null"),
        Bar(10, "times", "grpc-null"),
        Bar(60, "times", "impacket-null"),
        operation="null",
    ),
    _calls("echo-100", "100-byte echo, sequential", "raw", Bar(0.58), operation="echo"),
    _calls("medium", "medium struct, sequential", "raw", Bar(0.38), operation="medium"),
    Case("add", "ORPC Calculator.Add, plain def", "objects", "add", base="raw", bars=(Bar(0.5),)),
    Case(
        "add-async",
        "ORPC Add, async def",
        "objects",
        "add",
        {"coroutine": True},
        base="raw",
        bars=(Bar(0.45),),
    ),
    Case("add-ntlm", "ORPC Add, NTLM privacy", "objects", "add", {"secure": True}, base="raw"),
    _calls("null-16deep", "null, 16 deep on one connection", "raw", Bar(1.2), operation="null", depth=16),
    _calls("echo-100-ntlm", "100-byte echo, NTLM privacy", "raw", Bar(0.38), operation="echo", secure=True),
    _raw("raw-64k", "raw uvloop echo, 64 KiB", size=64 * KIB),
    _calls(
        "echo-64k",
        "64 KiB echo, 5,840-byte fragments",
        "raw-64k",
        Bar(0.2),
        operation="echo",
        size=64 * KIB,
        large=False,
    ),
    _calls(
        "echo-64k-large",
        "64 KiB echo, large fragments",
        "raw-64k",
        Bar(0.3),
        operation="echo",
        size=64 * KIB,
    ),
    _raw("raw-1m", "raw uvloop echo, 1 MiB", size=KIB * KIB),
    _calls(
        "echo-1m",
        "1 MiB echo, 5,840-byte fragments",
        "raw-1m",
        operation="echo",
        size=KIB * KIB,
        large=False,
    ),
    _calls("echo-1m-large", "1 MiB echo, large fragments", "raw-1m", operation="echo", size=KIB * KIB),
    Case(
        "bind",
        "connect and bind, unauthenticated",
        "rpc",
        "bind",
        bars=(Bar(8, "times", "impacket-bind"),),
    ),
    Case("bind-ntlm", "connect and bind, NTLM", "rpc", "bind", {"secure": True}, bars=(Bar(1.5, "mean_ms"),)),
    _raw("raw-x64", "raw uvloop echo, 64 connections", connections=64),
    _calls("null-x64", "null call, 64 connections", "raw-x64", Bar(0.55), operation="null", connections=64),
    Case(
        "mgmt-x64",
        "is_server_listening, 64 connections",
        "rpc",
        "management",
        {"connections": 64},
        base="raw-x64",
        bars=(Bar(1, "times", "mgmt-x64-peer"),),
        cores="any",
    ),
    Case(
        "memory",
        "server memory per bound idle connection",
        "rpc",
        "hold",
        bars=(Bar(2 * KIB, "bytes"),),
        how="hold",
        figure="{bytes:.0f} bytes",
    ),
    Case(
        "memory-ntlm",
        "the same with NTLM",
        "rpc",
        "hold",
        {"secure": True},
        bars=(Bar(6 * KIB, "bytes"),),
        how="hold",
        figure="{bytes:.0f} bytes",
    ),
)


def _peer(name: str, module: str, operation: str, connections: int = 1, **options: Any) -> Case:
    title = name.partition("-")[0]
    load: dict[str, Any] = {"operation": operation, **options}
    what = f"{title} {operation}"
    if connections > 1:
        load["connections"] = connections
        what += f", {connections} connections"
    return Case(
        name,
        what,
        f"peer:{module}",
        f"peer:{module}",
        load,
        options,
        base="raw" if connections == 1 else "raw-x64",
        cores=_cores(connections),
        peer=module,
    )


PEERS: Final = (
    _peer("pyro5-null", "pyro5_peer", "null"),
    _peer("pyro5-echo", "pyro5_peer", "echo"),
    _peer("rpyc-null", "rpyc_peer", "null"),
    _peer("rpyc-echo", "rpyc_peer", "echo"),
    _peer("grpc-null", "grpc_peer", "null"),
    _peer("grpc-echo", "grpc_peer", "echo"),
    _peer("impacket-null", "impacket_peer", "null"),
    _peer("impacket-echo", "impacket_peer", "echo"),
    _peer("impacket-bind", "impacket_peer", "bind"),
    _peer("pyro5-null-x64", "pyro5_peer", "null", 64),
    _peer("rpyc-null-x64", "rpyc_peer", "null", 64),
    _peer("grpc-null-x64", "grpc_peer", "null", 64, coroutines=True),
)


def management_of(host: str, port: int) -> Case:
    """The management call of somebody else's server, with our client."""
    options = {"connections": 64, "host": host, "port": port}
    what = f"is_server_listening of {host}:{port}, 64 connections"
    return Case("mgmt-x64-peer", what, None, "management", options, base="raw-x64", cores="any")


def cases(*, peers: bool = False, peer_server: tuple[str, int] | None = None) -> list[Case]:
    """Everything that can be measured here; peers only where they are wanted and installed."""
    found = list(OURS)
    if peers:
        found += [case for case in PEERS if case.peer is not None and installed(case.peer)]
    if peer_server is not None:
        found.append(management_of(*peer_server))
    return found


def chosen(known: list[Case], names: set[str]) -> list[Case]:
    """The cases of these names, and those they are compared with, in the order known."""
    by_name = {case.name: case for case in known}
    wanted = set(names)
    for name in names:
        if base := by_name[name].base:
            wanted.add(base)
        wanted |= {bar.against for bar in by_name[name].bars if bar.against in by_name}
    wanted |= {base for name in wanted if (base := by_name[name].base)}
    return [case for case in known if case.name in wanted]
