"""`oxid surrogate`: serves a host's own classes of one application in another process. Started by the host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from oxid.cli.apps import bundled, load, offer_of
from oxid.cli.logs import start_logging
from oxid.cli.parameters import UUID_TYPE, log_level_option
from oxid.config import HostOptions
from oxid.errors import ConfigurationError

IDLE_S = 1.0
"""For which a surrogate stays after its last object is gone, so that the next activation need not start another."""


@click.command(hidden=True)
@click.argument("app", type=UUID_TYPE)
@click.argument("modules", nargs=-1)
@log_level_option
@click.option("--log-json", is_flag=True, help="Log JSON.")
def surrogate(app: UUID, modules: tuple[str, ...], log_level: str | None, log_json: bool) -> None:
    """Serve the classes of application APP in MODULES, or in the samples, for the host that started this process."""
    from oxid.cli.serve import loop_factory
    from oxid.com.local_server import serve_local

    start_logging(HostOptions(Path(), log_level=log_level or "info", log_json=log_json), verbose=0)
    offered = [offer_of(load(name), name) for name in modules] or [bundled()]
    classes: list[Any] = [
        found for offer in offered for found in offer.classes if (found.appid or found.clsid) == app
    ]
    if not classes:
        raise ConfigurationError(f"no class of application {app} is in {', '.join(modules) or 'the samples'}")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve_local(classes, idle_s=IDLE_S))
