"""The `oxid` command. One file per command; each parses, calls the public API, prints. CONTRACT §2-§5"""

from __future__ import annotations

from oxid.cli.program import main

__all__ = ["main"]
