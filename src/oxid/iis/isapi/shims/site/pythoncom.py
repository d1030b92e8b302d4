"""Stand-in for pywin32's `pythoncom`: its error, and initialisation that is not needed here."""

from __future__ import annotations

from pywintypes import com_error

__all__ = ["CoInitialize", "CoUninitialize", "com_error"]


def CoInitialize() -> None:
    """Nothing to do."""


def CoUninitialize() -> None:
    """Nothing to do."""
