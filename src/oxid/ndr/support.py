"""What generated code calls. Nothing here is called by hand.

Refusals while receiving are BadStubData, while sending LocalProtocolError; whatever Python itself raises
inside a generated function is turned into one of the two by the wrapper around it (`codec`).
"""

from __future__ import annotations

import codecs
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, Final, NoReturn
from uuid import UUID

from oxid.errors import BadStubData, LocalProtocolError, error_for
from oxid.values.status import HResult, NtStatus, Win32

PAD2: Final = (b"", b"\0")
PAD4: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
PAD8: Final = tuple(bytes(-i % 8) for i in range(8))

CACHED_COUNTS: Final = 512
"""How many item counts keep their ready-made Struct; hostile counts must not fill memory."""

new: Final = object.__new__

NATIVE_ORDER: Final = "<" if sys.byteorder == "little" else ">"


class PackCache(dict[int, Callable[..., bytes]]):
    """count -> the `pack` of that many items."""

    def __init__(self, order: str, code: str) -> None:
        super().__init__()
        self.order, self.code = order, code

    def __missing__(self, count: int) -> Callable[..., bytes]:
        pack = struct.Struct(f"{self.order}{count}{self.code}").pack
        if len(self) < CACHED_COUNTS:
            self[count] = pack
        return pack


class UnpackCache(dict[int, Callable[..., tuple[Any, ...]]]):
    """count -> the `unpack_from` of that many items."""

    def __init__(self, order: str, code: str) -> None:
        super().__init__()
        self.order, self.code = order, code

    def __missing__(self, count: int) -> Callable[..., tuple[Any, ...]]:
        unpack = struct.Struct(f"{self.order}{count}{self.code}").unpack_from
        if len(self) < CACHED_COUNTS:
            self[count] = unpack
        return unpack


class GuidReader(dict[bytes, UUID]):
    """16 bytes -> UUID; making a UUID costs ten times a look-up, and the same few come again and again."""

    def __init__(self, little: bool) -> None:
        super().__init__()
        self.little = little

    def __missing__(self, raw: bytes) -> UUID:
        uuid = UUID(bytes_le=raw) if self.little else UUID(bytes=raw)
        if len(self) >= 4096:
            self.clear()
        self[raw] = uuid
        return uuid


class GuidWriter(dict[UUID, bytes]):
    """UUID -> its 16 bytes."""

    def __init__(self, little: bool) -> None:
        super().__init__()
        self.little = little

    def __missing__(self, uuid: UUID) -> bytes:
        if not isinstance(uuid, UUID):
            raise TypeError(f"a UUID is needed, not {uuid!r}")
        raw = uuid.bytes_le if self.little else uuid.bytes
        if len(self) >= 4096:
            self.clear()
        self[uuid] = raw
        return raw


def bad(message: str) -> NoReturn:
    """Refuse what was received."""
    raise BadStubData(message)


def refuse(message: str) -> NoReturn:
    """Refuse what is to be sent."""
    raise LocalProtocolError(message)


def failed(kind: type[HResult] | type[Win32] | type[NtStatus], code: int, label: str) -> NoReturn:
    """Raise the exception of a status that ends a reply."""
    raise error_for(kind(code), label)


DECODE_ERRORS: Final = (struct.error, ValueError, IndexError, OverflowError, MemoryError, RecursionError)
"""What Python raises over bytes that are wrong or too few."""

ENCODE_ERRORS: Final = (
    struct.error, TypeError, ValueError, AttributeError, IndexError, KeyError, OverflowError, RecursionError
)  # fmt: skip
"""What Python raises over values that do not fit their types."""


def bad_from(error: BaseException, label: str) -> BadStubData:
    if isinstance(error, struct.error):
        return BadStubData(f"{label}: the stub data ends too early ({error})")
    return BadStubData(f"{label}: {error}")


def handle_bytes(value: bytes | None) -> bytes:
    """A context handle's 20 bytes."""
    if value is None:
        return bytes(20)
    if len(value) != 20:
        raise LocalProtocolError(f"a context handle has 20 bytes, not {len(value)}")
    return value


_HANDLE_LITTLE = struct.Struct("<IIHH8s")
_HANDLE_BIG = struct.Struct(">IIHH8s")


