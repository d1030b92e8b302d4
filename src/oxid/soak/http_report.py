"""What `oxid soak http` has found, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oxid.soak.report import rules_table


def table(data: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the report."""
    settings, counts, setup = data["settings"], data["counts"], data["setup"]
    seconds, sessions = data["seconds"], counts.get("sessions", 0)
    yield (
        f"{seconds / 60:.1f} minutes, {settings['clients']} clients, tunnel period {settings['period']:g} s, "
        f"seed {settings['seed']}{', ended early' if data['early'] else ''}"
    )
    made = f"; half of them stood within {setup['p50']}, 99 % within {setup['p99']}" if setup else ""
    yield f"{sessions} tunnelled sessions, {sessions / max(seconds, 0.1):.0f} a second{made}"
    yield (
        f"{counts.get('calls', 0)} calls, {counts.get('recycled', 0)} channels recycled, "
        f"{counts.get('pages', 0)} pages of web server and extensions"
    )
    yield ", ".join(f"{count} {name}" for name, count in sorted(data["acts"].items()))
    yield ""
    yield f"{'rest':>4} {'after':>8} {'sessions':>9} {'private memory':>15} {'settled in':>11}"
    for number, rest in enumerate(data["rests"], 1):
        yield (
            f"{number:>4} {rest['at']:>6.0f} s {rest['sessions']:>9} {rest['private'] / 1024:>11.0f} KiB "
            f"{rest['took']:>9.2f} s"
        )
    yield from rules_table(data)
    for line in data["grown"]:
        yield f"{line['bytes'] / 1024:>+9.1f} KiB {line['blocks']:>+7} blocks  {line['line']}"
        yield from (f"{'':>30}from {step}" for step in line["way"])
