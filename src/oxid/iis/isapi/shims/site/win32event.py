"""Stand-in for pywin32's `win32event`: waiting for what the other stand-ins make."""

from __future__ import annotations

from typing import Any

from pywintypes import error

__all__ = ["INFINITE", "WAIT_OBJECT_0", "WAIT_TIMEOUT", "WaitForSingleObject", "error"]

INFINITE = -1
WAIT_OBJECT_0 = 0
WAIT_TIMEOUT = 258


def WaitForSingleObject(handle: Any, milliseconds: int) -> int:
    """Wait until it is signalled. Raises error(6) where it is closed, or cannot be waited for."""
    wait = getattr(handle, "wait", None)
    if wait is None:
        raise error(6, "WaitForSingleObject", "The handle is invalid.")
    return WAIT_OBJECT_0 if wait(None if milliseconds == INFINITE else milliseconds / 1000) else WAIT_TIMEOUT
