"""Base classes with everything that extensions and filters must have, except what they are for."""

from __future__ import annotations

from typing import Any


class SimpleExtension:
    """Base of a simple extension: override HttpExtensionProc."""

    def __init__(self) -> None:
        pass

    def GetExtensionVersion(self, vi: Any) -> Any:
        """Give the class's docstring as description; `vi` is None after a reload."""
        if vi is not None:
            vi.ExtensionDesc = type(self).__doc__ or type(self).__name__

    def HttpExtensionProc(self, control_block: Any) -> Any:
        """Answer one request; return an HSE_STATUS."""
        raise NotImplementedError("an extension has an HttpExtensionProc of its own")

    def TerminateExtension(self, status: int) -> Any:
        """The extension is unloaded."""


class SimpleFilter:
    """Base of a simple filter: give `filter_flags` and override HttpFilterProc."""

    filter_flags: int | None = None

    def __init__(self) -> None:
        pass

    def GetFilterVersion(self, fv: Any) -> Any:
        """Give flags and description; `fv` is None after a reload."""
        if self.filter_flags is None:
            raise RuntimeError("You must specify the filter flags")
        if fv is not None:
            fv.Flags = self.filter_flags
            fv.FilterDesc = type(self).__doc__ or type(self).__name__

    def HttpFilterProc(self, fc: Any) -> Any:
        """Hear one notification; return an SF_STATUS."""
        raise NotImplementedError("a filter has an HttpFilterProc of its own")

    def TerminateFilter(self, status: int) -> Any:
        """The filter is unloaded."""
