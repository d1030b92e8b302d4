"""Stand-in for pywin32's `pywintypes`: errors, handles, OVERLAPPED."""

from __future__ import annotations

import os
from typing import Any


class error(Exception):
    """A Windows function failed: number, function, text."""

    def __init__(self, winerror: int, funcname: str = "", strerror: str = "") -> None:
        super().__init__(winerror, funcname, strerror)
        self.winerror = winerror
        self.funcname = funcname
        self.strerror = strerror


class com_error(Exception):
    """A COM call failed: HRESULT, text, details, argument."""

    def __init__(self, hresult: int, strerror: str = "", excepinfo: Any = None, argerror: Any = None) -> None:
        super().__init__(hresult, strerror, excepinfo, argerror)
        self.hresult = hresult
        self.strerror = strerror
        self.excepinfo = excepinfo
        self.argerror = argerror


class OVERLAPPED:
    """What goes through a completion port; `object` is the caller's."""

    __slots__ = ("Internal", "InternalHigh", "Offset", "OffsetHigh", "hEvent", "object")

    def __init__(self) -> None:
        self.object: Any = None
        self.Internal = self.InternalHigh = self.Offset = self.OffsetHigh = 0
        self.hEvent: Any = None


class HANDLE:
    """A descriptor that is closed once, at the latest with its last reference."""

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor

    def __int__(self) -> int:
        return self._descriptor

    __index__ = __int__

    def __bool__(self) -> bool:
        return self._descriptor >= 0

    def Close(self) -> None:
        """Close it; the second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def Detach(self) -> int:
        """The descriptor, which is the caller's from now on."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def __del__(self) -> None:
        self.Close()


HANDLEType = HANDLE
UnicodeType = str
TRUE = True
FALSE = False
