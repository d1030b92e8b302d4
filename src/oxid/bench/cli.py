"""`oxid bench`: measurements."""

from __future__ import annotations

import json
import sys
import time
from fnmatch import fnmatch

import click

from oxid.bench.cases import Case, cases, chosen
from oxid.bench.peers import NEEDS, installed
from oxid.bench.report import data_of, machine, table
from oxid.bench.rounds import profile_case, run_rounds
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


@click.group()
def bench() -> None:
    """Measure how fast calls are."""


@bench.command()
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Each runs every case once."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=0.8,
    show_default=True,
    help="Of one case in one round, without the warm-up.",
)
@click.option(
    "--case", "patterns", multiple=True, metavar="PATTERN", help="Only these (null, 'echo-*'); repeatable."
)
@click.option("--list", "only_list", is_flag=True, help="Name the cases and their bars, measure nothing.")
@click.option("--profile", metavar="CASE", help="Where the time of one case goes, on both ends.")
@click.option("--peers", is_flag=True, help="Also Pyro5, RPyC, gRPC and impacket.")
@click.option("--peer-server", metavar="HOST:PORT", help="Also the management call of that RPC server.")
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Of the memory cases.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rpc(
    rounds: int,
    seconds: float,
    patterns: tuple[str, ...],
    only_list: bool,
    profile: str | None,
    peers: bool,
    peer_server: str | None,
    connections: int,
    as_json: bool,
) -> None:
    """Calls per second next to a raw uvloop echo of the same round.

    Sequential cases run client and server on one core; those with 64 connections may use all. Ratios are
    medians over the rounds. Only ratios can be compared between machines.
    """
    address = Address.parse(peer_server, default_port=135) if peer_server else None
    known = cases(peers=peers, peer_server=(address.host, address.port) if address else None)
    if only_list:
        _list(known, as_json=as_json)
        return
    if profile is not None:
        _profile(_one(known, profile), seconds, as_json=as_json)
        return
    names = {case.name for case in known if _wanted(case, patterns)}
    if not names:
        raise ConfigurationError(f"no case matches {', '.join(patterns)}; --list names them")
    say = Progress()
    if peers and (missing := [peer for peer in NEEDS if not installed(peer)]):
        say(f"not installed: {', '.join(missing)}; ./oxid setup bench installs them")
    try:
        results = run_rounds(
            chosen(known, names), rounds=rounds, seconds=seconds, connections=connections, say=say
        )
    finally:
        say.done()
    if as_json:
        click.echo(json.dumps(data_of(results)))
        return
    here = machine()
    click.echo(
        f"{rounds} rounds of {seconds:g} s, Python {here['python']}, {here['loop']}, "
        f"{here['processors']} processors, load {here['busy'][0]}"
    )
    for line in table(results):
        click.echo(line)


def _wanted(case: Case, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch(case.name, pattern) for pattern in patterns)


def _one(known: list[Case], name: str) -> Case:
    found = [case for case in known if case.name == name and not case.memory and case.peer is None]
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
        click.echo(f"{case.name:16} {case.what:44} {bars}".rstrip())


def _profile(case: Case, seconds: float, *, as_json: bool) -> None:
    say = Progress()
    say(f"profiling {case.name}")
    try:
        texts = profile_case(case, seconds)
    finally:
        say.done()
    if as_json:
        click.echo(json.dumps(texts))
        return
    for end, text in texts.items():
        click.echo(f"--- {case.name}, {end} ---\n{text.strip()}\n")
