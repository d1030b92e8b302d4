"""How a function of ISAPI fails: with a Windows error code, as GetLastError would tell it. isapi.md §4, §5"""

from __future__ import annotations

from typing import Final

from oxid.errors import OxidError
from oxid.iis.isapi import constants as c

TEXTS: Final[dict[int, str]] = {
    c.ERROR_FILE_NOT_FOUND: "The system cannot find the file specified.",
    c.ERROR_PATH_NOT_FOUND: "The system cannot find the path specified.",
    c.ERROR_ACCESS_DENIED: "Access is denied.",
    c.ERROR_INVALID_HANDLE: "The handle is invalid.",
    c.ERROR_INVALID_DATA: "The data is invalid.",
    c.ERROR_NOT_SUPPORTED: "The request is not supported.",
    c.ERROR_NETNAME_DELETED: "The specified network name is no longer available.",
    c.ERROR_INVALID_PARAMETER: "The parameter is incorrect.",
    c.ERROR_INSUFFICIENT_BUFFER: "The data area passed to a system call is too small.",
    c.ERROR_OPERATION_ABORTED: "The I/O operation has been aborted.",
    c.ERROR_IO_PENDING: "Overlapped I/O operation is in progress.",
    c.ERROR_NO_TOKEN: "An attempt was made to reference a token that does not exist.",
    c.ERROR_INVALID_INDEX: "Invalid index.",
    c.WSAEINVAL: "An invalid argument was supplied.",
    c.WSAECONNRESET: "An existing connection was forcibly closed by the remote host.",
}
"""What people read for a code."""


class IsapiError(OxidError):
    """A function of a control block failed with this Windows error code.

    `needed`: for ERROR_INSUFFICIENT_BUFFER, how many bytes it takes.
    """

    def __init__(self, errno: int, function: str = "", needed: int = 0) -> None:
        self.errno = errno
        self.strerror = TEXTS.get(errno, f"error {errno}")
        self.function = function
        self.needed = needed
        super().__init__(
            f"{function}: {self.strerror} ({errno})" if function else f"{self.strerror} ({errno})"
        )
