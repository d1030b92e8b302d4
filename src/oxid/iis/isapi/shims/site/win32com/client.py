"""Stand-in for `win32com.client`: GetObject for the names of the web server's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pywintypes import com_error

providers: dict[str, Callable[[str], Any]] = {}
"""Scheme in lower case (`iis`) -> who makes its objects. The metabase's provider enters itself here."""


def GetObject(path: str) -> Any:
    """The object of a moniker such as IIS://LocalHost/W3SVC. Raises com_error: no such provider, or no such object."""
    provider = providers.get(path.partition(":")[0].lower())
    if provider is None:
        raise com_error(-2147221020, "Invalid syntax", None, None)
    return provider(path)
