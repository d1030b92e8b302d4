"""`python -m oxid`: the same as the `oxid` command."""

from __future__ import annotations

from oxid.cli import main

if __name__ == "__main__":
    main()
