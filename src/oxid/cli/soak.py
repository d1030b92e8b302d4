"""`oxid soak`: long scenarios with real processes; they live in oxid.soak."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Final

import click

from oxid.bench.cli import Progress
from oxid.cli.output import emit, json_option

ON_TERMINAL_S: Final = 2.0
ELSEWHERE_S: Final = 60.0


@click.group()
def soak() -> None:
    """Let real processes live and die for hours, and see that nothing is lost and nothing is left."""


@soak.command()
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long; start and end take some seconds more.",
)
@click.option(
    "--cycles",
    type=click.IntRange(1),
    help="Processes of the static endpoint's server that are to come and go, if that takes longer (any number).",
)
@click.option(
    "--clients",
    type=click.IntRange(2, 2000),
    default=200,
    show_default=True,
    help="Client processes at a time.",
)
@click.option("--seed", type=click.IntRange(0), help="Of all random choices (a new one each time).")
@click.option(
    "--ping-period",
    "period",
    type=click.FloatRange(0.25, 120),
    help="Scales the lifetimes of objects, in seconds. [default: 1, more for over 25 clients a processor]",
)
@json_option
@click.option("--keep", is_flag=True, help="Leave the host's state and logs, and say where.")
@click.pass_context
def rpcss(
    context: click.Context,
    minutes: float,
    cycles: int | None,
    clients: int,
    seed: int | None,
    period: float | None,
    as_json: bool,
    keep: bool,
) -> None:
    """Lifetimes of objects: a host with local servers, and many clients, some of which are killed, stopped or cut off.

    Looks all along that no client that lives loses an object, and that what nobody holds any more goes in time; at
    the end, that the host is as it was at the start. Exit code 1 where anything of that did not hold. Ctrl-C ends it
    early, with everything brought to rest and judged all the same.
    """
    from oxid.soak.report import table
    from oxid.soak.run import run_soak
    from oxid.soak.settings import Settings, bearable_period

    seed = secrets.randbelow(1_000_000) if seed is None else seed
    settings = Settings(minutes, clients, seed, period or bearable_period(clients), cycles, keep)
    say = Seldom()
    try:
        say(f"seed {seed}", now=True)
        data = run_soak(settings, say)
    finally:
        say.done()
    emit(data, table(data), as_json=as_json)
    context.exit(0 if data["sound"] else 1)


@soak.command()
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="How long at most. [default: 10, or as long as --sessions takes]",
)
@click.option("--sessions", type=click.IntRange(100), help="End after so many tunnelled sessions.")
@click.option(
    "--clients", type=click.IntRange(1, 1000), default=48, show_default=True, help="Clients at a time."
)
@click.option("--seed", type=click.IntRange(0), help="Of all random choices (a new one each time).")
@click.option(
    "--tunnel-period",
    "period",
    type=click.FloatRange(0.5, 120),
    default=4.0,
    show_default=True,
    help="Scales the timers of tunnels, in seconds.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    default=Path("oxid-soak-http.png"),
    show_default=True,
    help="Picture (PNG) of memory and counts over time.",
)
@click.option("--no-plot", is_flag=True, help="No picture.")
@click.option("--trace", is_flag=True, help="Tell which lines of the host's code memory has grown in; slow.")
@json_option
@click.option("--keep", is_flag=True, help="Leave the host's state and logs, and say where.")
@click.pass_context
def http(
    context: click.Context,
    minutes: float | None,
    sessions: int | None,
    clients: int,
    seed: int | None,
    period: float,
    picture: Path,
    no_plot: bool,
    trace: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Tunnels and pages: a host with web server and RPC proxy, and clients that do everything that may leave something.

    Load and rest take turns. At each rest the host's live counts, descriptors, threads and tables are those after the
    warm-up; memory does not grow with the sessions. Exit code 1 where anything of that did not hold. Ctrl-C ends it
    early, with everything brought to rest and judged all the same.
    """
    from oxid.soak.http_plot import MISSING, can_plot, plot
    from oxid.soak.http_report import table
    from oxid.soak.http_run import run_http_soak
    from oxid.soak.http_settings import HttpSettings

    seed = secrets.randbelow(1_000_000) if seed is None else seed
    settings = HttpSettings(minutes, sessions, clients, seed, period, trace, keep)
    say = Seldom()
    draws = not no_plot and can_plot()
    if not no_plot and not draws:
        click.echo(f"oxid: {MISSING}", err=True)
    try:
        say(f"seed {seed}", now=True)
        data = run_http_soak(settings, say)
    finally:
        say.done()
    data["plot"] = None
    if draws:
        try:
            plot(data, picture)
            data["plot"] = str(picture)
        except OSError as error:
            click.echo(f"oxid: no picture: {picture}: {error.strerror}", err=True)
    lines = [*table(data), *([f"memory and counts over time are drawn in {picture}"] if data["plot"] else [])]
    emit(data, lines, as_json=as_json)
    context.exit(0 if data["sound"] else 1)


class Seldom(Progress):
    """Progress of something that takes hours: every other second on a terminal, else once in a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._every = ON_TERMINAL_S if sys.stderr.isatty() else ELSEWHERE_S
        self._next = 0.0
        self._stage = ""

    def __call__(self, text: str, *, now: bool = False) -> None:
        """Say what is going on, at once where it is not just other figures."""
        stage = "" if text[:1].isdigit() else text
        if now or stage != self._stage or time.monotonic() >= self._next:
            self._stage, self._next = stage, time.monotonic() + self._every
            super().__call__(text)
