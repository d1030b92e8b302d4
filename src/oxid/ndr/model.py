"""The type model: one node per wire type, built from annotations, read by the code generators. [C706] 14

    resolve(Unique[Conformant[U32]])  ->  Pointer(UNIQUE, Array((None,), U32))

A node answers what generators ask (alignment, whether pointers are inside, whether it is conformant); it
holds no value and does no marshalling.
"""

from __future__ import annotations

import sys
import types as python_types
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from oxid.ndr.syntax import Syntax
from oxid.values.status import HResult, NtStatus, Win32


class Node:
    """One wire type."""

    def alignment(self, syntax: Syntax) -> int:
        """The boundary its representation starts on."""
        raise NotImplementedError

    def least_size(self, syntax: Syntax) -> int:
        """A lower bound for its flat representation; counts are checked with it before anything is built."""
        raise NotImplementedError

    @property
    def pointers(self) -> bool:
        """Whether referents are deferred from inside."""
        return False

    @property
    def conformant(self) -> bool:
        """Whether maximum counts travel in front of it (and of the structure that ends with it)."""
        return False

    def parts(self) -> list[Node]:
        """The nodes directly inside."""
        return []


@dataclass(eq=False, slots=True)
class Scalar(Node):
    """A number of fixed size."""

    name: str
    code: str
    size: int
    low: int | None = None
    high: int | None = None
    wide_code: str = ""
    """The code in NDR64, where it differs."""
    wide_size: int = 0
    truth: bool = False
    """A 32-bit BOOL: any non-zero value is True."""
    status: type[HResult] | type[Win32] | type[NtStatus] | None = None
    """Which kind of status code it is, if it is one."""
    enum: type[IntEnum] | type[IntFlag] | None = None
    """The Python enumeration of its values; unknown values stay integers."""

    def alignment(self, syntax: Syntax) -> int:
        return self.size_in(syntax)

    def least_size(self, syntax: Syntax) -> int:
        return self.size_in(syntax)

    def code_in(self, syntax: Syntax) -> str:
        return self.wide_code if syntax.wide and self.wide_code else self.code

    def size_in(self, syntax: Syntax) -> int:
        return self.wide_size if syntax.wide and self.wide_size else self.size


@dataclass(eq=False, slots=True)
class Ranged(Node):
    """A number that must lie between two bounds. [MS-RPCE] 2.2.4.14"""

    number: Scalar
    low: int
    high: int

    def alignment(self, syntax: Syntax) -> int:
        return self.number.alignment(syntax)

    def least_size(self, syntax: Syntax) -> int:
        return self.number.least_size(syntax)

    def parts(self) -> list[Node]:
        return [self.number]


@dataclass(eq=False, slots=True)
class GuidNode(Node):
    """A UUID: a structure of one 32-bit, two 16-bit integers and eight bytes. [MS-DTYP] 2.3.4"""

    def alignment(self, syntax: Syntax) -> int:
        return 4

    def least_size(self, syntax: Syntax) -> int:
        return 16


@dataclass(eq=False, slots=True)
class HandleNode(Node):
    """A context handle: attributes and a UUID; 20 zero bytes are NULL. [C706] 14.2.8"""

    def alignment(self, syntax: Syntax) -> int:
        return 4

    def least_size(self, syntax: Syntax) -> int:
        return 20


@dataclass(eq=False, slots=True)
class Text(Node):
    """A [string] of characters with a terminator; `bound` is the size of a fixed array, else conformant."""

    wide: bool = True
    bound: int | None = None

    def alignment(self, syntax: Syntax) -> int:
        return syntax.count_size

    def least_size(self, syntax: Syntax) -> int:
        return 2 * syntax.count_size + (2 if self.wide else 1)

    @property
    def conformant(self) -> bool:
        return self.bound is None


