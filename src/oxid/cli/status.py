"""`oxid status`: live counts of a running host, asked over its control socket."""

from __future__ import annotations

import os
from pathlib import Path

import click

from oxid.cli.output import emit, json_option, progress
from oxid.cli.parameters import IDENTIFIER, state_option
from oxid.cli.why import ask_about, story
from oxid.config import state_directory
from oxid.errors import TransportError


@click.command()
@click.option("--object", "oid", type=IDENTIFIER, metavar="OID", help="One object's state and flight record.")
@state_option
@json_option
def status(oid: int | None, state: Path | None, as_json: bool) -> None:
    """Show how many of each kind of resource a running host and its local servers hold; the question itself is not
    counted."""
    from oxid.runtime.control import ask

    if oid is not None:
        answer = ask_about(oid, state)
        emit(answer, story(answer), as_json=as_json)
        return

    state = state or state_directory(os.environ)
    try:
        with progress("asking the host"):
            counts = ask(state / "control", "status")
    except TransportError as error:
        error.remedy = f"start one with oxid serve --state {state}, or name the --state of one that runs"
        raise
    emit(counts, _table(counts), as_json=as_json)


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    lines = [f"{'kind':<20} {'live':>8} {'peak':>8} {'total':>10}"]
    for kind, live in counts["live"].items():
        peak, total = counts["peak"].get(kind, 0), counts["total"].get(kind, 0)
        if total:
            lines.append(f"{kind:<20} {live:>8} {peak:>8} {total:>10}")
    refused = [
        f"{what.replace('_', ' ')}: {count}" for what, count in counts.get("refused", {}).items() if count
    ]
    return (lines if len(lines) > 1 else ["nothing has happened yet"]) + refused
