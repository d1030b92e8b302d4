"""Entering extensions and filters into the web server's configuration, from a script's own command line.

    params = ISAPIParameters()
    params.VirtualDirs = [VirtualDirParameters(Name="app", ScriptMaps=[ScriptMapParams(Extension="*", Flags=0)])]
    HandleCommandLine(params)              script.py install | remove [--server NAME] [-q] [-v]

The configuration is reached through `win32com.client.GetObject("IIS://LocalHost/W3SVC")`. Where the host runs Python
modules directly the module's own path is what is entered: no loader has to be copied.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from optparse import OptionParser
from typing import Any

import winerror
from pywintypes import com_error
from win32com.client import GetObject

_SERVICE = "IIS://LocalHost/W3SVC"
verbose = 1


class InstallationError(Exception):
    """It could not be installed."""


class ItemNotFound(InstallationError):
    """A server or directory that is named is not there."""


class ConfigurationError(InstallationError):
    """A parameter is wrong."""


class _Parameters:
    """Attributes with defaults, set by keyword."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class _Module(_Parameters):
    """What names a module that has to be permitted."""

    AddExtensionFile = True
    AddExtensionFile_Enabled = True
    AddExtensionFile_GroupID: str | None = None
    AddExtensionFile_CanDelete = True
    AddExtensionFile_Description: str | None = None


class FilterParameters(_Module):
    """A filter of a site."""

    Name: Any = None
    Description: Any = None
    Path: Any = None
    Server: Any = None


class ScriptMapParams(_Module):
    """Which requests go to a module."""

    Extension: Any = None
    Module: Any = None
    Flags = 5
    Verbs = ""

    def __str__(self) -> str:
        parts = [self.Extension, self.Module, self.Flags, *([self.Verbs] if self.Verbs else [])]
        return ",".join(str(part) for part in parts)


class VirtualDirParameters(_Parameters):
    """A virtual directory."""

    Name: Any = None
    Description: Any = None
    AppProtection = 2
    Headers: Any = "X-Powered-By: Python"
    Path: Any = None
    Type = "IIsWebVirtualDir"
    AccessExecute = True
    AccessRead = False
    AccessWrite = False
    AccessScript = False
    ContentIndexed = False
    EnableDirBrowsing = False
    EnableDefaultDoc = False
    DefaultDoc: Any = None
    ScriptMaps: list[Any] = []  # noqa: RUF012
    ScriptMapUpdate = "end"
    Server: Any = None

    def split_path(self) -> list[str]:
        return split_path(self.Name)

    def is_root(self) -> bool:
        return split_path(str(self.Name)) == ["", ""]


class ISAPIParameters(_Parameters):
    """Everything that a script installs."""

    ServerName = "Default Web Site"
    Filters: list[Any] = []  # noqa: RUF012
    VirtualDirs: list[Any] = []  # noqa: RUF012


def log(level: int, what: object) -> None:
    """Say it, where the user wants to hear that much."""
    if verbose >= level:
        print(what)


def split_path(path: str) -> list[str]:
    """Parent and name of a URL path."""
    return ("/" + path.lstrip("/")).rsplit("/", 1)


def _hook(where: Any, name: str, *arguments: Any) -> None:
    """Call a hook of the parameters, where there is one."""
    found = getattr(where, name, None)
    if found is not None:
        found(where, *arguments)


def _is_missing(error: com_error) -> bool:
    return winerror.HRESULT_CODE(error.hresult) == winerror.ERROR_PATH_NOT_FOUND


def LocateWebServerPath(description: str) -> str:
    """The path of the site with this number or comment. Raises ItemNotFound."""
    wanted = description.lower().strip()
    for site in GetObject(_SERVICE):
        names = (str(getattr(site, name, "")).lower().strip() for name in ("Name", "ServerComment"))
        if wanted in names:
            return str(site.AdsPath)
    raise ItemNotFound(f"No web sites match the description '{description}'")


def GetWebServer(description: str | None = None) -> Any:
    """The object of a site; the first one by default. Raises ItemNotFound."""
    path = LocateWebServerPath(description or "1")
    try:
        return GetObject(path)
    except com_error as error:
        raise ItemNotFound(f"WebServer {path}: {error.strerror}") from error


def FindWebServer(options: Any, server: str | None) -> str:
    """The path of the site that the command line names, else the parameters."""
    return str(GetWebServer(options.server or server).AdsPath)