@dataclass(eq=False, slots=True)
class Array(Node):
    """An array of one or more dimensions; a bound of None is conformant. [C706] 14.3.3"""

    item: Node
    bounds: tuple[int | None, ...]
    varying: bool = False
    text: bool = False
    """16-bit characters that Python sees as one str."""

    def alignment(self, syntax: Syntax) -> int:
        own = self.item.alignment(syntax)
        # Hoisted counts take part in NDR only; in NDR64 they stand in front and not in the trailing gap.
        counted = self.varying or (self.conformant and not syntax.wide)
        return max(own, syntax.count_size) if counted else own

    def least_size(self, syntax: Syntax) -> int:
        size = 2 * syntax.count_size * len(self.bounds) if self.varying else 0
        if not self.varying and not self.conformant:
            items = 1
            for bound in self.bounds:
                items *= bound or 0
            size += items * self.item.least_size(syntax)
        return size

    @property
    def pointers(self) -> bool:
        return self.item.pointers

    @property
    def conformant(self) -> bool:
        return None in self.bounds

    @property
    def octets(self) -> bool:
        """Whether Python sees it as `bytes`."""
        return isinstance(self.item, Scalar) and self.item.code == "B" and len(self.bounds) == 1

    def parts(self) -> list[Node]:
        return [self.item]


class PointerKind(Enum):
    """Reference, unique or full. [C706] 14.3.10"""

    REF = "ref"
    UNIQUE = "unique"
    FULL = "full"


@dataclass(eq=False, slots=True)
class Pointer(Node):
    """A pointer and what it points to."""

    kind: PointerKind
    target: Node

    def alignment(self, syntax: Syntax) -> int:
        return syntax.count_size

    def least_size(self, syntax: Syntax) -> int:
        return syntax.count_size

    @property
    def pointers(self) -> bool:
        return True

    @property
    def optional(self) -> bool:
        """Whether None is one of its values: a reference may lead to a pointer that is NULL."""
        if self.kind is not PointerKind.REF:
            return True
        return isinstance(self.target, InterfaceNode) or (
            isinstance(self.target, Pointer) and self.target.optional
        )

    def parts(self) -> list[Node]:
        return [self.target]


@dataclass(eq=False, slots=True)
class InterfaceNode(Node):
    """A unique pointer to an MInterfacePointer. [MS-DCOM] 2.2.14"""

    interface: Any = None
    """The interface class, or None where another parameter names it (iid_is)."""
    raw: bool = False
    """Python sees the OBJREF's bytes."""

    def alignment(self, syntax: Syntax) -> int:
        return syntax.count_size

    def least_size(self, syntax: Syntax) -> int:
        return syntax.count_size

    @property
    def pointers(self) -> bool:
        return True


@dataclass(eq=False, slots=True)
class Pipe(Node):
    """A sequence sent in chunks; here always whole. [C706] 14.3.9, [MS-RPCE] 2.2.5.3.4.5"""

    item: Node

    def alignment(self, syntax: Syntax) -> int:
        return syntax.count_size

    def least_size(self, syntax: Syntax) -> int:
        return syntax.count_size

    def parts(self) -> list[Node]:
        return [self.item]


