"""`oxid call`: make an object, call one of its methods with JSON arguments, print the results, release it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from oxid.cli.apps import find_interface, load, samples
from oxid.cli.output import emit, json_option
from oxid.cli.parameters import TARGET, Access, access_options, parse_uuid
from oxid.cli.program import FAILED
from oxid.cli.session import converse
from oxid.cli.values import argument, to_json
from oxid.config import Target, nearest
from oxid.errors import ConfigurationError, StatusError

if TYPE_CHECKING:
    from oxid.com.machine import Machine
    from oxid.rpc.interface import InterfaceSpec, OperationSpec


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be called."""

    clsid: UUID
    interface: type[Any]
    operation: OperationSpec
    arguments: list[Any]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target", type=TARGET)
@click.argument("words", nargs=-1, metavar="(CLSID IID | PROGID) METHOD [JSON]...", type=click.UNPROCESSED)
@click.option(
    "--interfaces", multiple=True, metavar="MODULE", help="A module or file that declares interfaces."
)
@access_options
@json_option
def call(
    target: Target, words: tuple[str, ...], interfaces: tuple[str, ...], access: Access, as_json: bool
) -> None:
    """Call one method of a new object of a class; arguments are JSON, bytes are "hex:...".

    Interfaces come from the samples and from --interfaces; an IID may be given by its name.
    """
    modules = [*(load(name) for name in interfaces), *samples()]
    wanted = understand(words, modules)
    operation = wanted.operation

    async def story(machine: Machine) -> dict[str, Any]:
        async with machine.activate(wanted.clsid, wanted.interface) as proxy:
            result = await getattr(proxy, operation.method)(*wanted.arguments)
            try:
                return results(operation, result)
            finally:
                await release(result)

    try:
        answer = converse(
            target, access, f"calling {operation.name}", story, account_required=True, probe=True
        )
    except StatusError as error:
        if as_json:
            emit(failure(error), (), as_json=True)
        raise
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in answer["out"].items()]
    emit(answer, lines or ["done"], as_json=as_json)
    if answer["hresult"] >= FAILED:
        raise click.exceptions.Exit(1)


def understand(words: tuple[str, ...], modules: list[ModuleType]) -> Wanted:
    """Read CLSID IID | PROGID, METHOD and arguments. UsageError, ConfigurationError"""
    from oxid.rpc.interface import spec_of

    if len(words) < 2:
        raise click.UsageError("missing argument: (CLSID IID | PROGID) METHOD [JSON]...")
    try:
        clsid = parse_uuid(words[0])
    except ConfigurationError:
        clsid, offered = find_class(modules, words[0])
        method, given = words[1], words[2:]
    else:
        if len(words) < 3:
            raise click.UsageError("missing argument: CLSID IID METHOD [JSON]...") from None
        offered = [find_interface(modules, words[1])]
        method, given = words[2], words[3:]
    operations = {spec_of(cls): cls for cls in offered}
    for spec, cls in operations.items():
        try:
            operation = spec.operation(method)
        except KeyError:
            continue
        return Wanted(clsid, cls, operation, arguments(spec, operation, given))
    known = [operation.name for spec in operations for operation in spec.operations.values()]
    raise ConfigurationError(f"no method {method}{nearest(method, sorted(known))}")


def find_class(modules: list[ModuleType], progid: str) -> tuple[UUID, list[type[Any]]]:
    """CLSID and interfaces of a class by its readable name. ConfigurationError"""
    from oxid.com.coclass import coclasses_in

    known = {cls.progid: cls for module in modules for cls in coclasses_in(module) if cls.progid}
    for name, described in known.items():
        if name.lower() == progid.lower():
            return described.clsid, [spec.cls for spec in described.interfaces if spec.cls is not None]
    raise ConfigurationError(
        f"no class {progid} is known here{nearest(progid, sorted(known))}; or give CLSID and IID"
    )


def arguments(spec: InterfaceSpec, operation: OperationSpec, given: tuple[str, ...]) -> list[Any]:
    """Turn words into arguments; sizes that the wire derives may be given as in the IDL, or left out."""
    from oxid.ndr.model import Count

    parts = operation.shape.request
    hidden = [index for index, part in enumerate(parts) if isinstance(part, Count)]
    by_name = {param.name: param for param in operation.in_params}
    if hidden and len(given) == len(parts):
        ordered = [part.name for part in parts if not isinstance(part, Count)]
        values = dict(zip(ordered, (w for i, w in enumerate(given) if i not in hidden), strict=True))
    elif len(given) == len(by_name):
        values = dict(zip(by_name, given, strict=True))
    else:
        wanted = ", ".join(param.idl_name for param in operation.in_params) or "none"
        raise ConfigurationError(
            f"{spec.name}.{operation.name}: {len(given)} arguments given, wanted: {wanted}"
        )
    converted = {
        name: argument(by_name[name].node, word, by_name[name].idl_name) for name, word in values.items()
    }
    for index in hidden if len(given) == len(parts) else ():
        count = parts[index]
        assert isinstance(count, Count)
        length = len(converted[count.of]) if converted[count.of] is not None else 0
        if given[index] != str(length):
            raise ConfigurationError(f"{count.label}: {given[index]} given, {count.of} has {length} items")
    return [converted[name] for name in by_name]


def results(operation: OperationSpec, result: Any) -> dict[str, Any]:
    """The [out] values by name; a status that the method returns as a value is the HRESULT."""
    shape = operation.shape
    match shape.form:
        case "none":
            values: list[Any] = []
        case "one":
            values = [result]
        case "record":
            values = [getattr(result, param.name) for param in operation.out_params]
        case _:
            values = list(result)
    outs = list(zip(operation.out_params, values, strict=True))
    hresult = 0
    if shape.status_returned:
        hresult = int(outs.pop()[1])
    return {"hresult": hresult, "out": {p.idl_name: described(p.node, value) for p, value in outs}}


def described(node: Any, value: Any) -> Any:
    """JSON for a value; for an object of the other machine, its identifiers."""
    from oxid.com.proxy import Proxy

    if isinstance(value, Proxy):
        return {"oxid": f"{value.oxid:016x}", "oid": f"{value.oid:016x}", "ipid": str(value.ipid)}
    return to_json(node, value)


async def release(result: Any) -> None:
    """Give back the objects that came with a result."""
    from oxid.com.proxy import Proxy

    for value in result if isinstance(result, tuple) else (result,):
        if isinstance(value, Proxy):
            await value.release()


def failure(error: StatusError) -> dict[str, Any]:
    """A failed call as JSON."""
    from oxid.errors import hresult_for

    data: dict[str, Any] = {"hresult": hresult_for(error), "out": {}}
    if error.info is not None:
        data["error"] = {"description": error.info.description, "source": error.info.source}
    return data