def FindPath(options: Any, server: str | None, name: str) -> str:
    """The path of a virtual directory's object."""
    if name.lower().startswith("iis://"):
        return name
    return FindWebServer(options, server) + "/ROOT" + ("/" + name.lstrip("/") if name.strip("/") else "")


def CreateDirectory(params: Any, options: Any) -> Any:
    """Make a virtual directory with its script maps; one of that name goes first."""
    _hook(params, "PreInstall", options)
    if not params.Name:
        raise ConfigurationError("No Name param")
    parent, name = params.split_path()
    directory = GetObject(FindPath(options, params.Server, parent))
    if not params.is_root():
        try:
            directory.Delete("", name)
        except com_error:
            pass  # there was none
        made = directory.Create(params.Type, name)
        made.AppFriendlyName = params.Description or params.Name
        made.Path = params.Path or directory.Path
        made.AppCreate2(params.AppProtection)
        if params.Headers:
            made.HttpCustomHeaders = params.Headers
        for flag in (
            "AccessExecute",
            "AccessRead",
            "AccessWrite",
            "AccessScript",
            "ContentIndexed",
            "EnableDirBrowsing",
            "EnableDefaultDoc",
        ):
            setattr(made, flag, getattr(params, flag))
        if params.DefaultDoc is not None:
            made.DefaultDoc = params.DefaultDoc
        made.SetInfo()
        directory = made
    AssignScriptMaps(params.ScriptMaps, directory, params.ScriptMapUpdate)
    _hook(params, "PostInstall", options, directory)
    log(1, f"Configured Virtual Directory: {params.Name}")
    return directory


def AssignScriptMaps(script_maps: list[Any], target: Any, update: str = "replace") -> None:
    """Enter script maps instead of those that are there, before (`start`) or behind them (`end`)."""
    wanted = [str(one) for one in script_maps]
    there = [] if update == "replace" else list(target.ScriptMaps or ())
    new = [one for one in wanted if one not in there]
    if update not in ("replace", "start", "end"):
        raise ConfigurationError(f"Unknown ScriptMapUpdate option '{update}'")
    target.ScriptMaps = tuple(new + there if update == "start" else there + new)
    target.SetInfo()


def CreateISAPIFilter(params: Any, options: Any) -> Any:
    """Enter a filter, last in the load order."""
    server = FindWebServer(options, params.Server)
    _hook(params, "PreInstall", options)
    try:
        filters = GetObject(server + "/Filters")
    except com_error as error:
        if not _is_missing(error):
            raise
        filters = GetObject(server).Create("IIsFilters", "Filters")
        filters.FilterLoadOrder = ""
        filters.SetInfo()
    try:
        filters.Delete("IIsFilter", params.Name)
    except com_error:
        pass
    made = filters.Create("IIsFilter", params.Name)
    made.FilterPath = params.Path
    made.FilterDescription = params.Description
    made.SetInfo()
    order = [one.strip() for one in filters.FilterLoadOrder.split(",") if one.strip()]
    if params.Name not in order:
        filters.FilterLoadOrder = ",".join([*order, params.Name])
        filters.SetInfo()
    _hook(params, "PostInstall", options, made)
    log(1, f"Configured Filter: {params.Name}")
    return made


def DeleteISAPIFilter(params: Any, options: Any) -> None:
    """Take a filter out, where it is there."""
    _hook(params, "PreRemove", options)
    try:
        filters = GetObject(FindWebServer(options, params.Server) + "/Filters")
        filters.Delete("IIsFilter", params.Name)
    except com_error as error:
        if not _is_missing(error):
            raise
        return
    order = [one.strip() for one in filters.FilterLoadOrder.split(",")]
    filters.FilterLoadOrder = ",".join(one for one in order if one and one != params.Name)
    filters.SetInfo()
    _hook(params, "PostRemove", options)
    log(1, f"Deleted Filter: {params.Name}")


def _modules(params: Any) -> dict[str, tuple[Any, str, str]]:
    """Every module of the parameters once, with group and description."""
    found: dict[str, tuple[Any, str, str]] = {}
    for directory in params.VirtualDirs:
        for one in directory.ScriptMaps:
            if one.AddExtensionFile:
                found.setdefault(one.Module, (one, directory.Name, directory.Description))
    for one in params.Filters:
        if one.AddExtensionFile:
            found.setdefault(one.Path, (one, one.Name, one.Description))
    return found


