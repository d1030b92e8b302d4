"""Stand-ins for the modules of pywin32 that ISAPI extensions import, found only after `install_shims()`. IS-61

    install_shims()        in the process that hosts Python extensions: `import isapi, win32file, pythoncom` work then

They stand at the end of the path: a real pywin32, or its unmodified `isapi` package, goes before them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

PLACE: Final = Path(__file__).parent / "site"
"""Where the stand-ins are; no package of ours, so that nobody gets them by accident."""


def install_shims() -> None:
    """Let this process find the stand-ins. May be called twice."""
    if str(PLACE) not in sys.path:
        sys.path.append(str(PLACE))


def remove_shims() -> None:
    """Let it find them no more; what was imported stays."""
    if str(PLACE) in sys.path:
        sys.path.remove(str(PLACE))
