"""What `oxid soak rpcss` has found, and the verdict of any soak: a table for people, the same data as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

WIDTH: Final = 66
FAULTS: Final = {
    "kill": "clients killed",
    "end": "ended politely",
    "stop": "stopped",
    "server": "local servers killed",
    "agent": "agents killed",
    "cut": "partitions",
}


def table(data: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the report."""
    settings, cycles, clients = data["settings"], data["cycles"], data["clients"]
    yield (
        f"{data['seconds'] / 60:.1f} minutes, {settings['clients']} clients, period {settings['period']:g} s, "
        f"seed {settings['seed']}{', ended early' if data['early'] else ''}"
    )
    yield (
        f"static endpoint: {cycles['made']} processes came and went, {cycles['activations']} activations, "
        f"{cycles['abandoned']} abandoned, {cycles['killed']} killed"
    )
    done = clients["done"]
    yield (
        f"clients: {done.get('starts', 0)} processes, {done.get('activations', 0)} objects, "
        f"{done.get('handed on', 0)} handed on, {done.get('calls', 0)} calls and events"
    )
    yield "faults: " + ", ".join(f"{done.get(kind, 0)} {what}" for kind, what in FAULTS.items())
    for why, count in sorted(clients["excused"].items()):
        yield f"    {count} calls failed because {why}"
    yield from rules_table(data)


def rules_table(data: Mapping[str, Any]) -> Iterator[str]:
    """What became of every rule, and the verdict."""
    yield ""
    yield f"{'what must hold':<{WIDTH}} {'held':>9} {'broken':>7}"
    for rule in data["rules"].values():
        looked = rule["held"] or rule["broken"]
        verdict = f"{rule['held']:>9} {rule['broken'] or '-':>7}" if looked else f"{'-':>9} {'-':>7}"
        yield f"{rule['rule']:<{WIDTH}} {verdict}"
        if rule["note"]:
            yield f"    {rule['note']}"
        yield from (f"    BROKEN: {place}" for place in rule["places"])
        if (more := rule["broken"] - len(rule["places"])) > 0:
            yield f"    and {more} more"
    yield ""
    if data["sound"]:
        yield "everything held"
    else:
        broken = [name for name, rule in data["rules"].items() if rule["broken"]]
        yield f"BROKEN: {', '.join(broken)}"
        yield f"the same choices again: {data['repeat']}"
    if data["kept"]:
        yield f"logs and state are in {data['kept']}"
