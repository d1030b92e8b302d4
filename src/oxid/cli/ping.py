"""`oxid ping`: ServerAlive2. [MS-DCOM] 3.1.2.5.1.6"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from oxid.cli.output import emit, json_option
from oxid.cli.parameters import TARGET, Access, access_options
from oxid.cli.session import converse
from oxid.config import Target

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.values.bindings import DualStringArray


@click.command()
@click.argument("target", type=TARGET)
@access_options
@json_option
def ping(target: Target, access: Access, as_json: bool) -> None:
    """Is an object resolver alive, and how is it reached? Needs no account."""

    async def story(machine: Machine) -> tuple[Any, DualStringArray, float]:
        began = time.perf_counter()
        version, bindings = await machine.server_alive()
        return version, bindings, time.perf_counter() - began

    version, bindings, took = converse(target, access, f"asking {target.host}", story)
    number = f"{version[0]}.{version[1]}"
    data = {"version": number, "milliseconds": round(took * 1000, 3), **describe_bindings(bindings)}
    emit(data, [f"alive, DCOM {number}, {took * 1000:.1f} ms", *binding_lines(bindings)], as_json=as_json)


def describe_bindings(bindings: DualStringArray) -> dict[str, Any]:
    """String and security bindings for JSON."""
    return {
        "bindings": [str(binding) for binding in bindings.strings],
        "security": [
            {"authn_service": security.authn_service, "principal": security.principal}
            for security in bindings.security
        ],
    }


def binding_lines(bindings: DualStringArray) -> list[str]:
    """The same as lines."""
    packages = [f"{s.authn_service} {s.principal}".rstrip() for s in bindings.security]
    return [
        *(f"  {binding}" for binding in bindings.strings),
        f"  security packages: {', '.join(packages) or 'none'}",
    ]
