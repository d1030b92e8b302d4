"""Reading packed structures that a peer wrote: every step is checked against what is there.

    cursor = Cursor(data, wrong=BadStubData)
    count = cursor.u16()              # raises wrong("...") where the bytes end too early
    name = cursor.utf16z()

Nothing here aligns: NDR does that itself. `wrong` makes the exception, so one reader serves every context.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias
from uuid import UUID

Wrong: TypeAlias = Callable[[str], Exception]

_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


class Cursor:
    """A position in little-endian bytes that cannot leave them."""

    __slots__ = ("_wrong", "at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None, *, wrong: Wrong) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end
        self._wrong = wrong
        if not 0 <= at <= self.end <= len(data):
            raise wrong(f"{len(data)} bytes, wanted those from {at} to {self.end}")

    @property
    def remaining(self) -> int:
        return self.end - self.at

    def wrong(self, message: str) -> Exception:
        """The exception this reader complains with; the caller raises it."""
        return self._wrong(message)

    def skip(self, size: int) -> int:
        """Step over `size` bytes and return where they began."""
        begin = self.at
        if not 0 <= size <= self.end - begin:
            raise self._wrong(f"data ends at {self.end}, wanted {size} bytes at {begin}")
        self.at = begin + size
        return begin

    def take(self, size: int) -> bytes:
        begin = self.skip(size)
        return self.data[begin : begin + size]

    def u16(self) -> int:
        value: int = _U16.unpack_from(self.data, self.skip(2))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.skip(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self.skip(8))[0]
        return value

    def guid(self) -> UUID:
        return UUID(bytes_le=self.take(16))

    def utf16z(self) -> str:
        """A UTF-16 string up to its terminating zero, which is consumed too."""
        begin = at = self.at
        while True:
            at = self.data.find(b"\0\0", at, self.end)
            if at < 0:
                raise self._wrong(f"the string at {begin} has no end")
            if (at - begin) % 2 == 0:
                break
            at += 1
        self.at = at + 2
        try:
            return self.data[begin:at].decode("utf-16-le")
        except UnicodeDecodeError as error:
            raise self._wrong(f"the string at {begin} is not UTF-16") from error
