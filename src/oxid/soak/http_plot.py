"""A picture of one `oxid soak http`: memory and counts of the host over time. Needs matplotlib (the group `plot`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

MISSING: Final = (
    "no picture: matplotlib is not installed; ./oxid setup plot installs it, --no-plot does without"
)
MIB: Final = 1 << 20
SHOWN: Final = {
    "virtual_connection": "virtual connections",
    "tunnel_channel": "channels",
    "ecb": "control blocks",
    "http_connection": "HTTP connections",
    "rpc_connection": "RPC connections",
}
"""Kinds of the ledger that are drawn, and their names."""


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Draw it into a PNG file. Raises ImportError without matplotlib, OSError where the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples, rests = data["samples"], data["rests"]
    minutes = [sample["at"] / 60 for sample in samples]
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    figure.suptitle(_title(data), fontsize=11)

    memory.plot(minutes, [sample["private"] / MIB for sample in samples], color="0.7", label="under load")
    rest_minutes = [rest["at"] / 60 for rest in rests]
    memory.plot(rest_minutes, [rest["private"] / MIB for rest in rests], "o-", color="C3", label="at rest")
    memory.set_ylabel("private memory, MiB")
    memory.legend(loc="lower right")

    for kind, name in SHOWN.items():
        counts.plot(minutes, [sample["live"].get(kind, 0) for sample in samples], label=name)
    counts.plot(
        minutes,
        [sample["descriptors"] for sample in samples],
        color="0.3",
        linestyle=":",
        label="descriptors",
    )
    for minute in rest_minutes:
        counts.axvline(minute, color="0.9", zorder=0)
    counts.set_ylabel("live")
    counts.set_ylim(bottom=0)
    counts.legend(loc="upper right", fontsize=8, ncols=2)

    pairs = [(one, later) for one, later in pairwise(samples) if later["at"] > one["at"]]
    rate.plot(
        [later["at"] / 60 for _, later in pairs],
        [(later["sessions"] - one["sessions"]) / (later["at"] - one["at"]) for one, later in pairs],
    )
    rate.set_ylabel("sessions a second")
    rate.set_xlabel("minutes")
    rate.set_ylim(bottom=0)
    for axes in (memory, counts, rate):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _title(data: Mapping[str, Any]) -> str:
    verdict = "everything held" if data["sound"] else "BROKEN"
    return (
        f"oxid soak http: {data['counts'].get('sessions', 0):,} tunnelled sessions in "
        f"{data['seconds'] / 60:.1f} minutes, {verdict}\n{data['rules']['memory']['note']}"
    )
