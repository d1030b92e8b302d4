"""Runs an `oxid` command that ends with whoever started it: `python -m oxid.soak.leash PARENT ERRORS WORD...`

In a session of its own, so that Ctrl-C on the terminal reaches the soak alone, which then ends the others in order.
What the command writes to its error output, its children's words too, goes to the end of the file ERRORS.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def tie(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends; ends it now where that has happened."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(1)


def main(words: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    parent, errors, *command = words
    os.setsid()
    tie(int(parent), signal.SIGTERM)
    target = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 2)
    os.close(target)
    sys.argv = ["oxid", *command]
    runpy.run_module("oxid", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
