"""A second, slow reading of NDR: one recursive function per rule, as [C706] 14 and [MS-RPCE] 2.2.5 say it.

It shares the type model with the product and nothing else, so that what the generated encoders write is read
by something that was not written by them.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any
from uuid import UUID

from oxid.ndr.model import (
    DEFAULT,
    Array,
    Count,
    GuidNode,
    HandleNode,
    Node,
    Pipe,
    Pointer,
    PointerKind,
    Ranged,
    Scalar,
    Struct,
    Text,
    UnionNode,
)
from oxid.ndr.syntax import Syntax


class ReferenceReader:
    def __init__(self, data: bytes, syntax: Syntax, at: int = 0) -> None:
        self.data, self.syntax, self.at = data, syntax, at
        self.full: dict[int, Any] = {}

    def align(self, size: int) -> None:
        pad = -self.at % size
        assert not any(self.data[self.at : self.at + pad]), "padding is written as zeros"
        self.at += pad

    def take(self, code: str) -> Any:
        size = struct.calcsize("=" + code)
        self.align(size)
        (value,) = struct.unpack_from(self.syntax.order + code, self.data, self.at)
        self.at += size
        return value

    def count(self) -> int:
        return int(self.take("Q" if self.syntax.wide else "I"))

    def top(self, node: Node) -> Any:
        if isinstance(node, Pointer) and node.kind is PointerKind.REF:
            return self.top(node.target)
        return self.whole(node)

    def whole(self, node: Node) -> Any:
        """Counts, flat representation, then what was deferred."""
        if isinstance(node, Pipe):
            return self.pipe(node)
        later: list[Any] = []
        box: list[Any] = [None]
        counts = self.hoisted(node)
        self.flat(node, counts, lambda value: box.__setitem__(0, value), later)
        self.run(later)
        return box[0]

    def run(self, later: list[Any]) -> None:
        for step in later:
            step()

    def hoisted(self, node: Node) -> list[int]:
        if isinstance(node, Text) and node.bound is None:
            return [self.count()]
        if isinstance(node, Array) and node.conformant:
            return [self.count() if bound is None else bound for bound in node.bounds]
        if isinstance(node, Struct) and node.members:
            return self.hoisted(node.members[-1].node)
        return []

    def flat(self, node: Node, counts: list[int], store: Any, later: list[Any]) -> None:
        if isinstance(node, Ranged):
            node = node.number
        if isinstance(node, Scalar):
            value = self.take(node.code_in(self.syntax))
            store(value != 0 if node.truth else value)
        elif isinstance(node, GuidNode):
            self.align(4)
            raw = self.data[self.at : self.at + 16]
            self.at += 16
            store(UUID(bytes_le=raw) if self.syntax.little else UUID(bytes=raw))
        elif isinstance(node, HandleNode):
            self.align(4)
            fields = struct.unpack_from(self.syntax.order + "IIHH8s", self.data, self.at)
            self.at += 20
            store(struct.pack("<IIHH8s", *fields))
        elif isinstance(node, Text):
            store(self.text(node, counts))
        elif isinstance(node, Array):
            self.array(node, counts, store, later)
        elif isinstance(node, Pointer):
            self.pointer(node, store, later)
        elif isinstance(node, Struct):
            self.struct(node, counts, store, later)
        elif isinstance(node, UnionNode):
            self.union(node, store, later)
        else:
            raise AssertionError(node)

    def text(self, node: Text, counts: list[int]) -> str:
        maximum = counts[0] if node.bound is None else node.bound
        offset, actual = self.count(), self.count()
        assert offset == 0
        assert 0 < actual <= maximum
        size = actual * (2 if node.wide else 1)
        raw = self.data[self.at : self.at + size]
        self.at += size
        order = "le" if self.syntax.little else "be"
        text = raw.decode(
            f"utf-16-{order}" if node.wide else "latin-1", "surrogatepass" if node.wide else "strict"
        )
        assert text[-1] == "\0"
        return text[:-1]

    def array(self, node: Array, counts: list[int], store: Any, later: list[Any]) -> None:
        maxima = counts if node.conformant else [bound or 0 for bound in node.bounds]
        extents = list(maxima)
        if node.varying:
            for i, maximum in enumerate(maxima):
                offset, extents[i] = self.count(), self.count()
                assert offset == 0
                assert extents[i] <= maximum
        total = 1
        for extent in extents:
            total *= extent
        self.align(node.item.alignment(self.syntax))
        if node.text or node.octets:
            size = total * (2 if node.text else 1)
            raw = self.data[self.at : self.at + size]
            self.at += size
            store(
                raw.decode("utf-16-le" if self.syntax.little else "utf-16-be", "surrogatepass")
                if node.text
                else raw
            )
            return
        items: list[Any] = [None] * total
        no_ids = isinstance(node.item, Pointer) and node.item.kind is PointerKind.REF and not self.syntax.wide
        for i in range(total):
            put = lambda value, i=i: items.__setitem__(i, value)  # noqa: E731
            if no_ids:
                assert isinstance(node.item, Pointer)
                later.append(lambda put=put: put(self.whole(node.item.target)))
            else:
                inner = self.hoisted(node.item) if isinstance(node.item, (Text, Array)) else []
                self.flat(node.item, inner, put, later)
        if len(extents) == 1:
            store(items)
        else:
            later.append(lambda: store(_fold(items, extents)))

    def pointer(self, node: Pointer, store: Any, later: list[Any]) -> None:
        referent = self.count()
        if node.kind is PointerKind.REF:
            assert referent
        if not referent:
            store(None)
        elif node.kind is PointerKind.FULL:
            later.append(lambda: store(self.full_referent(referent, node.target)))
        else:
            later.append(lambda: store(self.whole(node.target)))

    def full_referent(self, referent: int, target: Node) -> Any:
        if referent not in self.full:
            self.full[referent] = self.whole(target)
        return self.full[referent]

    def struct(self, node: Struct, counts: list[int], store: Any, later: list[Any]) -> None:
        self.align(node.alignment(self.syntax))
        value = object.__new__(node.cls)
        store(value)
        for i, member in enumerate(node.members):
            last = counts if i == len(node.members) - 1 else []
            put = (
                (lambda _: None)
                if isinstance(member, Count)
                else lambda v, n=member.name: setattr(value, n, v)
            )
            self.flat(member.node, last, put, later)
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))

    def union(self, node: UnionNode, store: Any, later: list[Any]) -> None:
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))
        box: list[Any] = []
        self.flat(node.tag, [], box.append, later)
        value = node.cls(box[0])
        store(value)
        if self.syntax.wide or (node.ms_union and not node.encapsulated):
            self.align(node.arm_alignment(self.syntax))
        arm = node.arms.get(value.tag, node.arms.get(DEFAULT))
        if arm is not None:
            self.flat(arm, self.hoisted(arm), lambda v: setattr(value, "value", v), later)

    def pipe(self, node: Pipe) -> Any:
        whole: Any = b"" if Array(node.item, (None,)).octets else []
        while count := self.count():
            box: list[Any] = []
            self.array(Array(node.item, (None,)), [count], box.append, [])
            whole += box[0]
            if self.syntax.wide:
                assert self.take("q") == -count
        if self.syntax.wide:
            assert self.take("q") == 0
        return whole


def _fold(items: list[Any], extents: list[int]) -> list[Any]:
    for depth in range(len(extents) - 1, 0, -1):
        extent, rows = extents[depth], prod(extents[:depth])
        items = [items[i * extent : (i + 1) * extent] for i in range(rows)]
    return items