@dataclass(frozen=True, slots=True)
class Count:
    """A number on the wire that is derived from another value: size_is, length_is or switch_is."""

    of: str
    hint: Any
    name: str = ""
    kind: str = "length"
    """`length`: the items sent; `size`: the maximum count; `switch`: a union's discriminant."""
    loose: bool = False
    """A NULL pointer may come with any number (disable_consistency_check)."""

    @property
    def label(self) -> str:
        return self.name or f"{self.kind}_of_{self.of}"

    @property
    def node(self) -> Node:
        return resolve(self.hint)


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a structure that Python sees."""

    name: str
    node: Node


@dataclass(eq=False)
class Struct(Node):
    """A structure; its members are resolved at first use, so that structures may name each other."""

    cls: type[Any]
    correlate: Mapping[str, str] = field(default_factory=dict)
    align_at_least: int = 1
    _members: list[Member | Count] | None = None
    _pointers: bool | None = None

    @property
    def members(self) -> list[Member | Count]:
        """Members in wire order, with the hidden counts."""
        if self._members is None:
            self._members = _members_of(self.cls)
        return self._members

    @property
    def fields(self) -> list[Member]:
        return [member for member in self.members if isinstance(member, Member)]

    def alignment(self, syntax: Syntax) -> int:
        return max([self.align_at_least, *(member.node.alignment(syntax) for member in self.members)])

    def least_size(self, syntax: Syntax) -> int:
        return sum(member.node.least_size(syntax) for member in self.members)

    @property
    def pointers(self) -> bool:
        if self._pointers is None:
            self._pointers = any(member.node.pointers for member in self.fields)
        return self._pointers

    @property
    def conformant(self) -> bool:
        return bool(self.members) and self.members[-1].node.conformant

    def parts(self) -> list[Node]:
        return [member.node for member in self.fields]


@dataclass(eq=False)
class UnionNode(Node):
    """A discriminated union. [C706] 14.3.8, [MS-RPCE] 2.2.4.5, 2.2.5.3.4.4"""

    cls: type[Any]
    switch: Any
    encapsulated: bool = False
    ms_union: bool = False
    _arms: dict[Any, Node | None] | None = None

    @property
    def tag(self) -> Node:
        return resolve(self.switch)

    @property
    def arms(self) -> dict[Any, Node | None]:
        """Arm by case value; None is an empty arm, the key `DEFAULT` takes every other tag."""
        if self._arms is None:
            scope = vars(sys.modules[self.cls.__module__]) | {self.cls.__name__: self.cls}
            self._arms = {
                case: None if hint is None else resolve(eval(hint, scope) if isinstance(hint, str) else hint)
                for case, hint in self.cls.cases.items()
            }
        return self._arms

    def arm_alignment(self, syntax: Syntax) -> int:
        return max([1, *(arm.alignment(syntax) for arm in self.arms.values() if arm)])

    def alignment(self, syntax: Syntax) -> int:
        return max(self.tag.alignment(syntax), self.arm_alignment(syntax))

    def least_size(self, syntax: Syntax) -> int:
        return self.tag.least_size(syntax)

    @property
    def pointers(self) -> bool:
        return any(arm.pointers for arm in self.arms.values() if arm)

    def parts(self) -> list[Node]:
        return [arm for arm in self.arms.values() if arm]


class _Default:
    """The key of the arm that takes every tag without a case."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Any = _Default()


# What annotations carry beside nodes: how the type before (or inside) is wrapped.


@dataclass(frozen=True, slots=True)
class PointerTo:
    kind: PointerKind


class ArrayOf:
    """`Annotated[list[U32], ArrayOf(4)]`; a bound of None is conformant, several bounds are dimensions."""

    def __init__(self, *bounds: int | None, varying: bool = False, item: Any = None) -> None:
        self.bounds = bounds or (None,)
        self.varying = varying
        self.item = item


@dataclass(frozen=True, slots=True)
class InterfaceTo:
    raw: bool = False


@dataclass(frozen=True, slots=True)
class PipeOf:
    pass


@dataclass(frozen=True, slots=True)
class Range:
    """`Annotated[U32, Range(0, 500)]`: other values are refused in both directions. [MS-RPCE] 2.2.4.14"""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class StringOf:
    """`Annotated[str, StringOf(64)]`: a [string] in a fixed array of 64 characters, terminator included."""

    bound: int | None = None
    wide: bool = True


OCTET = Scalar("U8", "B", 1, 0, 0xFF)
WIDE_CHARACTER = Scalar("WChar", "H", 2, 0, 0xFFFF)
GUID = GuidNode()


def resolve(hint: Any) -> Node:
    """Return the node of an annotation. Raises TypeError where it does not say how it travels."""
    if isinstance(hint, Node):
        return hint
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        node: Node | None = None
        for mark in marks:
            node = _apply(mark, node, base)
        if node is not None:
            return node
        return resolve(base)
    if isinstance(hint, type):
        own = hint.__dict__.get("__ndr__")
        if isinstance(own, Node):
            return own
        if hint is UUID:
            return GUID
    raise TypeError(f"{hint!r} does not say how it travels; use U32, Str, Unique[...], a @struct class, ...")


