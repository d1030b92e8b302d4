"""The transfer syntaxes and what differs between them. [C706] 14, [MS-RPCE] 2.2.4.12, 2.2.5"""

from __future__ import annotations

from enum import Enum
from typing import Final
from uuid import UUID

NDR20_ID: Final = UUID("8a885d04-1ceb-11c9-9fe8-08002b104860")
NDR20_VERSION: Final = (2, 0)
NDR64_ID: Final = UUID("71710533-beba-4937-8319-b5dbef9ccc36")
NDR64_VERSION: Final = (1, 0)


class Syntax(Enum):
    """A transfer syntax together with a byte order. NDR64 is little-endian by definition. [MS-RPCE] 2.2.5"""

    NDR20_LE = "ndr20-le"
    NDR20_BE = "ndr20-be"
    NDR64 = "ndr64"

    def __init__(self, _name: str) -> None:
        self.order = ">" if _name.endswith("be") else "<"
        """The byte order character of the `struct` module."""
        self.wide = _name == "ndr64"
        """Whether pointers and counts take eight bytes."""
        self.count_code = "Q" if self.wide else "I"
        """How a count or a referent id is packed."""
        self.count_size = 8 if self.wide else 4

    @property
    def little(self) -> bool:
        """Whether integers are little-endian."""
        return self.order == "<"

    @property
    def identifier(self) -> tuple[UUID, tuple[int, int]]:
        """The UUID and version that name it in a presentation context."""
        return (NDR64_ID, NDR64_VERSION) if self.wide else (NDR20_ID, NDR20_VERSION)
