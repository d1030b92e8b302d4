"""`oxid resolve`: ResolveOxid2. [MS-DCOM] 3.1.2.5.1.5"""

from __future__ import annotations

from uuid import UUID

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import IDENTIFIER, TARGET, Access, access_options
from oxid.cli.ping import binding_lines, describe_bindings
from oxid.cli.session import converse
from oxid.config import Target


@click.command()
@click.argument("target", type=TARGET)
@click.argument("oxid", type=IDENTIFIER)
@access_options
@json_option
def resolve(target: Target, oxid: int, access: Access, as_json: bool) -> None:
    """Where the object exporter of an OXID (in hexadecimal) listens."""
    found = converse(target, access, f"resolving {oxid:016x}", lambda machine: machine.resolve(oxid))
    unknown = UUID(bytes_le=found.ipid_rem_unknown)
    version = f"{found.version[0]}.{found.version[1]}"
    data = {
        "oxid": f"{oxid:016x}",
        "ipid_rem_unknown": unknown,
        "authn_hint": found.authn_hint,
        "version": version,
        **describe_bindings(found.bindings),
    }
    lines = [
        f"exporter {oxid:016x}, DCOM {version}, level at least {found.authn_hint}",
        f"  IRemUnknown {unknown}",
        *binding_lines(found.bindings),
    ]
    emit(data, lines, as_json=as_json)
