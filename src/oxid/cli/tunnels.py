"""`oxid tunnels`: the virtual connections through a host's RPC proxy, and requests that extensions keep. RH-103"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from oxid.cli.output import emit, json_option, progress
from oxid.cli.parameters import state_option
from oxid.config import state_directory
from oxid.errors import TransportError


@click.command()
@state_option
@json_option
def tunnels(state: Path | None, as_json: bool) -> None:
    """Show what goes through the RPC proxy of a running host, why former tunnels ended, and which requests ISAPI
    extensions have kept without ending them."""
    from oxid.runtime.control import ask

    state = state or state_directory(os.environ)
    try:
        with progress("asking the host"):
            answer = ask(state / "control", "tunnels")
    except TransportError as error:
        error.remedy = f"start one with oxid serve --state {state}, or name the --state of one that runs"
        raise
    emit(answer, _lines(answer), as_json=as_json)


def _lines(answer: dict[str, Any]) -> list[str]:
    lines = []
    if sessions := answer["sessions"]:
        lines.append(f"{'tunnel':10} {'way':9} {'who':24} {'to':28} {'state':10} {'age s':>8} {'sent':>12}")
        lines += [
            f"{row['connection']:10} {row['direction']:9} {row['identity'][:24]:24} {row['target'][:28]:28} "
            f"{row['state']:10} {row['age']:>8.1f} {row.get('sent', 0):>12}"
            for row in sorted(sessions, key=lambda row: (row["connection"], row["direction"]))
        ]
    else:
        lines.append("no tunnel stands")
    ends = {
        name.removeprefix("end_").replace("_", " "): count
        for name, count in answer["proxy"].items()
        if name.startswith("end_") and count
    }
    if ends:
        lines.append("ended: " + ", ".join(f"{what} {count}" for what, count in ends.items()))
    if answer["proxy"].get("refused"):
        lines.append(f"refused: {answer['proxy']['refused']}")
    lines += [
        f"pending: {row['extension']} has kept request {row['request']} for {row['age']:.1f} s"
        for row in answer["pending"]
    ]
    return lines
