"""Generates functions that write values as NDR. [C706] 14.2, 14.3, [MS-RPCE] 2.2.4, 2.2.5

Each node is written in up to three steps: its maximum counts (`hoist`), its flat representation (`flat`), and
what its pointers point to (`deferred`). A top-level value or a referent is all three, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from oxid.ndr.emit import MAX_DEPTH, WriteRuns
from oxid.ndr.model import (
    Array,
    Count,
    GuidNode,
    HandleNode,
    InterfaceNode,
    Member,
    Node,
    Pipe,
    Pointer,
    PointerKind,
    Ranged,
    Scalar,
    Struct,
    Text,
    UnionNode,
    reaches,
    signature,
)
from oxid.ndr.support import ENCODERS, GuidWriter, PackCache
from oxid.ndr.syntax import Syntax

_PACKERS: dict[tuple[str, str], PackCache] = {}
_GUIDS = {True: GuidWriter(little=True), False: GuidWriter(little=False)}

NUL = repr("\0")


class Encoder(WriteRuns):
    """Writes the body of encoding functions; the buffer is `out`, the marshaller `m`, full pointers `ids`."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self.locals: list[dict[str, str]] = [{}]
        self.capacity: dict[str, str] = {}
        self.referents = 0
        self.uses_full = False

    def local(self, expression: str) -> str:
        """A local variable with the value of an expression; the same one while the block lasts."""
        if expression.isidentifier():
            return expression
        for scope in self.locals:
            if expression in scope:
                return scope[expression]
        name = self.fresh("x")
        self.line(f"{name} = {expression}")
        self.locals[-1][expression] = name
        return name

    def scoped(self, write: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self.locals.append({})
            write()
            self.flush()
            self.locals.pop()

        return run

    def if_present(self, expression: str, write: Callable[[], None]) -> None:
        self.branches([(f"if {expression} is not None:", self.scoped(write))])

    def count(self, expression: str) -> None:
        self.put(self.syntax.count_code, self.syntax.count_size, self.syntax.count_size, expression)

    def referent_id(self) -> str:
        self.referents += 1
        return str(0x0002_0000 + 4 * (self.referents - 1))

    # the steps

    def parameter(self, node: Node, expression: str) -> None:
        """A top-level value: reference pointers are transparent."""
        while isinstance(node, Pointer) and node.kind is PointerKind.REF:
            node = node.target
        self.referent(node, expression)

    def referent(self, node: Node, expression: str) -> None:
        if isinstance(node, Pipe):
            self._pipe(node, expression)
            return
        self.hoist(node, expression)
        self.flat(node, expression)
        if node.pointers:
            self.deferred(node, expression)

    def hoist(self, node: Node, expression: str) -> None:
        """Maximum counts. [C706] 14.3.3.2, 14.3.7.2"""
        if isinstance(node, Text) and node.bound is None:
            count = self._text(node, expression)[1]
            self.count(self.capacity.get(expression, count))
        elif isinstance(node, Array) and node.conformant:
            extents = self._extents(node, expression)
            for extent, bound in zip(extents, node.bounds, strict=True):
                if bound is None:
                    self.count(self.capacity.get(expression, extent))
        elif isinstance(node, Struct) and node.conformant:
            last = node.members[-1]
            assert isinstance(last, Member)
            self.hoist(last.node, f"{self.local(expression)}.{last.name}")

    def flat(self, node: Node, expression: str) -> None:
        if isinstance(node, (Scalar, Ranged)):
            self._scalar(node, expression)
        elif isinstance(node, GuidNode):
            table = self.constant(_GUIDS[self.syntax.little], "guids")
            self.put("16s", 16, 4, f"{table}[{expression}]")
        elif isinstance(node, HandleNode):
            convert = "handle_bytes" if self.syntax.little else "handle_to_big"
            self.put("20s", 20, 4, f"{convert}({expression})")
        elif isinstance(node, Text):
            self._flat_text(node, expression)
        elif isinstance(node, Array):
            self._flat_array(node, expression)
        elif isinstance(node, Pointer):
            self._pointer(node, expression)
        elif isinstance(node, InterfaceNode):
            self.count(f"0 if {expression} is None else {self.referent_id()}")
        elif isinstance(node, Struct):
            self._flat_struct(node, expression)
        elif isinstance(node, UnionNode):
            self._flat_union(node, expression)
        else:
            raise TypeError(f"{type(node).__name__} cannot be inside another type")

    def deferred(self, node: Node, expression: str) -> None:
        """What pointers inside point to, depth first, in order. [C706] 14.3.12.3"""
        if isinstance(node, Pointer):
            self._deferred_pointer(node, expression)
        elif isinstance(node, InterfaceNode):
            self.if_present(self.local(expression), lambda: self._interface(node, self.local(expression)))
        elif isinstance(node, Struct):
            value = self.local(expression)
            for member in node.fields:
                if member.node.pointers:
                    self.deferred(member.node, f"{value}.{member.name}")
        elif isinstance(node, UnionNode):
            self._deferred_union(node, expression)
        elif isinstance(node, Array):
            item = self.fresh("e")
            rows = expression
            if len(node.bounds) > 1:
                rows = f"(q for r in rows_of({expression}, {len(node.bounds)}) for q in r)"
            self.loop(f"for {item} in {rows}:", self.scoped(lambda: self.deferred(node.item, item)))

    # numbers

    def _scalar(self, node: Scalar | Ranged, expression: str) -> None:
        if isinstance(node, Ranged):
            value = self.local(expression)
            with self.block(f"if not {node.low} <= {value} <= {node.high}:"):
                self.line(f"refuse(f'{self.label}: {{{value}!r}} is not in {node.low}..{node.high}')")
            node, expression = node.number, value
        size = node.size_in(self.syntax)
        if node.truth:
            expression = f"1 if {expression} else 0"
        self.put(node.code_in(self.syntax), size, size, expression)

    # strings and arrays

    def _text(self, node: Text, expression: str) -> tuple[str, str]:
        """Locals with the bytes (no terminator) and the count of characters (with it)."""
        key = f"text of {expression}"
        for scope in self.locals:
            if key in scope:
                return scope[key], scope[key + "#"]
        raw, count = self.fresh("b"), self.fresh("k")
        encode = self.constant(ENCODERS[node.wide, self.syntax.little], "encode")
        value = self.local(expression)
        # Written out here: a call of a helper costs as much as the encoding of a short string.
        with self.block(f"if {NUL} in {value}:"):
            self.line(f"refuse({f'{self.label}: a string cannot hold a NUL character'!r})")
        self.line(f"{raw} = {encode}({value}, 'surrogatepass')[0]")
        self.line(f"{count} = (len({raw}) >> 1) + 1" if node.wide else f"{count} = len({raw}) + 1")
        if node.bound is not None:
            with self.block(f"if {count} > {node.bound}:"):
                self.line(
                    f"refuse(f'{self.label}: {{{count}}} characters with the terminator in {node.bound}')"
                )
        self.locals[-1][key], self.locals[-1][key + "#"] = raw, count
        return raw, count

    @property
    def _encoding(self) -> str:
        return "utf-16-le" if self.syntax.little else "utf-16-be"

    def _flat_text(self, node: Text, expression: str) -> None:
        raw, count = self._text(node, expression)
        self.count("0")
        self.count(count)
        self.flush()
        self.line(f"out += {raw}")
        width = 2 if node.wide else 1
        self.mod, self.rem = width, 0
        self.line(f"out += {bytes(width)!r}")

    def _extents(self, node: Array, expression: str) -> list[str]:
        """Locals (or numbers) with the extent of each dimension, checked against fixed bounds."""
        key = f"extents of {expression}"
        for scope in self.locals:
            if key in scope:
                return scope[key].split(",")
        if len(node.bounds) == 1:
            extents = [self._length(node, expression)]
        else:
            sizes, items = self.fresh("d"), self.fresh("i")
            self.line(f"{sizes}, {items} = flatten({expression}, {node.bounds!r}, {self.label!r})")
            self.locals[-1][f"items of {expression}"] = items
            extents = [f"{sizes}[{i}]" for i in range(len(node.bounds))]
        for extent, bound in zip(extents, node.bounds, strict=True):
            if bound is not None and not (node.text and not node.varying):
                compare = ">" if node.varying else "!="
                if bound < 0xFFFF_FFFF:
                    with self.block(f"if {extent} {compare} {bound}:"):
                        self.line(f"refuse(f'{self.label}: {{{extent}}} items, not {bound}')")
        self.locals[-1][key] = ",".join(extents)
        return extents

    def _length(self, node: Array, expression: str) -> str:
        count = self.fresh("k")
        if not node.text:
            self.line(f"{count} = len({expression})")
            return count
        raw = self.fresh("b")
        bound = node.bounds[0]
        fill = bound if bound is not None and not node.varying else 0
        self.line(f"{raw} = characters({expression}, {self._encoding!r}, {fill})")
        self.line(f"{count} = len({raw}) >> 1")
        if fill:
            with self.block(f"if {count} > {fill}:"):
                self.line(f"refuse(f'{self.label}: {{{count}}} characters in {fill}')")
        self.locals[-1][f"characters of {expression}"] = raw
        return count

    def _known(self, key: str) -> str:
        for scope in self.locals:
            if key in scope:
                return scope[key]
        raise KeyError(key)

    def _flat_array(self, node: Array, expression: str) -> None:
        item = node.item
        if node.octets and not node.varying and node.bounds[0] is not None and node.bounds[0] <= 64:
            size = node.bounds[0]
            value = self.local(expression)
            with self.block(f"if len({value}) != {size}:"):
                self.line(f"refuse(f'{self.label}: {{len({value})}} bytes, not {size}')")
            self.put(f"{size}s", size, 1, f"bytes({value})")
            return
        value = self.local(expression)
        extents = self._extents(node, expression)
        if node.varying:
            for extent in extents:
                self.count("0")
                self.count(extent)
        items = value if len(node.bounds) == 1 else self._known(f"items of {expression}")
        self.align(item.alignment(self.syntax))
        self.flush()
        if node.octets:
            self.line(f"out.extend({items})")
            self.unknown()
        elif node.text:
            self.line(f"out += {self._known(f'characters of {expression}')}")
            self.mod, self.rem = 2, 0
        elif isinstance(item, Scalar) and not item.truth:
            size = item.size_in(self.syntax)
            table = self._packers(item.code_in(self.syntax))
            count = extents[0] if len(extents) == 1 else f"len({items})"
            self.line(f"out += {table}[{count}](*{items})")
            self.mod, self.rem = size, 0
        elif isinstance(item, Pointer) and item.kind is PointerKind.REF and not self.syntax.wide:
            pass  # no ids for arrays of reference pointers, NDR only. [C706] 14.3.12.3, [MS-RPCE] 2.2.5.3.5.1
        else:
            one = self.fresh("e")
            self.loop(f"for {one} in {items}:", self.scoped(lambda: self._item(item, one)))

    def _item(self, item: Node, expression: str) -> None:
        if isinstance(item, (Text, Array)) and item.conformant:
            self.hoist(item, expression)
        self.flat(item, expression)

    def _packers(self, code: str) -> str:
        key = (self.syntax.order, code)
        if key not in _PACKERS:
            _PACKERS[key] = PackCache(*key)
        return self.constant(_PACKERS[key], "packs")

    # pointers

    def _pointer(self, node: Pointer, expression: str) -> None:
        if node.kind is PointerKind.REF:
            value = self.local(expression)
            if not node.optional:
                with self.block(f"if {value} is None:"):
                    self.line(f"refuse('{self.label}: a reference pointer cannot be None')")
            self.count(self.referent_id())
        elif node.kind is PointerKind.UNIQUE:
            self.count(f"0 if {self.local(expression)} is None else {self.referent_id()}")
        else:
            self.uses_full = True
            self.count(f"ids.id_of({self.local(expression)}, {signature(node.target)!r})")

    def _deferred_pointer(self, node: Pointer, expression: str) -> None:
        value = self.local(expression)
        if node.kind is PointerKind.REF:
            self._pointed(node.target, value)
        elif node.kind is PointerKind.UNIQUE:
            self.if_present(value, lambda: self._pointed(node.target, value))
        else:
            self.uses_full = True
            head = f"if {value} is not None and ids.first_time({value}, {signature(node.target)!r}):"
            self.branches([(head, self.scoped(lambda: self._pointed(node.target, value)))])

    def _pointed(self, target: Node, value: str) -> None:
        if not reaches(target, target):
            self.referent(target, value)
            return
        if id(target) not in self.functions:
            name = self.functions[id(target)] = self.fresh("_referent")
            self.waiting.append((name, target))
        self.flush()
        self.line(f"{self.functions[id(target)]}(out, m, ids, depth + 1, {value})")
        self.unknown()

    def write_waiting(self) -> None:
        """Write the functions of recursive types that were asked for."""
        while self.waiting:
            name, target = self.waiting.pop(0)
            self.depth = 0
            self.line(f"def {name}(out, m, ids, depth, v):")
            self.depth = 1
            self.locals = [{}]
            self.unknown()
            with self.block(f"if depth > {MAX_DEPTH}:"):
                self.line(f"refuse('{self.label}: pointers nest deeper than {MAX_DEPTH}')")
            self.referent(target, "v")
            self.flush()

    def _interface(self, node: InterfaceNode, value: str) -> None:
        raw = self.fresh("b")
        if node.raw:
            self.line(f"{raw} = {value}")
        else:
            cls = self.constant(node.interface, "interface") if node.interface is not None else "None"
            self.line(f"{raw} = {value} if m is None else m.marshal({value}, {cls})")
        self.count(f"len({raw})")
        self.put("I", 4, 4, f"len({raw})")
        self.flush()
        self.line(f"out += {raw}")
        self.unknown()

    # constructed types

    def _flat_struct(self, node: Struct, expression: str) -> None:
        value = self.local(expression)
        label = self.label
        self.align(node.alignment(self.syntax))
        for source, visible in node.correlate.items():
            self._check_visible(node, value, source, visible)
        for member in node.members:
            if isinstance(member, Count):
                self.label = f"{label}.{member.label}"
                self.derived(member, _field(node, member.of), f"{value}.{member.of}")
            else:
                self.label = f"{label}.{member.name}"
                self.flat(member.node, f"{value}.{member.name}")
        self.label = label
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))

    def _check_visible(self, node: Struct, value: str, source: str, visible: str) -> None:
        actual = self.amount(_field(node, source), f"{value}.{source}", "size")
        with self.block(f"if {value}.{visible} != ({actual}):"):
            self.line(
                f"refuse(f'{self.label}.{visible} is {{{value}.{visible}}}, {source} has {{{actual}}}')"
            )

    def derived(self, count: Count, node: Node, expression: str) -> None:
        """A number that measures another value."""
        amount = self.amount(node, expression, count.kind)
        if count.kind == "size" and expression in self.capacity:
            amount = self.capacity[expression]
        self.flat(count.node, amount if amount.isidentifier() else self.local(f"({amount})"))

    def amount(self, node: Node, expression: str, kind: str) -> str:
        """The expression for the number of items, or the tag, of what may be behind pointers."""
        value = self.local(expression)
        optional = False
        while isinstance(node, Pointer):
            optional = optional or node.kind is not PointerKind.REF
            node = node.target
        if kind == "switch" or isinstance(node, UnionNode):
            amount = f"{value}.tag"
        elif isinstance(node, Text):
            amount = (
                f"len({value}.encode('utf-16-le', 'surrogatepass')) // 2 + 1"
                if node.wide
                else f"len({value}) + 1"
            )
        elif isinstance(node, Array) and node.text:
            amount = f"len({value}.encode('utf-16-le', 'surrogatepass')) // 2"
        else:
            amount = f"len({value})"
        return f"0 if {value} is None else {amount}" if optional else amount

    # unions

    def _flat_union(self, node: UnionNode, expression: str) -> None:
        value = self.local(expression)
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))
        tag = self.local(f"{value}.tag")
        label = self.label
        self.flat(node.tag, tag)
        if self.syntax.wide or (node.ms_union and not node.encapsulated):
            self.align(node.arm_alignment(self.syntax))

        def write(arm: Node | None) -> Callable[[], None]:
            def arm_body() -> None:
                if arm is not None:
                    self._item(arm, f"{value}.value")

            return self.scoped(arm_body)

        self.branches(self.arms(node, tag, write, f"refuse(f'{label}: no arm for tag {{{tag}!r}}')"))

    def _deferred_union(self, node: UnionNode, expression: str) -> None:
        value = self.local(expression)

        def write(arm: Node | None) -> Callable[[], None]:
            def arm_body() -> None:
                if arm is not None and arm.pointers:
                    self.deferred(arm, f"{value}.value")

            return self.scoped(arm_body)

        self.branches(self.arms(node, self.local(f"{value}.tag"), write, "pass"))

    # pipes

    def _pipe(self, node: Pipe, expression: str) -> None:
        value = self.local(expression)
        count = self.fresh("k")
        self.line(f"{count} = len({value})")

        def chunk() -> None:
            self.count(count)
            self._flat_array(Array(node.item, (None,)), value)
            if self.syntax.wide:
                self.put("q", 8, 8, f"-{count}")

        self.branches([(f"if {count}:", self.scoped(chunk))])
        self.count("0")
        if self.syntax.wide:
            self.count("0")


def _field(node: Struct, name: str) -> Node:
    for member in node.fields:
        if member.name == name:
            return member.node
    raise TypeError(f"{node.cls.__name__} counts {name!r}, which is no field")
