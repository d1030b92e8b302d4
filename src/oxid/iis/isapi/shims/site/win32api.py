"""Stand-in for pywin32's `win32api`: messages of codes, long names, and no console."""

from __future__ import annotations

import os

from pywintypes import error

from oxid.iis.isapi.failures import TEXTS

__all__ = ["FormatMessage", "GetConsoleTitle", "GetLongPathName", "error"]


def FormatMessage(code: int) -> str:
    """The text of a Windows error code."""
    if code == 0:
        return "The operation completed successfully.\r\n"
    return TEXTS.get(code, f"Unknown error {code}.") + "\r\n"


def GetLongPathName(name: str) -> str:
    """The name itself: there are no short ones. Raises error(2) where there is no such file."""
    if not os.path.exists(name):
        raise error(2, "GetLongPathName", "The system cannot find the file specified.")
    return name


def GetConsoleTitle() -> str:
    """Raises error(6): a server has no console."""
    raise error(6, "GetConsoleTitle", "The handle is invalid.")
