"""Where a request goes: site, virtual directory, what runs, what the rest of the path means. isapi.md 7, IS-40, IS-41

    site = find_site(settings, listener_address, listener_port, tls, host)
    place = find_place(site, path)          directory, physical path, script map or module, script name, path info

Settings in, plain values out; only whether files exist is asked of the file system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from oxid.iis.settings import (
    Access,
    DirectorySettings,
    HandlerSettings,
    MapFlags,
    SiteSettings,
)

if TYPE_CHECKING:
    from oxid.iis.exchange import Handler

NO_SITE: Final = SiteSettings(id=0, bindings=(), directories=())
ANY: Final = frozenset({"", "0.0.0.0", "::"})
"""Addresses of bindings that stand for all of the machine's."""
NOWHERE: Final = DirectorySettings(access=Access.NONE)


def host_name(host: bytes) -> str:
    """The name in a Host header: lower case, without port and trailing dot."""
    text = host.decode("latin-1").lower()
    name = text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name.removesuffix(".")


def find_site(
    sites: Sequence[SiteSettings], address: str, port: int, tls: bool, host: bytes
) -> SiteSettings | None:
    """The site whose binding fits best: a host name before none, an address before any, a port before any."""
    name = host_name(host)
    best: SiteSettings | None = None
    best_rank = (-1, -1, -1)
    for site in sites:
        for binding in site.bindings:
            if (
                (binding.address not in ANY and binding.address != address)
                or (binding.port and binding.port != port)
                or (binding.host and binding.host != name)
                or (binding.port and binding.tls != tls)
            ):
                continue
            rank = (bool(binding.host), binding.address not in ANY, bool(binding.port))
            if rank > best_rank:
                best, best_rank = site, rank
    return best


@dataclass(frozen=True, slots=True)
class Place:
    """What a path means within a site."""

    directory: DirectorySettings
    physical: Path | None
    script_name: str
    path_info: str = ""
    handler: HandlerSettings | None = None
    """Who runs; None for a file."""
    needs: Access = Access.READ
    """Any of these is enough."""
    verbs: frozenset[str] | None = None
    missing: bool = False
    """The map wants the file to be there, and it is not."""
    certain: bool = True
    """Does not depend on which files exist."""


def find_place(site: SiteSettings, path: str) -> Place:
    """What a decoded path means; a directory that does not exist is NOWHERE."""
    directory = find_directory(site, path)
    if directory is None:
        return Place(NOWHERE, None, path)
    base = "" if directory.path == "/" else directory.path
    rest = path[len(base) :]
    segments = [segment for segment in rest.split("/") if segment]
    physical = None if directory.physical is None else directory.physical.joinpath(*segments)
    for map_ in directory.script_maps:
        if map_.extension == "*":
            return Place(
                directory, physical, path, path, map_.handler, _needs(map_.flags), map_.verbs,
                missing=bool(map_.flags & MapFlags.CHECK_FILE) and not _exists(physical),
                certain=not map_.flags & MapFlags.CHECK_FILE,
            )  # fmt: skip
    certain = True
    for index, segment in enumerate(segments):
        name = segment.lower()
        through = "/".join((base, *segments[: index + 1]))
        info = "/" + "/".join(segments[index + 1 :]) if index + 1 < len(segments) else ""
        if info and rest.endswith("/"):
            info += "/"
        elif rest.endswith("/"):
            info = "/"
        if index == 0:
            for module in directory.modules:
                if module.name == name and (module.path_info or not info):
                    return Place(directory, physical, through, info, module.handler, Access.EXECUTE)
        extension = name[name.rfind(".") :] if "." in name else ""
        if not extension:
            continue
        file = None if directory.physical is None else directory.physical.joinpath(*segments[: index + 1])
        if (runs := directory.executables.get(extension)) is not None:
            certain = False
            if _exists(file):
                return Place(
                    directory, file, through, info,
                    HandlerSettings(runs.kind, runs.argument or str(file)), Access.EXECUTE, certain=False,
                )  # fmt: skip
        for map_ in directory.script_maps:
            if map_.extension == extension:
                certain = certain and not map_.flags & MapFlags.CHECK_FILE and index == len(segments) - 1
                if index < len(segments) - 1 and not _exists(file):
                    continue
                return Place(
                    directory, file, through, info, map_.handler, _needs(map_.flags), map_.verbs,
                    missing=bool(map_.flags & MapFlags.CHECK_FILE) and not _exists(file),
                    certain=certain,
                )  # fmt: skip
    return Place(directory, physical, path, certain=certain)


def find_directory(site: SiteSettings, path: str) -> DirectorySettings | None:
    """The virtual directory with the longest path that is a prefix, whatever the case."""
    folded = path.lower()
    best: DirectorySettings | None = None
    longest = -1
    for directory in site.directories:
        prefix = "" if directory.path == "/" else directory.path.lower()
        if len(prefix) > longest and (folded.startswith(prefix + "/") or folded == prefix or not prefix):
            best, longest = directory, len(prefix)
    return best


def _needs(flags: MapFlags) -> Access:
    return Access.SCRIPT | Access.EXECUTE if flags & MapFlags.SCRIPT else Access.EXECUTE


def _exists(file: Path | None) -> bool:
    try:
        return file is not None and file.is_file()
    except OSError:
        return False


class Route:
    """A place with the handler that was made for it; shared by all requests for the same target."""

    __slots__ = (
        "directory",
        "handler",
        "path",
        "path_info",
        "physical",
        "place",
        "plain",
        "script_name",
        "site",
    )

    def __init__(self, site: SiteSettings, path: str, place: Place, handler: Handler, *, plain: bool) -> None:
        self.site = site
        self.path = path
        self.place = place
        self.handler = handler
        self.plain = plain
        """Nothing has to be asked of a request without credentials."""
        self.directory = place.directory
        self.physical = place.physical
        self.script_name = place.script_name
        self.path_info = place.path_info

    def __repr__(self) -> str:
        return f"<Route {self.path} of site {self.site.id}>"
