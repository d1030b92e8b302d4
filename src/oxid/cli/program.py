"""The `oxid` command: words to commands, errors to one line and an exit code.

Exit codes: 0 fine, 1 failed, 2 wrong usage. A traceback is shown only with -vv. Commands are imported when
they are asked for, so that `oxid --help` stays quick.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
import traceback
from typing import Final, NoReturn

import click

from oxid._version import __version__
from oxid.errors import OxidError, RemoteProtocolError

COMMANDS: Final = {
    "serve": "run the host with the bundled samples, or with your classes",
    "user": "add, list, remove accounts; change passwords",
    "epm": "what an endpoint mapper knows",
    "ping": "is an object resolver alive, and how is it reached",
    "resolve": "where the object exporter of an OXID listens",
    "activate": "make an object, print its identifiers, release it",
    "call": "call one method of a new object",
    "status": "live counts of a running host",
    "tunnels": "what goes through the RPC proxy of a running host, and what its extensions keep",
    "why": "what happened to an object, and why it lives or died",
    "class": "the class registry: what serves a class, and who may use it",
    "agent": "this machine's ping agent, as a process of its own",
    "bench": "measurements",
    "soak": "long scenarios: hours of lifetimes",
}
"""Name -> what it does; the module is oxid.cli.NAME with a click command of that name."""

HIDDEN: Final = ("surrogate",)
"""Commands that a host starts by itself."""

FAILED: Final = 0x8000_0000
"""HRESULTs from here up are failures."""

VERBOSE: Final = "oxid.verbose"
"""Key in click's context meta: how often -v was given."""


class LazyGroup(click.Group):
    """Knows its commands by name and imports only the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS and cmd_name not in HIDDEN:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(importlib.import_module(f"oxid.cli.{name}"), name)
        add_verbose(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items(), ("test", "run the test suite (./oxid only)")])


def add_verbose(command: click.Command) -> None:
    """Let -v stand behind any command, too."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_verbose(inner)
    elif not any("-v" in parameter.opts for parameter in command.params):
        command.params.append(verbose_option())


def verbose_option() -> click.Option:
    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_note_verbose,
        help="Say more; -vv shows protocol units and tracebacks.",
    )


def _note_verbose(ctx: click.Context, _parameter: click.Parameter, times: int) -> None:
    meta = ctx.find_root().meta
    meta[VERBOSE] = times = max(times, meta.get(VERBOSE, 0))
    if times:
        log_to_stderr(times)


def log_to_stderr(verbose: int) -> None:
    """Show the log of what a command does: at -v what happens, at -vv every detail."""
    import logging

    log = logging.getLogger("oxid")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)


@click.group(
    cls=LazyGroup, params=[verbose_option()], context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="oxid", message="%(prog)s %(version)s")
def oxid() -> None:
    """DCE/RPC and DCOM for Linux: a host for objects, and commands to look at other hosts.

    A target is [[DOMAIN\\]user[%password]@]host[:port]; IPv6 addresses stand in brackets.
    """


def main(words: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(words))


def run(words: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, having printed what went wrong."""
    meta: dict[str, int] = {}
    try:
        with oxid.make_context("oxid", list(sys.argv[1:] if words is None else words)) as context:
            meta = context.meta
            oxid.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "oxid"
        complain(f"{error.format_message().rstrip('.')}; see {path} --help", who=path)
        return 2
    except click.ClickException as error:
        complain(error.format_message())
        return 1
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 1
    except BrokenPipeError:
        # Nobody reads us any more; what is still buffered goes nowhere, or Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if meta.get(VERBOSE, 0) >= 2:
            traceback.print_exc()
        complain(explain(error))
        return 1
    return 0


def explain(error: BaseException) -> str:
    """Cause and remedy of a failure in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OxidError):
        text = str(error) or type(error).__name__
        remedy = error.remedy
        if remedy is None and isinstance(error, RemoteProtocolError):
            remedy = "check host and port: the peer does not keep to DCE/RPC"
        return f"{text}; {remedy}" if remedy and remedy not in text else text
    if isinstance(error, TimeoutError):
        return f"{str(error) or 'no answer in time'}; check host and port, or give it longer with --timeout"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {error}; this is a fault in oxid, -vv shows where"


def complain(text: str, *, who: str = "oxid") -> None:
    click.echo(f"{who}: {' '.join(text.split())}", err=True)
