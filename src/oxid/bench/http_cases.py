"""What `oxid bench http` measures: RPC over HTTP next to the same over TCP, and the web server next to uvicorn.

Ratios are to a case of the same round. Bars against uvicorn need `--peers`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from oxid.bench.cases import KIB, OURS, Bar, Case
from oxid.bench.peers import installed

MANY: Final = 64
SETTING_UP: Final = 4
"""Tunnels that are made at once, so that the server never waits for the client."""
PEER: Final = "uvicorn_peer"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    file_bytes: int = 1 << 30
    tunnels: int = 2500
    """Of one process; four times as many are held in four."""
    processes: int = 4
    period: float = 12.0
    """In the place of the 120 s of a wire ConnectionTimeout, for idle tunnels: a proxy pings four times in it."""


USUAL: Final = Sizes()


def http_cases(sizes: Sizes, *, peers: bool = False) -> list[Case]:
    """Everything, in the order of the table."""
    found = [*_yardsticks(), *_tunnel(), *_held(sizes)]
    if peers and installed(PEER):
        found += [_gets("uvicorn", "uvicorn with httptools", "/", server=f"peer:{PEER}")]
        found += [_gets("uvicorn", "uvicorn with httptools", "/", MANY, server=f"peer:{PEER}")]
    return [*found, *_web(), *_files(sizes.file_bytes)]


def _yardsticks() -> list[Case]:
    """What GETs are compared with where there is no uvicorn."""
    by_name = {case.name: case for case in OURS}
    return [replace(by_name["raw"], bars=()), replace(by_name["raw-x64"], bars=(), cores="two")]


# RPC over HTTP ------------------------------------------------------------------------------------------


def _tunnel() -> list[Case]:
    return [
        *_pair("null", "null call", Bar(0.45), operation="null"),
        *_pair(
            f"null-x{MANY}", f"null call, {MANY} connections", Bar(0.5), operation="null", connections=MANY
        ),
        *_pair("echo-1m", "1 MiB echo", Bar(0.5), operation="echo", size=KIB * KIB),
        Case(
            "tunnel-apart",
            "null call, sockets between proxy and server",
            "http_servers.tunnel",
            "http_clients.calls",
            {"operation": "null"},
            {"near": False},
            base="tcp-null",
        ),
        Case(
            "set-up",
            "virtual connection made and closed, Basic",
            "http_servers.tunnel",
            "http_clients.set_up",
            {"depth": SETTING_UP},
            bars=(Bar(300, "served"),),
            cores="two",
            tells="{served:.0f} in a second of the server's core, {rate:.0f} by the clock",
        ),
    ]


def _pair(name: str, what: str, bar: Bar, **options: Any) -> list[Case]:
    """The same over TCP and through the tunnel, with the same server process."""
    cores = "one" if options.get("connections", 1) == 1 else "two"
    direct = f"tcp-{name}"
    return [
        Case(direct, f"{what} over TCP", "http_servers.tunnel_tcp", "calls", options, cores=cores),
        Case(
            f"tunnel-{name}",
            f"{what} through the RPC proxy",
            "http_servers.tunnel",
            "http_clients.calls",
            options,
            base=direct,
            bars=(bar,),
            cores=cores,
        ),
    ]


def _held(sizes: Sizes) -> list[Case]:
    return [
        _hold("idle", sizes.tunnels, 1, sizes.period),
        _hold("idle-several", sizes.tunnels * sizes.processes, sizes.processes, sizes.period),
    ]


def _hold(name: str, connections: int, processes: int, period: float) -> Case:
    where = "one process" if processes == 1 else f"{processes} processes"
    return Case(
        name,
        f"memory of an idle tunnel, {connections:,} in {where}",
        None,
        "http_hold",
        {"connections": connections, "processes": processes, "period": period},
        bars=(Bar(40, "kib"),),
        how="tunnels",
        figure="{kib:.1f} KiB",
        tells="{connections:,.0f} tunnels of {wanted:,.0f} wanted ({descriptors:,.0f} descriptors allowed), opened "
        "with {rate:.0f} a second; {pings:.0f} pings at rest took {ping_cpu_us:.0f} us of processor time for each "
        "tunnel; {tasks:.0f} tasks and {timers:.0f} timers in one process",
    )


# The web server -----------------------------------------------------------------------------------------


def _web() -> list[Case]:
    return [
        case
        for connections in (1, MANY)
        for case in (
            _ours(
                "non-blocking", "pywin32-style extension on the loop", "/nonblocking.dll", connections, 1.0
            ),
            _ours("threaded", "the same from a pool's thread", "/threaded.dll", connections, 0.5),
            _ours("begin", "asynchronous extension, begin(ecb)", "/begin.dll", connections),
            _ours("asgi", "ASGI application, our bridge", "/asgi", connections),
            _ours("static", "file of 100 bytes", "/hundred.txt", connections, 1.2),
        )
    ]


def _ours(name: str, what: str, path: str, connections: int, bar: float | None = None) -> Case:
    against = "uvicorn" if connections == 1 else f"uvicorn-x{connections}"
    bars = () if bar is None else (Bar(bar, "times", against),)
    return _gets(name, what, path, connections, bars=bars)


def _gets(
    name: str,
    what: str,
    path: str,
    connections: int = 1,
    *,
    server: str = "http_servers.web",
    bars: tuple[Bar, ...] = (),
) -> Case:
    many = connections > 1
    return Case(
        f"{name}-x{connections}" if many else name,
        f"{what}, {connections} connections" if many else what,
        server,
        "http_clients.gets",
        {"path": path, "connections": connections},
        base=f"raw-x{connections}" if many else "raw",
        bars=bars,
        cores="two" if many else "one",
        peer=PEER if server.startswith("peer:") else None,
    )


def _files(size: int) -> list[Case]:
    of = {"file_bytes": size}
    what = f"file of {size / (1 << 30):.3g} GiB"
    figure = "{mib_s:.0f} MiB/s"
    return [
        Case(
            "bare-file",
            f"{what}, bare os.sendfile",
            "http_servers.bare_file",
            "http_clients.files",
            of,
            of,
            cores="two",
            figure=figure,
        ),
        Case(
            "file",
            what,
            "http_servers.web",
            "http_clients.files",
            of,
            of,
            base="bare-file",
            bars=(Bar(0.9), Bar(2, "grown_mib")),
            cores="two",
            figure=figure,
        ),
    ]
