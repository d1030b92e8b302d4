"""`oxid activate`: make an object, show how it is identified and reached, release it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import TARGET, UUID_TYPE, Access, access_options
from oxid.cli.ping import binding_lines, describe_bindings
from oxid.cli.session import converse
from oxid.config import Target

if TYPE_CHECKING:
    from oxid.com.activation_properties import ActivationOut
    from oxid.com.machine import Machine


@click.command()
@click.argument("target", type=TARGET)
@click.argument("clsid", type=UUID_TYPE)
@click.argument("iids", type=UUID_TYPE, nargs=-1, metavar="[IID]...")
@access_options
@json_option
def activate(target: Target, clsid: UUID, iids: tuple[UUID, ...], access: Access, as_json: bool) -> None:
    """Make an object of class CLSID, print its identifiers, release it."""
    from oxid.com.objref import decode_objref
    from oxid.interfaces.unknown import IID_IUNKNOWN
    from oxid.values.status import HResult

    async def story(machine: Machine) -> ActivationOut:
        out = await machine.activate_raw(clsid, iids or (IID_IUNKNOWN,))
        machine.use_exporter(out)
        for proxy in [machine.proxy(r.objref, None) for r in out.interfaces if r.objref is not None]:
            await proxy.release()
        return out

    out = converse(target, access, f"activating {clsid}", story, account_required=True, probe=True)
    interfaces: list[dict[str, Any]] = []
    lines = [f"oxid {out.oxid:016x}"]
    for result in out.interfaces:
        row: dict[str, Any] = {"iid": result.iid, "hresult": result.hresult}
        said = str(HResult(result.hresult))
        if result.objref is not None:
            std = getattr(decode_objref(result.objref), "std", None)
            if std is not None:
                row |= {"oid": f"{std.oid:016x}", "ipid": std.ipid, "references": std.public_refs}
                said = f"oid {std.oid:016x}  ipid {std.ipid}"
        interfaces.append(row)
        lines.append(f"  {result.iid}  {said}")
    data = {
        "oxid": f"{out.oxid:016x}",
        "oid": next((row["oid"] for row in interfaces if "oid" in row), None),
        "ipid": next((row["ipid"] for row in interfaces if "ipid" in row), None),
        "interfaces": interfaces,
        **describe_bindings(out.bindings),
    }
    emit(data, [*lines, *binding_lines(out.bindings)], as_json=as_json)
