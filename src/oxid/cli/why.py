"""`oxid why OID`: what happened to an object of a running host, and why it lives or died."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from oxid.cli.output import emit, json_option, progress
from oxid.cli.parameters import IDENTIFIER, state_option
from oxid.config import state_directory
from oxid.errors import ConfigurationError, TransportError


@click.command()
@click.argument("oid", type=IDENTIFIER)
@state_option
@json_option
def why(oid: int, state: Path | None, as_json: bool) -> None:
    """Tell the story of the object OID (in hexadecimal): who held it, and why it lives or died."""
    answer = ask_about(oid, state)
    emit(answer, story(answer), as_json=as_json)


def ask_about(oid: int, state: Path | None) -> dict[str, Any]:
    """A host's flight record of an object. Raises TransportError, ConfigurationError for one it knows nothing of."""
    from oxid.runtime.control import ask

    state = state or state_directory(os.environ)
    try:
        with progress("asking the host"):
            answer = ask(state / "control", "object", oid=oid)
    except TransportError as error:
        error.remedy = f"start one with oxid serve --state {state}, or name the --state of one that runs"
        raise
    if not answer["known"]:
        raise ConfigurationError(
            f"the host remembers no object {oid:016x}; identifiers are those of oxid activate, in hexadecimal"
        )
    return answer


def story(answer: dict[str, Any]) -> list[str]:
    """An object's record as lines for people."""
    lines = [f"object {answer['oid']:016x} {'lives' if answer['lives'] else 'is gone'}"]
    if answer["lives"]:
        sets = " ".join(f"{set_id:016x}" for set_id in answer["ping_sets"])
        lines.append(f"  in {answer['exporter']}, OXID {answer['oxid']:016x}")
        lines.append(f"  held by ping set {sets}" if sets else "  held by no ping set")
    for event in answer["events"]:
        when = datetime.fromtimestamp(event["at"]).isoformat(sep=" ", timespec="milliseconds")
        lines.append(f"{when}  {event['text']}")
    return lines
