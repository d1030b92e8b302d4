"""`oxid class`: the class registry of a host, in its state directory: what dcomcnfg edits elsewhere.

A running host is told, and takes the change over without touching what runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import UUID_TYPE, state_option
from oxid.config import state_directory
from oxid.errors import ConfigurationError, TransportError

if TYPE_CHECKING:
    from oxid.rpcss.class_registry import AppSettings, ClassRegistry


@click.group("class")
def class_() -> None:
    """List and register classes, say how their servers are run, and who may use them."""


@class_.command("list")
@state_option
@json_option
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), envvar="OXID_CONFIG", hidden=True)
def list_(state: Path | None, as_json: bool, config: Path | None) -> None:
    """List the classes that are registered, with their applications.

    Those of the file that OXID_CONFIG names are among them; classes that a host serves without any settings are not.
    """
    from oxid.config import host_options

    registry = host_options({"state": str(_state(state))}, environ=os.environ, file=config).registry
    rows = [
        {**found.to_raw(), "application": (app.to_raw() if (app := registry.app_of(clsid)) else None)}
        for clsid, found in registry.classes.items()
    ]
    emit(rows, _lines(registry), as_json=as_json)


@class_.command()
@click.argument("clsid", type=UUID_TYPE)
@click.option("--progid", help="Its readable name.")
@click.option("--app", type=UUID_TYPE, help="Its application (AppID); the CLSID itself if there is none yet.")
@click.option("--command", help="What starts its local server, as one shell word list: 'python3 server.py'.")
@click.option("--user", help="The account of this machine that the server runs as.")
@click.option("--start-timeout", type=float, metavar="SECONDS", help="Until it must have registered (30).")
@click.option("--endpoint", multiple=True, metavar="PROTSEQ,FLAGS,PORT", help="Where it listens; repeatable.")
@click.option(
    "--authentication",
    type=click.Choice(["connect", "packet", "integrity", "privacy"]),
    help="The least protection of calls (integrity).",
)
@click.option(
    "--identity", type=click.Path(path_type=Path), help="File with the account as which it calls others."
)
@click.option(
    "--threading", type=click.Choice(["free", "both", "apartment"]), help="How calls overlap (free)."
)
@state_option
def register(
    clsid: UUID,
    progid: str | None,
    app: UUID | None,
    command: str | None,
    endpoint: tuple[str, ...],
    threading: str | None,
    state: Path | None,
    **settings: Any,
) -> None:
    """Register class CLSID, or change what is registered; what is not given stays as it is."""
    from oxid.rpcss.class_registry import AppSettings, ClassSettings

    def change(registry: ClassRegistry) -> ClassRegistry:
        old = registry.classes.get(clsid)
        app_id = app or (old.app if old is not None else None) or clsid
        raw: dict[str, Any] = (
            registry.apps[app_id].to_raw() if app_id in registry.apps else {"id": str(app_id)}
        )
        if command is not None:
            raw["command"] = shlex.split(command)
        if endpoint:
            raw["endpoints"] = list(endpoint)
        for key, value in settings.items():
            if value is not None:
                raw[key] = str(value.absolute()) if isinstance(value, Path) else value
        found = old or ClassSettings(clsid)
        found = replace(
            found,
            app=app_id,
            progid=found.progid if progid is None else progid,
            threading=threading or found.threading,
        )
        made = AppSettings.parse(raw, f"application {app_id}")
        return registry.with_app(made).with_class(found)

    _change(state, change)


@class_.command()
@click.argument("clsid", type=UUID_TYPE)
@state_option
def remove(clsid: UUID, state: Path | None) -> None:
    """Take class CLSID out. What runs goes on until it ends; nothing new is activated."""

    def change(registry: ClassRegistry) -> ClassRegistry:
        if clsid not in registry.classes:
            raise ConfigurationError(f"class {clsid} is not registered in {_state(state)}")
        return registry.without_class(clsid)

    _change(state, change)


@class_.command()
@click.argument("identifier", metavar="CLSID|APPID", type=UUID_TYPE)
@click.argument("what", type=click.Choice(["launch", "activate", "access"]))
@click.argument("names", nargs=-1, required=True, metavar="[!]NAME[:local|:remote]...")
@click.option("--remove", "removing", is_flag=True, help="Take the names out of the list.")
@click.option("--only", is_flag=True, help="Let in these and nobody else.")
@state_option
def permit(
    identifier: UUID,
    what: str,
    names: tuple[str, ...],
    removing: bool,
    only: bool,
    state: Path | None,
) -> None:
    """Say who may launch, activate or access an application.

    NAME is an account or Everyone, Anonymous, Administrators; ! in front denies. The first change of a list begins
    with Everyone, unless --only is given.
    """
    from oxid.com.permissions import ALL_ACCOUNTS, AccessList, Entry
    from oxid.rpcss.class_registry import AppSettings

    def change(registry: ClassRegistry) -> ClassRegistry:
        known = registry.app_of(identifier)
        app: AppSettings = known or registry.apps.get(identifier) or AppSettings(identifier)
        allowed: AccessList = getattr(app, what) or (AccessList() if only else ALL_ACCOUNTS)
        if only:
            allowed = AccessList()
        for text in names:
            entry = Entry.parse(text)
            allowed = allowed.without(entry.name, entry.where) if removing else allowed.with_entry(entry)
        return registry.with_app(_with(app, what, allowed))

    _change(state, change)


def _with(app: AppSettings, what: str, allowed: Any) -> AppSettings:
    return replace(app, **{what: allowed})


def _state(state: Path | None) -> Path:
    return (state or state_directory(os.environ)).absolute()


def _change(state: Path | None, change: Callable[[ClassRegistry], ClassRegistry]) -> None:
    from oxid.rpcss.registry_file import change_registry
    from oxid.runtime.control import ask

    directory = _state(state)
    change_registry(directory, change)
    try:
        ask(directory / "control", "reload")
    except TransportError:
        pass  # no host runs there; the next one reads the file


def _lines(registry: ClassRegistry) -> list[str]:
    lines = []
    for clsid, found in registry.classes.items():
        app = registry.app_of(clsid)
        lines.append(f"{clsid}  {found.progid or '-'}")
        if app is None:
            lines.append("    no application")
            continue
        lines.append(f"    application {app.id}{f' ({app.name})' if app.name else ''}")
        lines.append(f"    {'command ' + shlex.join(app.command) if app.command else 'in the host'}")
        if app.user:
            lines.append(f"    as user {app.user}")
        if app.endpoints:
            lines.append(f"    endpoints {'; '.join(map(str, app.endpoints))}")
        for what in ("launch", "activate", "access"):
            allowed = getattr(app, what)
            if allowed is not None:
                lines.append(f"    {what}: {allowed}")
    return lines or ["no class is registered"]