def _apply(mark: Any, node: Node | None, base: Any) -> Node | None:
    if isinstance(mark, Scalar):
        if isinstance(base, type) and issubclass(base, (IntEnum, IntFlag)):
            return Scalar(
                mark.name,
                mark.code,
                mark.size,
                mark.low,
                mark.high,
                mark.wide_code,
                mark.wide_size,
                enum=base,
            )
        return mark
    if isinstance(mark, Node):
        return mark
    if isinstance(mark, PointerTo):
        return Pointer(mark.kind, node or resolve(_without_none(base)))
    if isinstance(mark, ArrayOf):
        return _array(mark, node, base)
    if isinstance(mark, StringOf):
        return Text(mark.wide, mark.bound)
    if isinstance(mark, InterfaceTo):
        target = None if mark.raw else _without_none(base)
        named = isinstance(target, type) and target is not Any  # Any is a class since 3.11
        return InterfaceNode(target if named else None, mark.raw)
    if isinstance(mark, PipeOf):
        return Pipe(_item_of(base))
    if isinstance(mark, Range):
        number = node or resolve(base)
        if not isinstance(number, Scalar):
            raise TypeError(f"a range needs a number, not {base!r}")
        return Ranged(number, mark.low, mark.high)
    return node  # other people's metadata


def _array(mark: ArrayOf, node: Node | None, base: Any) -> Array:
    if node is not None and mark.item is None:
        return Array(node, mark.bounds, mark.varying)
    if base is str:
        return Array(WIDE_CHARACTER, mark.bounds, mark.varying, text=True)
    if mark.item is not None:
        return Array(resolve(mark.item), mark.bounds, mark.varying)
    item = base
    for _ in mark.bounds:
        if item is bytes:
            return Array(OCTET, mark.bounds, mark.varying)
        if get_origin(item) is Annotated:
            break
        args = get_args(item)
        if not args:
            raise TypeError(f"{base!r} does not name its items for {len(mark.bounds)} dimensions")
        item = args[0]
    return Array(resolve(item), mark.bounds, mark.varying)


def _item_of(base: Any) -> Node:
    if base is bytes:
        return OCTET
    args = get_args(base)
    if not args:
        raise TypeError(f"{base!r} does not name its items")
    return resolve(args[0])


def _without_none(base: Any) -> Any:
    if get_origin(base) in (Union, python_types.UnionType):
        kept = [arg for arg in get_args(base) if arg is not type(None)]
        if len(kept) == 1:
            return kept[0]
        raise TypeError(f"{base!r} has more than one type behind a pointer")
    return base


def hints_of(thing: Any, owner: type[Any] | None = None) -> dict[str, Any]:
    """The annotations of a class or method, in order, names of its own class included."""
    local = {owner.__name__: owner} if owner is not None else None
    return get_type_hints(thing, localns=local, include_extras=True)


def _members_of(cls: type[Any]) -> list[Member | Count]:
    members: list[Member | Count] = []
    hints = hints_of(cls, cls)
    for name, hint in hints.items():
        value = getattr(cls, name, None)
        if isinstance(value, Count):
            members.append(Count(value.of, value.hint, value.name or name, value.kind, value.loose))
        elif hint is not ClassVar and get_origin(hint) is not ClassVar:
            members.append(Member(name, resolve(hint)))
    return members


def signature(node: Node) -> str:
    """Equal for types that are the same on the wire and in Python: referents of full pointers have it as key."""
    if isinstance(node, (Struct, UnionNode)):
        return f"{node.cls.__qualname__}@{id(node)}"
    if isinstance(node, Scalar):
        return f"{node.name}:{node.code}:{node.enum.__qualname__ if node.enum else ''}"
    if isinstance(node, Array):
        return f"{signature(node.item)}{list(node.bounds)}{node.varying:d}{node.text:d}"
    if isinstance(node, Pointer):
        return f"{node.kind.value}*{signature(node.target)}"
    if isinstance(node, Ranged):
        return signature(node.number)
    return f"{node!r}"


def reaches(start: Node, goal: Node) -> bool:
    """Whether values of `goal` may lie inside values of `start` (behind pointers too)."""
    seen: set[int] = set()
    todo = start.parts()
    while todo:
        node = todo.pop()
        if node is goal:
            return True
        if id(node) not in seen:
            seen.add(id(node))
            todo.extend(node.parts())
    return False
