"""The names of pywin32's `isapi` package, for extensions and filters hosted by oxid."""

from __future__ import annotations


class ISAPIError(Exception):
    """A function of the server failed: `errno` is the Windows error code."""

    def __init__(self, errno: int, strerror: str | None = None, funcname: str | None = None) -> None:
        super().__init__(errno, strerror, funcname)
        self.errno = errno
        self.strerror = strerror
        self.funcname = funcname

    def __str__(self) -> str:
        if self.strerror is None:
            import win32api

            self.strerror = win32api.FormatMessage(self.errno).strip()
        return str((self.errno, self.strerror, self.funcname))


class ExtensionError(ISAPIError):
    """Of an extension's control block."""


class FilterError(ISAPIError):
    """Of a filter's context."""


class InternalReloadException(Exception):
    """Raised by a proc: load my module again and ask once more."""