def AddExtensionFiles(params: Any, options: Any) -> None:
    """Permit the modules."""
    for module, (one, group, description) in _modules(params).items():
        try:
            GetObject(_SERVICE).AddExtensionFile(
                module,
                one.AddExtensionFile_Enabled,
                one.AddExtensionFile_GroupID or group,
                one.AddExtensionFile_CanDelete,
                one.AddExtensionFile_Description or description,
            )
        except (com_error, AttributeError) as error:
            log(2, f"Failed to add extension file '{module}': {error}")


def DeleteExtensionFileRecords(params: Any, options: Any) -> None:
    """Permit the modules no more."""
    for module in _modules(params):
        try:
            GetObject(_SERVICE).DeleteExtensionFileRecord(module)
        except (com_error, AttributeError) as error:
            log(2, f"Failed to remove extension file '{module}': {error}")


def Install(params: Any, options: Any) -> None:
    """Enter everything."""
    _hook(params, "PreInstall", options)
    for directory in params.VirtualDirs:
        CreateDirectory(directory, options)
    for one in params.Filters:
        CreateISAPIFilter(one, options)
    AddExtensionFiles(params, options)
    _hook(params, "PostInstall", options)


def Uninstall(params: Any, options: Any) -> None:
    """Take everything out that is there."""
    _hook(params, "PreRemove", options)
    DeleteExtensionFileRecords(params, options)
    for params_of in params.VirtualDirs:
        _hook(params_of, "PreRemove", options)
        _remove_directory(params_of, options)
        _hook(params_of, "PostRemove", options)
    for one in params.Filters:
        DeleteISAPIFilter(one, options)
    _hook(params, "PostRemove", options)


def _remove_directory(params: Any, options: Any) -> None:
    path = FindPath(options, params.Server, params.Name)
    try:
        directory = GetObject(path)
        if params.is_root():
            ours = {str(one) for one in params.ScriptMaps}
            directory.ScriptMaps = tuple(one for one in directory.ScriptMaps if one not in ours)
            directory.SetInfo()
        else:
            directory.AppUnLoad()
            GetObject(directory.Parent).Delete(directory.Class, directory.Name)
            log(1, f"Deleted Virtual Directory: {params.Name}")
    except com_error as error:
        if not _is_missing(error):
            raise


def _name_modules(params: Any, module: str) -> None:
    for one in params.Filters:
        one.Path = one.Path or module
    for directory in params.VirtualDirs:
        for script_map in directory.ScriptMaps:
            script_map.Module = script_map.Module or module


def InstallModule(module: str, params: Any, options: Any, log: Callable[..., None] = log) -> None:
    "Install the extension"
    module = os.path.abspath(module)
    if not os.path.isfile(module):
        raise ConfigurationError(f"{module} does not exist")
    _name_modules(params, module)
    Install(params, options)
    log(1, "Installation complete.")


def UninstallModule(module: str, params: Any, options: Any, log: Callable[..., None] = log) -> None:
    "Remove the extension"
    _name_modules(params, os.path.abspath(module))
    Uninstall(params, options)
    log(1, "Uninstallation complete.")


standard_arguments: dict[str, Callable[..., None]] = {"install": InstallModule, "remove": UninstallModule}


def HandleCommandLine(
    params: Any,
    argv: list[str] | None = None,
    conf_module_name: str | None = None,
    default_arg: str = "install",
    opt_parser: OptionParser | None = None,
    custom_arg_handlers: dict[str, Callable[..., None]] | None = None,
) -> None:
    """Do what the command line says: install, remove, uninstall, or one of the script's own words."""
    global verbose
    argv = argv or sys.argv
    handlers = {**standard_arguments, **(custom_arg_handlers or {})}
    parser = opt_parser or OptionParser(usage="")
    if not parser.get_usage():
        known = "".join(f"  {word:10}: {handler.__doc__}\n" for word, handler in handlers.items())
        parser.set_usage(f"%prog [options] [{'|'.join(handlers)}]\ncommands:\n{known}")
    handlers.setdefault("uninstall", handlers["remove"])
    parser.add_option("-q", "--quiet", action="store_false", dest="verbose", default=1, help="say nothing")
    parser.add_option("-v", "--verbosity", action="count", dest="verbose", help="say more")
    parser.add_option("", "--server", action="store", help=f"the web server; {_SERVICE}/1 by default")
    options, words = parser.parse_args(argv[1:])
    verbose = int(options.verbose)
    for word in list(words) or [default_arg]:
        if word not in handlers:
            parser.error(f"Invalid arg '{word}'")
        try:
            handlers[word](conf_module_name or argv[0], params, options, log)
        except InstallationError as error:
            if verbose > 1:
                traceback.print_exc()
            print(f"{type(error).__name__}: {error}")
