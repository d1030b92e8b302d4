"""`oxid bench`: measurements."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import click

from oxid.bench.cases import Case, cases, chosen
from oxid.bench.http_cases import PEER, http_cases
from oxid.bench.http_cases import USUAL as USUAL_HTTP
from oxid.bench.http_cases import Sizes as HttpSizes
from oxid.bench.peers import NEEDS, installed
from oxid.bench.report import data_of, machine, table
from oxid.bench.rounds import profile_case, run_rounds
from oxid.bench.rpcss_cases import USUAL, Sizes, rpcss_cases
from oxid.config import Address
from oxid.errors import ConfigurationError


class Progress:
    """What is going on, on stderr: one line that changes on a terminal, else one per step."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        text = f"oxid: {text}, {time.monotonic() - self._began:.0f} s"
        if self._on_terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self) -> None:
        if self._on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What every measuring command can be told."""

    rounds: int
    seconds: float
    patterns: tuple[str, ...]
    only_list: bool
    profile: str | None
    as_json: bool


_OPTIONS = (
    click.option(
        "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Each runs every case once."
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        default=0.8,
        show_default=True,
        help="Of one case in one round, without the warm-up.",
    ),
    click.option(
        "--case",
        "patterns",
        multiple=True,
        metavar="PATTERN",
        help="Only these, by name ('echo-*'); repeatable. --list names them.",
    ),
    click.option("--list", "only_list", is_flag=True, help="Name the cases and their bars, measure nothing."),
    click.option("--profile", metavar="CASE", help="Where the time of one case goes, on all ends."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all measurements; it gets them as `Wishes`."""

    def run(
        rounds: int,
        seconds: float,
        patterns: tuple[str, ...],
        only_list: bool,
        profile: str | None,
        as_json: bool,
        **more: Any,
    ) -> None:
        command(Wishes(rounds, seconds, patterns, only_list, profile, as_json), **more)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]  # click's own way
    for option in reversed(_OPTIONS):
        run = option(run)
    return run


@click.group()
def bench() -> None:
    """Measure how fast calls and the web server are, and how much a machine's resolver bears."""


@bench.command()
@measuring
@click.option("--peers", is_flag=True, help="Also Pyro5, RPyC, gRPC and impacket.")
@click.option("--peer-server", metavar="HOST:PORT", help="Also the management call of that RPC server.")
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Of the memory cases.",
)
def rpc(wishes: Wishes, peers: bool, peer_server: str | None, connections: int) -> None:
    """Calls per second next to a raw uvloop echo of the same round.

    Sequential cases run client and server on one core; those with 64 connections may use all. Ratios are
    medians over the rounds. Only ratios can be compared between machines.
    """
    address = Address.parse(peer_server, default_port=135) if peer_server else None
    known = cases(peers=peers, peer_server=(address.host, address.port) if address else None)
    say = Progress()
    if peers:
        _miss([peer for peer in NEEDS if peer != PEER], say)
    measure(known, wishes, say, connections=connections)


@bench.command()
@measuring
@click.option(
    "--objects",
    type=click.IntRange(100),
    default=USUAL.objects,
    show_default=True,
    help="Of a full resolver: the memory and expiry cases.",
)
@click.option(
    "--processes", type=click.IntRange(2), default=USUAL.processes, show_default=True, help="Of a machine."
)
@click.option(
    "--resolvers",
    type=click.IntRange(1),
    default=USUAL.resolvers,
    show_default=True,
    help="That a machine's agent pings.",
)
@click.option(
    "--proxies",
    "held",
    type=click.IntRange(1),
    default=USUAL.held,
    show_default=True,
    help="Of each process of a machine.",
)
@click.option(
    "--period",
    type=click.FloatRange(0.5, 120),
    default=USUAL.period,
    show_default=True,
    help="Of a machine's pings, in seconds.",
)
def rpcss(wishes: Wishes, objects: int, processes: int, resolvers: int, held: int, period: float) -> None:
    """What a machine's resolver and ping agent bear: pings, activations, objects by the million, and silence.

    Pings and activations are compared with calls of the same round. A full resolver, and a machine with many
    processes, are measured once.
    """
    measure(rpcss_cases(Sizes(objects, processes, resolvers, held, period)), wishes, Progress())


