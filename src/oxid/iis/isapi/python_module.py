"""A Python file or module that is an extension or a filter: found, loaded, loaded anew, forgotten. isapi.md §10

module = PythonModule("/srv/app/echo.py")      or a module's name: "shop.extension"
extension = module.make("__ExtensionFactory__")
module.reload()                                into the same namespace: its globals survive
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from oxid.errors import ConfigurationError

_importing: Final = threading.RLock()


class _NoReload(Exception):
    """Stands for InternalReloadException where no `isapi` package was imported."""


class PythonModule:
    """One module of an extension."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.module: ModuleType | None = None
        self.reloading = threading.Lock()
        self.extension_error: Any = None
        """`ExtensionError` of the `isapi` package that the module sees: ours or pywin32's."""
        self.filter_error: Any = None
        self.reload_exception: type[BaseException] = _NoReload

    def load(self) -> ModuleType:
        """Import it once. Raises ConfigurationError with the reason where that fails."""
        with _importing:
            if self.module is None:
                from oxid.iis.isapi.shims import install_shims

                install_shims()
                sys.isapidllhandle = 1  # type: ignore[attr-defined]  # samples look whether they are hosted
                try:
                    self.module = self._import()
                except ConfigurationError:
                    raise
                except (Exception, SystemExit) as error:
                    raise ConfigurationError(f"cannot load {self.source}: {error!r}") from error
                self._find_errors()
            return self.module

    def _import(self) -> ModuleType:
        if not self.source.endswith(".py"):
            return importlib.import_module(self.source)
        path = Path(self.source)
        name = path.stem
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigurationError(f"there is no {self.source}")
        module = importlib.util.module_from_spec(spec)
        if name not in sys.modules:
            sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if sys.modules.get(name) is module:
                del sys.modules[name]
            raise
        return module

    def _find_errors(self) -> None:
        package = importlib.import_module("isapi")
        self.extension_error = package.ExtensionError
        self.filter_error = package.FilterError
        self.reload_exception = package.InternalReloadException

    def make(self, factory: str) -> Any:
        """What the module's factory returns. Raises ConfigurationError where it has none."""
        found = getattr(self.load(), factory, None)
        if found is None:
            raise ConfigurationError(f"{self.source} has no {factory}")
        return found()

    def has(self, factory: str) -> bool:
        return hasattr(self.load(), factory)

    def reload(self) -> None:
        """Run the module's code again, in the same namespace."""
        module = self.module
        assert module is not None
        with _importing:
            spec = module.__spec__
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(module)

    def forget(self) -> None:
        """Nothing is kept of it here; a later `load` imports it anew."""
        module, self.module = self.module, None
        if module is not None and self.source.endswith(".py") and sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]
