"""Finding what is to be served or called: Python files, and modules by name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from oxid.config import nearest
from oxid.errors import ConfigurationError

if TYPE_CHECKING:
    from oxid.com.coclass import CoClass
    from oxid.host import PlainInterface


def load(name: str) -> ModuleType:
    """Import `folder/app.py` or `package.module`; the current directory counts. ConfigurationError"""
    path = Path(name)
    try:
        if path.suffix == ".py" or "/" in name:
            return _load_file(path)
        if "" not in sys.path:
            sys.path.insert(0, "")
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"cannot import {name}: {error.msg}; name a .py file or package.module"
        ) from error
    except Exception as error:
        raise ConfigurationError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is no Python file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # an application's own modules lie beside it
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Offer:
    """What one application file offers."""

    classes: list[CoClass]
    interfaces: list[PlainInterface]


def offer_of(module: ModuleType, name: str) -> Offer:
    """Classes marked with `@coclass`, PlainInterfaces, and an instance of each class derived from a plain one.

    Those that the module or package defines itself count, not what it imports to use. Raises ConfigurationError
    where there is neither.
    """
    from oxid.com.coclass import coclasses_in
    from oxid.host import PlainInterface
    from oxid.rpc.interface import is_interface, spec_of

    own = {
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and f"{cls.__module__}.".startswith(f"{module.__name__}.")
    }
    plain = [value for value in vars(module).values() if isinstance(value, PlainInterface)]
    for cls in own:
        if not is_interface(cls):
            declared = next((base for base in cls.__mro__ if is_interface(base)), None)
            if declared is not None and not spec_of(declared).is_object:
                plain.append(PlainInterface(declared, cls()))
    offer = Offer([found for found in coclasses_in(module) if found.factory in own], plain)
    if not offer.classes and not offer.interfaces:
        raise ConfigurationError(
            f"{name} has nothing to serve: mark a class with @coclass, or implement a plain RPC interface"
        )
    return offer


def bundled() -> Offer:
    """The samples, served where no application is named."""
    from oxid.samples import sample_classes, sample_interfaces

    return Offer(sample_classes(), sample_interfaces())


def samples() -> list[ModuleType]:
    """The bundled samples, each a module."""
    import oxid.samples

    return [
        importlib.import_module(f"oxid.samples.{found.name}")
        for found in pkgutil.iter_modules(oxid.samples.__path__)
    ]


def interfaces_in(modules: list[ModuleType]) -> dict[str, type[Any]]:
    """Every interface the modules know, by name."""
    from oxid.rpc.interface import is_interface

    return {
        value.__name__: value for module in modules for value in vars(module).values() if is_interface(value)
    }


def find_interface(modules: list[ModuleType], wanted: str) -> type[Any]:
    """The interface of this IID or name. ConfigurationError says which there are."""
    from oxid.rpc.interface import spec_of

    known = interfaces_in(modules)
    for name, cls in known.items():
        if wanted.strip("{}").lower() in (name.lower(), str(spec_of(cls).uuid)):
            return cls
    raise ConfigurationError(
        f"no interface {wanted} is known{nearest(wanted, sorted(known))}; --interfaces MODULE adds some"
    )
