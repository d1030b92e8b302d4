"""A local server of the soak, started by its host: `python -m oxid.soak.server static|dynamic`."""

from __future__ import annotations

import sys

from oxid.com.local_server import run_local_server
from oxid.soak.resident import DynamicResident, StaticResident


def main(words: list[str]) -> None:
    """Serve one class until nothing is left of it."""
    run_local_server([StaticResident if words == ["static"] else DynamicResident])


if __name__ == "__main__":
    main(sys.argv[1:])
