"""`oxid serve`: the host as a process: options, first account, log, signals, ready and stopped lines."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from oxid.cli.apps import Offer, bundled, load, offer_of
from oxid.cli.logs import start_logging
from oxid.cli.output import progress
from oxid.cli.parameters import ADDRESS, LISTENER, PERIOD, PORT_RANGE, log_level_option, state_option
from oxid.cli.program import VERBOSE, complain, explain
from oxid.config import HostOptions, credentials_file, host_options
from oxid.errors import ConfigurationError
from oxid.ledger import Ledger

STOP_WITHIN_S: Final = 10.0
"""A host that was told to stop has ended after this long, whatever its callers do."""

PATH: Final = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("apps", nargs=-1, metavar="[APP]...")
@click.option(
    "--config",
    type=PATH,
    envvar="OXID_CONFIG",
    help="TOML file: [host] with these options, [[app]], [[class]], [permissions].",
)
@state_option
@click.option("--rpc", multiple=True, type=ADDRESS, help="Where clients find us (127.0.0.1:135); repeatable.")
@click.option(
    "--ncacn-http",
    multiple=True,
    type=LISTENER,
    help="Where RPC proxies find us (127.0.0.1:593), or off; repeatable.",
)
@click.option(
    "--http", multiple=True, type=LISTENER, help="The web server (127.0.0.1:8080), or off; repeatable."
)
@click.option("--https", multiple=True, type=ADDRESS, help="The web server over TLS; repeatable.")
@click.option("--cert", type=PATH, help="Certificate of the web server, PEM.")
@click.option("--key", type=PATH, help="Its private key, PEM.")
@click.option("--tunnel-period", type=PERIOD, help="Scales the timers of RPC over HTTP (120).")
@click.option(
    "--proxy-insecure",
    is_flag=True,
    default=None,
    help="Let the RPC proxy take anonymous and plain-HTTP clients: for labs.",
)
@click.option("--exporter-ports", type=PORT_RANGE, help="Ports for the objects (any free one).")
@click.option(
    "--advertise", multiple=True, metavar="NAME", help="Name or address told to clients; repeatable."
)
@click.option("--ping-period", type=PERIOD, help="Scales the lifetimes of objects (120).")
@click.option("--keytab", type=PATH, help="Kerberos keys of this host.")
@log_level_option
@click.option("--log-json", is_flag=True, default=None, help="Log JSON.")
@click.option("--log-file", type=PATH, help="Log there instead of to stderr.")
@click.option(
    "--insecure-anonymous", is_flag=True, default=None, help="Let anybody activate and call: for labs."
)
@click.option(
    "--isolate", is_flag=True, default=None, help="Run each application (AppID) in a process of its own."
)
@click.option(
    "--identity",
    type=PATH,
    help="File with the account as which objects here call others (username=, password=).",
)
@click.pass_context
def serve(context: click.Context, /, apps: tuple[str, ...], config: Path | None, **given: Any) -> None:
    """Run the host. APP is a Python file or package.module with classes; without any, the samples."""
    command_line = {name.replace("_", "-"): value for name, value in given.items()}
    from oxid.com.agent_process import agent_socket

    verbose = context.find_root().meta.get(VERBOSE, 0)

    def read_options() -> HostOptions:
        options = host_options(command_line, environ=os.environ, file=config)
        return replace(options, state=options.state.absolute(), agent=agent_socket())

    options = read_options()
    start_logging(options, verbose=verbose)
    prepare_state(options)
    with progress("starting"):
        offered = [offer_of(load(app), app) for app in apps] or [bundled()]

    def reread() -> HostOptions:
        fresh = read_options()
        start_logging(fresh, verbose=verbose)
        return fresh

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        context.exit(runner.run(host_process(options, apps, offered, reread)))


async def host_process(
    options: HostOptions, apps: Sequence[str], offered: list[Offer], reread: Callable[[], HostOptions]
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    from oxid.host import Host
    from oxid.world import World

    credentials = credentials_file(options.identity) if options.identity is not None else None
    world = World.real()
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.put_nowait, number)
    classes = list(dict.fromkeys(found for offer in offered for found in offer.classes))
    interfaces = [found for offer in offered for found in offer.interfaces]
    async with Host(
        options, world, classes=classes, interfaces=interfaces, credentials=credentials, modules=apps
    ) as host:
        host.on_reload = lambda: told.put_nowait(signal.SIGHUP)
        click.echo(" ".join(["ready", *(f"{key}={value}" for key, value in host.ready)]))
        while await told.get() == signal.SIGHUP:
            try:
                await host.reload(reread())
            except Exception as error:  # a host does not end because its new configuration is wrong
                complain(f"the old configuration stays: {explain(error)}")
        # A thread, since what does not let itself be stopped may well hold the loop.
        give_up = threading.Timer(STOP_WITHIN_S - 0.5, stop_hard, [world.ledger])
        give_up.daemon = True
        give_up.start()
    give_up.cancel()
    click.echo(stopped_line(world.ledger))
    return 1 if any(world.ledger.live().values()) else 0


def stopped_line(ledger: Ledger) -> str:
    """`stopped live=0`, or what is still live."""
    live = {kind: count for kind, count in ledger.live().items() if count}
    return " ".join(
        [f"stopped live={sum(live.values())}", *(f"{kind}={count}" for kind, count in live.items())]
    )


def stop_hard(ledger: Ledger) -> None:
    """End the process when something does not let itself be stopped."""
    click.echo(stopped_line(ledger))
    complain("the host could not be stopped in time: a handler does not end")
    sys.stdout.flush()
    os._exit(1)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def prepare_state(options: HostOptions) -> None:
    """Make the state directory; where it is new, also the first administrator. Raises ConfigurationError."""
    from oxid.auth.account_file import FileAccountStore

    try:
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        text = f"cannot make the state directory {options.state}: {error.strerror}; name another with --state"
        raise ConfigurationError(text) from error
    if options.accounts_file.exists():
        return
    password = os.environ.get("OXID_ADMIN_PASSWORD")
    FileAccountStore(options.accounts_file).add(
        "admin", password or (made := secrets.token_urlsafe(12)), admin=True
    )
    if not password:
        click.echo(f"oxid: first start: account admin with password {made} (shown only now)", err=True)
