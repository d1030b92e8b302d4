"""A local server for tests: serves Probe objects in a process of its own, as `oxid class register` names it.

command = probe_command(log)                 log: a file to which it writes what happens, one line each
python -P tests/support/local_probe.py LOG [--single] [--twice] [--slow S] [--die-first FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPID = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6b00"
CLSID_LOCAL = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6b01"
CLSID_SECOND = "5f2b1c6e-6a0d-4c8a-9a57-0d5b3f8e6b02"


def probe_command(log: Path, *more: str) -> list[str]:
    return [sys.executable, "-P", str(Path(__file__)), str(log), *more]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("log", type=Path)
    arguments.add_argument("--single", action="store_true", help="an object for one client only")
    arguments.add_argument("--slow", type=float, default=0.0, help="seconds until it registers")
    arguments.add_argument("--idle", type=float, default=0.0)
    arguments.add_argument("--die-first", type=Path, help="end at once unless this file is there; make it")
    told = arguments.parse_args()
    sys.path.insert(0, str(ROOT))

    def write(text: str) -> None:
        with told.log.open("a", encoding="utf-8") as log:
            log.write(f"{text} {os.getpid()}\n")

    write("started")
    if told.die_first is not None and not told.die_first.exists():
        told.die_first.touch()
        sys.exit(9)
    time.sleep(told.slow)
    from tests.support.lifetimes import IProbe, Probe

    import oxid

    class Logged(Probe):
        def __init__(self) -> None:
            super().__init__()
            write("made")

        def final_release(self) -> None:
            super().final_release()
            write("ended")

    served = [
        oxid.coclass(clsid, implements=[IProbe], appid=APPID)(type("Logged", (Logged,), {}))
        for clsid in (CLSID_LOCAL, CLSID_SECOND)
    ]
    oxid.run_local_server(served, single_use=told.single, idle_s=told.idle)
    write("stopped")


if __name__ == "__main__":
    main()
