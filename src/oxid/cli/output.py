"""What commands print: data on stdout, as lines for people or as JSON; progress on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

PATIENCE_S: Final = 1.0
"""What takes longer than this says what it is doing."""


def emit(data: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result: `data` as JSON, else the lines."""
    if as_json:
        click.echo(json.dumps(data, default=_plain, ensure_ascii=False))
        return
    for line in lines:
        click.echo(line)


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"hex:{bytes(value).hex()}"
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr what takes longer than a second; on a terminal the line counts the time."""
    over = threading.Event()

    def show() -> None:
        began = time.monotonic()
        if over.wait(PATIENCE_S):
            return
        if not sys.stderr.isatty():
            click.echo(f"oxid: {what} …", err=True)
            return
        while not over.wait(0.25):
            print(
                f"\r\033[Koxid: {what} … {time.monotonic() - began:.0f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )
        print("\r\033[K", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
