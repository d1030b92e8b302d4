"""`oxid agent`: the machine's ping agent and resolver, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from oxid.cli.logs import start_logging
from oxid.cli.parameters import ADDRESS, log_level_option
from oxid.config import Address, HostOptions


@click.command()
@click.option(
    "--socket", type=click.Path(path_type=Path), help="Where processes find it (OXID_AGENT_SOCKET)."
)
@click.option(
    "--rpc", multiple=True, type=ADDRESS, help="Where servers find the objects of this machine; repeatable."
)
@click.option(
    "--advertise", multiple=True, metavar="NAME", help="Name or address told to servers; repeatable."
)
@click.option("--detach", is_flag=True, help="Return once it listens; it ends when nobody needs it.")
@log_level_option
def agent(
    socket: Path | None,
    rpc: tuple[Address, ...],
    advertise: tuple[str, ...],
    detach: bool,
    log_level: str | None,
) -> None:
    """Ping, for all processes of this user, what they hold on other machines, and let servers find their sinks.

    Programs start one by themselves when they need it; a host (oxid serve) is one.
    """
    from oxid.cli.serve import loop_factory
    from oxid.com.agent_process import BUSY_EXIT, AnotherAgent, agent_lock, agent_socket
    from oxid.host.agent import AgentOptions, run_agent

    path = socket or agent_socket()
    start_logging(HostOptions(Path(), log_level=log_level or "info"), verbose=0)
    options = AgentOptions(path, rpc, advertise, on_demand=detach)
    with ExitStack() as stack:
        try:
            stack.enter_context(agent_lock(path))
        except AnotherAgent as error:
            click.echo(f"oxid: {error}", err=True)
            sys.exit(BUSY_EXIT)
        told = _detach() if detach else None
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(run_agent(options, lambda: _ready(path, told)))


def _ready(path: Path, told: int | None) -> None:
    """Say that it listens: to whoever waits for a detached one, else to the terminal."""
    if told is None:
        click.echo(f"ready agent={path}")
        return
    os.write(told, b"\0")
    os.close(told)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _detach() -> int:
    """Go on in the background; returns where the new process says that it is ready. The old one waits for that."""
    heard, told = os.pipe()
    if os.fork():
        os.close(told)
        word = os.read(heard, 1)
        os._exit(0 if word else 1)
    os.close(heard)
    os.setsid()
    return told
