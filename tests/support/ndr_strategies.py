"""Types and values that belong together, for property tests of the NDR room."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from oxid.ndr import types as words
from oxid.ndr.model import (
    DEFAULT,
    OCTET,
    WIDE_CHARACTER,
    Array,
    GuidNode,
    HandleNode,
    Member,
    Node,
    Pointer,
    PointerKind,
    Scalar,
    Struct,
    Text,
    UnionNode,
    resolve,
)

NUMBERS = [
    resolve(getattr(words, name))
    for name in (
        "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64", "F32", "F64", "Boolean", "Bool", "Enum16", "Enum32",
        "Int3264", "HRESULT",
    )
]  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=6)
LATIN = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=6)


def make_struct(nodes: list[Node]) -> Struct:
    cls = dataclasses.make_dataclass("Made", [f"m{i}" for i in range(len(nodes))], slots=True)
    node = Struct(cls)
    node._members = [Member(f"m{i}", inner) for i, inner in enumerate(nodes)]
    return node


def make_union(arms: list[Node], *, encapsulated: bool, ms_union: bool) -> UnionNode:
    class Made(words.Union, switch=words.U16, encapsulated=encapsulated, ms_union=ms_union):
        cases = dict(enumerate(arms)) | {DEFAULT: None}

    return Made.__ndr__


leaves = st.one_of(
    st.sampled_from(NUMBERS),
    st.just(GuidNode()),
    st.just(HandleNode()),
    st.builds(Array, st.just(OCTET), st.sampled_from([(3,), (70,)])),
)
"""Types of fixed size."""


def _fixed(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Types that may stand anywhere, made of such types and of pointers to any type."""
    pointer = st.builds(Pointer, st.sampled_from(list(PointerKind)), _any(inner))
    bounds = st.sampled_from([(2,), (1, 3), (2, 2)])
    return st.one_of(
        pointer,
        st.builds(Array, inner, bounds, st.booleans()),
        st.builds(make_struct, st.lists(inner, min_size=1, max_size=4)),
        st.builds(
            make_union,
            st.lists(inner, min_size=1, max_size=3),
            encapsulated=st.booleans(),
            ms_union=st.booleans(),
        ),
    )


def _any(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Also conformant types: as a top-level value or behind a pointer."""
    sized = st.one_of(
        st.builds(Text, st.booleans(), st.sampled_from([None, None, 9])),
        st.builds(
            Array, inner, st.sampled_from([(None,), (None, 2), (None, None), (2, None)]), st.booleans()
        ),
        st.builds(Array, st.sampled_from([OCTET, *NUMBERS]), st.just((None,)), st.booleans()),
        st.builds(Array, st.just(WIDE_CHARACTER), st.just((None,)), st.booleans(), st.just(True)),
        st.builds(Array, st.just(Text()), st.just((None,))),
    )
    ended = st.builds(lambda front, last: make_struct([*front, last]), st.lists(inner, max_size=3), sized)
    outer = st.builds(lambda front, last: make_struct([*front, last]), st.lists(inner, max_size=2), ended)
    return st.one_of(inner, sized, ended, outer)


def types() -> st.SearchStrategy[Node]:
    return _any(st.recursive(leaves, _fixed, max_leaves=6))


def values_of(node: Node) -> st.SearchStrategy[Any]:
    if isinstance(node, Scalar):
        if node.truth or node.code == "?":
            return st.booleans()
        if node.low is None:
            return st.floats(width=32 if node.code == "f" else 64, allow_nan=False)
        return st.integers(node.low, node.high)
    if isinstance(node, GuidNode):
        return st.uuids()
    if isinstance(node, HandleNode):
        return st.binary(min_size=20, max_size=20)
    if isinstance(node, Text):
        limit = TEXT if node.wide else LATIN
        return limit.filter(lambda t: len(t.encode("utf-16-le", "surrogatepass")) < 16)
    if isinstance(node, Pointer):
        target = values_of(node.target)
        return target if node.kind is PointerKind.REF else st.one_of(st.none(), target)
    if isinstance(node, Array):
        return _arrays(node)
    if isinstance(node, Struct):
        return st.builds(node.cls, *(values_of(member.node) for member in node.fields))
    if isinstance(node, UnionNode):
        known = [
            values_of(arm).map(lambda v, t=tag: node.cls(t, v))
            for tag, arm in node.arms.items()
            if tag is not DEFAULT and arm is not None
        ]
        return st.one_of(st.just(node.cls(77)), *known)
    raise AssertionError(node)


def _arrays(node: Array) -> st.SearchStrategy[Any]:
    if node.text:
        return TEXT
    extents = st.tuples(
        *(
            st.just(bound)
            if bound is not None and not node.varying
            else st.integers(0, 3 if bound is None else bound)
            for bound in node.bounds
        )
    )
    return extents.flatmap(lambda extent: _filled(node, extent))


def _filled(node: Array, extents: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if node.octets:
        return st.binary(min_size=extents[0], max_size=extents[0])
    if 0 in extents:  # an empty dimension empties those behind it
        first = extents.index(0)
        extents = extents[:first] + (0,) * (len(extents) - first)
    made = values_of(node.item)
    for extent in reversed(extents):
        made = st.lists(made, min_size=extent, max_size=extent)
    return made


types_with_values = types().flatmap(lambda node: st.tuples(st.just(node), values_of(node)))


def same(a: Any, b: Any) -> bool:
    """Equality in which floats are compared by their bits and structures field by field."""
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if isinstance(a, words.Union):
        return type(a) is type(b) and a.tag == b.tag and same(a.value, b.value)
    if isinstance(a, UUID):
        return bool(a == b)
    return type(a) is type(b) and bool(a == b)