def handle_to_big(value: bytes | None) -> bytes:
    return _HANDLE_BIG.pack(*_HANDLE_LITTLE.unpack(handle_bytes(value)))


def handle_from_big(raw: bytes) -> bytes:
    return _HANDLE_LITTLE.pack(*_HANDLE_BIG.unpack(raw))


def latin_decode(raw: bytes, errors: str, final: bool) -> tuple[str, int]:
    return codecs.latin_1_decode(raw)


# The codec functions themselves: `bytes.decode("utf-16-le")` looks its codec up by name at each call.
ENCODERS: Final[dict[tuple[bool, bool], Callable[[str, str], tuple[bytes, int]]]] = {
    (True, True): codecs.utf_16_le_encode,
    (True, False): codecs.utf_16_be_encode,
    (False, True): codecs.latin_1_encode,
    (False, False): codecs.latin_1_encode,
}
"""(wide, little) -> encode"""
DECODERS: Final[dict[tuple[bool, bool], Callable[[bytes, str, bool], tuple[str, int]]]] = {
    (True, True): codecs.utf_16_le_decode,
    (True, False): codecs.utf_16_be_decode,
    (False, True): latin_decode,
    (False, False): latin_decode,
}


def characters(value: str, encoding: str, count: int) -> bytes:
    """A str as an array of 16-bit characters, filled with NULs up to a fixed `count`."""
    raw = value.encode(encoding, "surrogatepass")
    return raw + bytes(2 * count - len(raw)) if len(raw) < 2 * count else raw


def flatten(value: Sequence[Any], bounds: tuple[int | None, ...], label: str) -> tuple[list[int], list[Any]]:
    """The extent of each dimension and all items in order. Ragged arrays are refused."""
    extents: list[int] = []
    rows: list[Any] = [value]
    for bound in bounds:
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:
            raise LocalProtocolError(f"{label}: rows of different lengths {sorted(lengths)}")
        extent = lengths.pop() if lengths else bound or 0
        extents.append(extent)
        rows = [item for row in rows for item in row]
    return extents, rows


EMPTY_ROWS: Final = 1024
"""How many rows without items an array may have: they cost no bytes on the wire, but memory here."""


def nest(items: list[Any], extents: Sequence[int]) -> list[Any]:
    """Fold items back into rows."""
    for depth in range(len(extents) - 1, 0, -1):
        extent, rows = extents[depth], prod(extents[:depth])
        if rows > EMPTY_ROWS and not extent:
            raise BadStubData(f"an array of {rows} empty rows")
        items = [items[i * extent : (i + 1) * extent] for i in range(rows)]
    return items


def rows_of(value: Sequence[Any], dimensions: int) -> Iterable[Any]:
    """The innermost rows of a nested list."""
    rows: list[Any] = [value]
    for _ in range(dimensions - 1):
        rows = [inner for row in rows for inner in row]
    return rows


class ReferentIds:
    """Full pointers while sending: one id per object and type; its data goes where it is first reached."""

    def __init__(self) -> None:
        self.next = 0x0004_0000
        self.ids: dict[tuple[int, str], int] = {}
        self.sent: set[tuple[int, str]] = set()
        self.kept: list[Any] = []

    def id_of(self, value: Any, kind: str) -> int:
        """The id of a referent; `kind` is its type's signature, for pointers to pointers share their value."""
        if value is None:
            return 0
        key = (id(value), kind)
        found = None if isinstance(value, ALIAS_FREE) else self.ids.get(key)
        if found is None:
            found = self.next
            self.next += 4
            self.ids[key] = found
            self.kept.append(value)
        return found

    def first_time(self, value: Any, kind: str) -> bool:
        """Whether the data has to be sent here."""
        if isinstance(value, ALIAS_FREE):
            return True
        key = (id(value), kind)
        if key in self.sent:
            return False
        self.sent.add(key)
        return True


ALIAS_FREE: Final = (int, float, str, bytes, UUID)
"""Equal values of these are no aliases: nobody can change one through the other."""


def enum_value(members: dict[int, Any], value: int) -> Any:
    """A member of a Python enumeration, or the number where it has none."""
    return members.get(value, value)
