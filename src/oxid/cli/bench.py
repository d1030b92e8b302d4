"""`oxid bench`: measurements; each lives in oxid.bench."""

from __future__ import annotations

from oxid.bench.cli import bench

__all__ = ["bench"]