@bench.command()
@measuring
@click.option("--peers", is_flag=True, help="Also uvicorn, which the bars of the web server are against.")
@click.option(
    "--tunnels",
    type=click.IntRange(4),
    default=USUAL_HTTP.tunnels,
    show_default=True,
    help="Held idle in one process, and as many in each of several.",
)
@click.option(
    "--file-mib",
    type=click.IntRange(1),
    default=USUAL_HTTP.file_bytes >> 20,
    show_default=True,
    help="Of the big file.",
)
@click.option(
    "--period",
    type=click.FloatRange(0.5, 120),
    default=USUAL_HTTP.period,
    show_default=True,
    help="Of idle tunnels, in seconds; pings come four times in it.",
)
def http(wishes: Wishes, peers: bool, tunnels: int, file_mib: int, period: float) -> None:
    """RPC over HTTP next to RPC over TCP, and the web server next to uvicorn and a bare sendfile.

    Sequential cases run client and server on one core, those with 64 connections on one each. Idle tunnels are
    held once.
    """
    say = Progress()
    if peers:
        _miss([PEER], say)
    sizes = HttpSizes(file_mib << 20, tunnels, period=period)
    measure(http_cases(sizes, peers=peers), wishes, say)


def _miss(peers: list[str], say: Progress) -> None:
    """Tell which peers are wanted and not installed."""
    if missing := [peer for peer in peers if not installed(peer)]:
        say(f"not installed: {', '.join(missing)}; ./oxid setup bench installs them")


def measure(known: list[Case], wishes: Wishes, say: Progress, *, connections: int = 0) -> None:
    """Do what is wished with these cases, and print what comes out."""
    if wishes.only_list:
        _list(known, as_json=wishes.as_json)
        return
    if wishes.profile is not None:
        _profile(_one(known, wishes.profile), wishes, say)
        return
    names = {case.name for case in known if _wanted(case, wishes.patterns)}
    if not names:
        raise ConfigurationError(f"no case matches {', '.join(wishes.patterns)}; --list names them")
    try:
        results = run_rounds(
            chosen(known, names),
            rounds=wishes.rounds,
            seconds=wishes.seconds,
            connections=connections,
            say=say,
        )
    finally:
        say.done()
    if wishes.as_json:
        click.echo(json.dumps(data_of(results)))
        return
    here = machine()
    click.echo(
        f"{wishes.rounds} rounds of {wishes.seconds:g} s, Python {here['python']}, {here['loop']}, "
        f"{here['processors']} processors, load {here['busy'][0]}"
    )
    for line in table(results):
        click.echo(line)


def _wanted(case: Case, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch(case.name, pattern) for pattern in patterns)


def _one(known: list[Case], name: str) -> Case:
    found = [
        case
        for case in known
        if case.name == name and case.how not in ("hold", "tunnels") and case.peer is None
    ]
    if not found:
        raise ConfigurationError(f"no case {name} to profile; --list names them")
    return found[0]


def _list(known: list[Case], *, as_json: bool) -> None:
    if as_json:
        rows = [{"case": c.name, "what": c.what, "base": c.base, "bars": [*map(str, c.bars)]} for c in known]
        click.echo(json.dumps(rows))
        return
    for case in known:
        bars = ", ".join(map(str, case.bars))
        click.echo(f"{case.name:18} {case.what:48} {bars}".rstrip())


def _profile(case: Case, wishes: Wishes, say: Progress) -> None:
    say(f"profiling {case.name}")
    try:
        texts = profile_case(case, wishes.seconds, say)
    finally:
        say.done()
    if wishes.as_json:
        click.echo(json.dumps(texts))
        return
    for end, text in texts.items():
        click.echo(f"--- {case.name}, {end} ---\n{text.strip()}\n")
