"""`oxid epm`: what an endpoint mapper knows. [C706] appendix O"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import INTERFACE, TARGET, Access, access_options
from oxid.cli.session import converse
from oxid.config import Target
from oxid.errors import ServerUnavailable


@click.group()
def epm() -> None:
    """What an endpoint mapper knows."""


@epm.command("list")
@click.argument("target", type=TARGET)
@access_options
@json_option
def list_(target: Target, access: Access, as_json: bool) -> None:
    """List every registration."""
    from oxid.com.endpoints import list_endpoints

    found = converse(target, access, "listing endpoints", list_endpoints)
    data: list[dict[str, Any]] = [
        {
            "interface": entry.interface,
            "version": "{}.{}".format(*entry.version),
            "binding": str(entry.binding),
            "object": entry.object if entry.object.int else None,
            "annotation": entry.annotation,
        }
        for entry in found
    ]
    lines = [
        f"{row['interface']}/{row['version']}  {row['binding']}  {row['annotation']}".rstrip()
        + (f"  object {row['object']}" if row["object"] else "")
        for row in data
    ]
    emit(data, lines, as_json=as_json)


@epm.command("map")
@click.argument("target", type=TARGET)
@click.argument("interface", type=INTERFACE, metavar="UUID/VERSION")
@access_options
@json_option
def map_(target: Target, interface: tuple[UUID, int, int], access: Access, as_json: bool) -> None:
    """Where an interface is served."""
    from oxid.com.endpoints import map_interface
    from oxid.values.status import EPT_S_NOT_REGISTERED, Win32

    uuid, *version = interface
    found = converse(
        target,
        access,
        "asking the endpoint mapper",
        lambda machine: map_interface(machine, uuid, (version[0], version[1])),
    )
    if not found:
        error = ServerUnavailable(Win32(EPT_S_NOT_REGISTERED), f"{uuid} is not registered on {target.host}")
        error.remedy = "oxid epm list shows what is"
        raise error
    emit([str(binding) for binding in found], map(str, found), as_json=as_json)
