"""The class registry of a host in its state directory: what `oxid class` edits.

registry = read_registry(state)                       empty where there is no file
change_registry(state, lambda registry: ...)          under a lock, in one step
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from oxid.errors import ConfigurationError
from oxid.rpcss.class_registry import ClassRegistry
from oxid.state_file import locked, replace_text

_FORMAT: Final = 1


def registry_file(state: Path) -> Path:
    return state / "classes.json"


def read_registry(state: Path) -> ClassRegistry:
    """What was registered. Raises ConfigurationError for a file that cannot be understood."""
    path = registry_file(state)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ClassRegistry()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is no class registry: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ConfigurationError(f"{path} is no class registry of this release")
    return ClassRegistry.parse(document, str(path))


def change_registry(state: Path, change: Callable[[ClassRegistry], ClassRegistry]) -> ClassRegistry:
    """Read, change, check and write; the new registry. Raises ConfigurationError, and nothing is written then."""
    path = registry_file(state)
    with locked(path):
        registry = change(read_registry(state))
        registry.check()
        text = json.dumps({"format": _FORMAT, **registry.to_raw()}, indent=2) + "\n"
        try:
            replace_text(path, text)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    return registry
