"""From what a script map names to an application; see `host.py` for the names. Also in worker processes."""

from __future__ import annotations

import importlib
from typing import Any

from oxid.errors import ConfigurationError
from oxid.iis.isapi.application import Application, ApplicationSettings, AsyncApplication
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.isapi.services import ServerServices
from oxid.world import World


def application_for(
    source: str, settings: ApplicationSettings, world: World, services: ServerServices | None
) -> Application:
    """The application of what a script map names, not started. Raises ConfigurationError."""
    if source.endswith((".so", ".dll")):
        from oxid.iis.isapi.native import NativeApplication

        return NativeApplication(settings, source, world, services)
    from oxid.iis.isapi.classic import ClassicApplication

    name, colon, attribute = source.partition(":")
    if not colon:
        return ClassicApplication(settings, PythonModule(source), world, services)
    try:
        extension: Any = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot load {source}: {error}") from error
    return AsyncApplication(
        settings, extension() if isinstance(extension, type) else extension, world, services
    )
