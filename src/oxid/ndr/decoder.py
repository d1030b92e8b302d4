"""Generates functions that read NDR into values. [C706] 14.2, 14.3, [MS-RPCE] 2.2.4, 2.2.5

The flat pass puts each value into its place, and a referent id where a pointer is; the deferred pass then
replaces each id by what it points to. Every count is compared with the bytes that are there before anything
is built from it.
"""

from __future__ import annotations

from collections.abc import Callable

from oxid.ndr.emit import MAX_DEPTH, ReadRuns
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
from oxid.ndr.support import DECODERS, NATIVE_ORDER, GuidReader, UnpackCache
from oxid.ndr.syntax import Syntax

_UNPACKERS: dict[tuple[str, str], UnpackCache] = {}
_GUIDS = {True: GuidReader(little=True), False: GuidReader(little=False)}

NUL = repr("\0")

CAST_FROM = 128
"""From this many items a memoryview cast beats unpacking (measured: equal at 100)."""


class Decoder(ReadRuns):
    """Writes the body of decoding functions: `buf`, `at`, `end`, the marshaller `m`, full pointers `seen`."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self.objects: dict[str, str] = {}
        self.counts: dict[tuple[str, str], str] = {}
        self.extents: dict[str, tuple[str, str]] = {}
        self.hoisted: dict[str, list[str]] = {}
        self.apart = 0
        self.uses_full = False

    def count(self, target: str) -> None:
        self.take(self.syntax.count_code, self.syntax.count_size, self.syntax.count_size, target)

    def branches(self, choices: list[tuple[str, Callable[[], None]]]) -> None:
        def own(write: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                # What one way has put into a place is no news of the other ways.
                saved = dict(self.objects), dict(self.extents)
                write()
                self.objects, self.extents = saved

            return run

        super().branches([(head, own(write)) for head, write in choices])

    # the steps

    def parameter(self, node: Node, place: str) -> None:
        while isinstance(node, Pointer) and node.kind is PointerKind.REF:
            node = node.target
        self.referent(node, place)

    def referent(self, node: Node, place: str) -> None:
        if isinstance(node, Pipe):
            self._pipe(node, place)
            return
        self.hoist(node, place)
        self.flat(node, place)
        if node.pointers:
            self.deferred(node, place)

    def hoist(self, node: Node, place: str) -> None:
        if isinstance(node, Text) and node.bound is None:
            name = self.fresh("n")
            self.hoisted[place] = [name]
            self.count(name)
        elif isinstance(node, Array) and node.conformant:
            names = [self.fresh("n") if bound is None else str(bound) for bound in node.bounds]
            self.hoisted[place] = names
            for name, bound in zip(names, node.bounds, strict=True):
                if bound is None:
                    self.count(name)
        elif isinstance(node, Struct) and node.conformant:
            last = node.members[-1]
            assert isinstance(last, Member)
            self.hoist(last.node, f"{self._object(place)}.{last.name}")

    def flat(self, node: Node, place: str) -> None:
        if isinstance(node, (Scalar, Ranged)):
            self._scalar(node, place)
        elif isinstance(node, GuidNode):
            table = self.constant(_GUIDS[self.syntax.little], "guids")
            self.take("16s", 16, 4, place)
            self.after.append(lambda: self.line(f"{place} = {table}[{place}]"))
        elif isinstance(node, HandleNode):
            self.take("20s", 20, 4, place)
            if not self.syntax.little:
                self.after.append(lambda: self.line(f"{place} = handle_from_big({place})"))
        elif isinstance(node, Text):
            self._flat_text(node, place)
        elif isinstance(node, Array):
            self._flat_array(node, place)
        elif isinstance(node, Pointer):
            self.count(place)
            if node.kind is PointerKind.REF:
                label = self.label
                self.after.append(lambda: self._not_null(place, label))
        elif isinstance(node, InterfaceNode):
            self.count(place)
        elif isinstance(node, Struct):
            self._flat_struct(node, place)
        elif isinstance(node, UnionNode):
            self._flat_union(node, place)
        else:
            raise TypeError(f"{type(node).__name__} cannot be inside another type")

    def _not_null(self, place: str, label: str) -> None:
        self.line(f"if not {place}:")
        self.line(f"    bad({f'{label}: a reference pointer that is NULL'!r})")

    def deferred(self, node: Node, place: str) -> None:
        if isinstance(node, Pointer):
            self.deferred_pointer(node, place, [])
        elif isinstance(node, InterfaceNode):
            self._present(place, lambda: self._interface(node, place), lambda: self.line(f"{place} = None"))
        elif isinstance(node, Struct):
            self._deferred_struct(node, place)
        elif isinstance(node, UnionNode):
            self._deferred_union(node, place)
        elif isinstance(node, Array):
            self._deferred_array(node, place)

    def _present(self, place: str, there: Callable[[], None], absent: Callable[[], None]) -> None:
        self.branches([(f"if {place}:", there), ("else:", absent)])

    # numbers

    def _scalar(self, node: Scalar | Ranged, place: str) -> None:
        ranged = node if isinstance(node, Ranged) else None
        number = node.number if isinstance(node, Ranged) else node
        size = number.size_in(self.syntax)
        self.take(number.code_in(self.syntax), size, size, place)
        if number.truth:
            self.after.append(lambda: self.line(f"{place} = {place} != 0"))
        if number.enum is not None:
            table = self.constant(dict(number.enum._value2member_map_), "enum", id(number.enum))
            self.after.append(lambda: self.line(f"{place} = enum_value({table}, {place})"))
        if ranged is not None:
            label = self.label
            self.after.append(lambda: self._in_range(ranged, place, label))

    def _in_range(self, node: Ranged, place: str, label: str) -> None:
        self.line(f"if not {node.low} <= {place} <= {node.high}:")
        self.line(f"    bad(f'{label}: {{{place}!r}} is not in {node.low}..{node.high}')")

    # strings and arrays

    @property
    def _encoding(self) -> str:
        return "utf-16-le" if self.syntax.little else "utf-16-be"

    def _flat_text(self, node: Text, place: str) -> None:
        offset, actual = self.fresh("f"), self.fresh("k")
        maximum = str(node.bound) if node.bound is not None else self.hoisted.pop(place)[0]
        self.count(offset)
        self.count(actual)
        self.flush()
        width = 2 if node.wide else 1
        stop = self.fresh("s")
        self.line(f"{stop} = at + {actual}{' * 2' if node.wide else ''}")
        with self.block(f"if {offset} or not 0 < {actual} <= {maximum} or {stop} > len(buf):"):
            self.line(f"bad({f'{self.label}: a string that does not fit its counts or the stub data'!r})")
        decode = self.constant(DECODERS[node.wide, self.syntax.little], "decode")
        text = self.fresh("u")
        self.line(f"{text} = {decode}(buf[at:{stop} - {width}], 'surrogatepass', True)[0]")
        ended = f"buf[{stop} - 1] or buf[{stop} - 2]" if node.wide else f"buf[{stop} - 1]"
        with self.block(f"if {ended} or {NUL} in {text}:"):
            self.line(f"bad({f'{self.label}: a string whose terminator is not its last character'!r})")
        self.line(f"{place} = {text}")
        self.line(f"at = {stop}")
        self.mod, self.rem = width, 0
        self.extents[place] = (maximum, actual)

    def _flat_array(self, node: Array, place: str) -> None:
        item = node.item
        if node.octets and not node.varying and node.bounds[0] is not None and node.bounds[0] <= 64:
            self.take(f"{node.bounds[0]}s", node.bounds[0], 1, place)
            return
        maxima = self.hoisted.pop(place) if node.conformant else [str(bound) for bound in node.bounds]
        actual = self._actual_counts(node, maxima)
        self.align(item.alignment(self.syntax))
        self.flush()
        total = actual[0]
        if len(actual) > 1:
            total = self.fresh("t")
            self.line(f"{total} = {' * '.join(actual)}")
        self._items(item, node, place, total)
        if len(actual) > 1:
            self.line(f"{place} = nest({place}, ({', '.join(actual)},))")
        self.extents[place] = (maxima[0], actual[0])

    def _actual_counts(self, node: Array, maxima: list[str]) -> list[str]:
        if not node.varying:
            return maxima
        actual: list[str] = []
        for _ in maxima:
            offset, count = self.fresh("f"), self.fresh("k")
            self.count(offset)
            self.count(count)
            actual.append(count)
            label, maximum = self.label, maxima[len(actual) - 1]
            self.after.append(lambda o=offset, c=count, n=maximum, t=label: self._fits(o, c, n, t))  # type: ignore[misc]
        return actual

    def _fits(self, offset: str, count: str, maximum: str, label: str) -> None:
        self.line(f"if {offset} or {count} > {maximum}:")
        self.line(f"    bad({f'{label}: a varying array that does not start at 0 or exceeds its maximum'!r})")

    def _enough(self, count: str, size: int) -> None:
        """Compare a count with the bytes that are there, before anything is built from it."""
        with self.block(f"if {count} * {max(size, 1)} > len(buf) - at and {count}:"):
            self.line(f"bad(f'{self.label}: {{{count}}} items in {{len(buf) - at}} bytes')")

    def _items(self, item: Node, node: Array, place: str, count: str) -> None:
        plain = isinstance(item, Scalar) and not item.truth and item.enum is None
        if plain and isinstance(item, Scalar):
            size = item.size_in(self.syntax)
            stop = self.fresh("s")
            self.line(f"{stop} = at + {count}{f' * {size}' if size > 1 else ''}")
            with self.block(f"if {stop} > len(buf) and {count}:"):
                self.line(f"bad(f'{self.label}: {{{count}}} items in {{len(buf) - at}} bytes')")
            if node.octets:
                self.line(f"{place} = buf[at:{stop}]")
            elif node.text:
                self.line(f"{place} = buf[at:{stop}].decode({self._encoding!r}, 'surrogatepass')")
            else:
                self._numbers(item.code_in(self.syntax), place, count, stop)
            self.line(f"at = {stop}")
            self.mod, self.rem = size, 0
            return
        if isinstance(item, Pointer) and item.kind is PointerKind.REF and not self.syntax.wide:
            self._enough(count, item.target.least_size(self.syntax))
            self.line(f"{place} = [1] * {count}")  # no ids on the wire; all are there
            return
        self._enough(count, item.least_size(self.syntax))
        self.line(f"{place} = []")
        one = self.fresh("e")
        append = self.fresh("a")
        self.line(f"{append} = {place}.append")

        def body() -> None:
            self.apart += 1
            if isinstance(item, (Text, Array)) and item.conformant:
                self.hoist(item, one)
            self.flat(item, one)
            self.flush()
            self.line(f"{append}({self.objects.pop(one, one)})")
            self.apart -= 1

        self.loop(f"for _ in range({count}):", body)

    def _numbers(self, code: str, place: str, count: str, stop: str) -> None:
        key = (self.syntax.order, code)
        if key not in _UNPACKERS:
            _UNPACKERS[key] = UnpackCache(*key)
        table = self.constant(_UNPACKERS[key], "unpacks")
        if self.syntax.order != NATIVE_ORDER or code == "?" or (count.isdigit() and int(count) < CAST_FROM):
            self.line(f"{place} = [*{table}[{count}](buf, at)]")
        else:
            self.line(f"if {count} < {CAST_FROM}:")
            self.line(f"    {place} = [*{table}[{count}](buf, at)]")
            self.line("else:")
            self.line(f"    {place} = memoryview(buf)[at:{stop}].cast({code!r}).tolist()")

    def _deferred_array(self, node: Array, place: str) -> None:
        rows = place
        self.apart += 1
        if len(node.bounds) > 1:
            rows = self.fresh("r")
            self.loop(
                f"for {rows} in rows_of({place}, {len(node.bounds)}):",
                lambda: self._deferred_row(node.item, rows),
            )
        else:
            self._deferred_row(node.item, rows)
        self.apart -= 1

    def _deferred_row(self, item: Node, row: str) -> None:
        self.flush()
        if isinstance(item, (Struct, UnionNode)):
            one = self.fresh("o")
            self.loop(f"for {one} in {row}:", lambda: self.deferred(item, one))
            return
        index, items = self.fresh("i"), self.fresh("q")
        self.line(f"{items} = {row}")
        self.loop(f"for {index} in range(len({items})):", lambda: self.deferred(item, f"{items}[{index}]"))

    # pointers

    def deferred_pointer(self, node: Pointer, place: str, counts: list[tuple[Count | None, str]]) -> None:
        """Replace an id by its referent. `counts` are compared with the array's extents."""

        def there() -> None:
            self._pointed(node.target, place, "0")
            self.compare(counts, place, node.target)

        def absent() -> None:
            self.line(f"{place} = None")
            for count, name in counts:
                if count is None or (not count.loose and count.kind != "switch"):
                    self.check(name, "a NULL pointer with a count that is not 0")

        if node.kind is PointerKind.REF:
            self.read_run()  # the id is looked at before its place is used again
            there()
        elif node.kind is PointerKind.UNIQUE:
            self._present(place, there, absent)
        else:
            self._deferred_full(node, place, counts, absent)

    def _deferred_full(
        self, node: Pointer, place: str, counts: list[tuple[Count | None, str]], absent: Callable[[], None]
    ) -> None:
        self.uses_full = True
        key = self.fresh("p")

        def known() -> None:
            self.line(f"{place} = seen[{key}]")

        def first() -> None:
            self._pointed(node.target, place, key)
            self.flush()
            self.line(f"seen[{key}] = {place}")
            self.compare(counts, place, node.target)

        def choose() -> None:
            self.line(f"{key} = ({place}, {signature(node.target)!r})")
            self.branches([(f"if {key} in seen:", known), ("else:", first)])

        self._present(place, choose, absent)

    def _pointed(self, target: Node, place: str, key: str) -> None:
        if not reaches(target, target):
            self.hoist(target, place)
            self.flat(target, place)
            if key != "0" and isinstance(target, (Struct, UnionNode)):
                self.flush()
                self.line(f"seen[{key}] = {place}")
            if target.pointers:
                self.deferred(target, place)
            return
        if id(target) not in self.functions:
            name = self.functions[id(target)] = self.fresh("_referent")
            self.waiting.append((name, target))
        self.flush()
        self.line(f"{place}, at = {self.functions[id(target)]}(buf, at, m, seen, depth + 1, {key})")
        self.unknown()

    def write_waiting(self) -> None:
        """Write the functions of recursive types that were asked for."""
        while self.waiting:
            name, target = self.waiting.pop(0)
            self.depth = 0
            self.line(f"def {name}(buf, at, m, seen, depth, key):")
            self.depth = 1
            self.objects, self.counts, self.extents, self.hoisted = {}, {}, {}, {}
            self.apart = 0
            self.unknown()
            self.check(f"depth > {MAX_DEPTH}", f"pointers nest deeper than {MAX_DEPTH}")
            self.hoist(target, "v")
            self.flat(target, "v")
            self.flush()
            if isinstance(target, (Struct, UnionNode)):
                self.line("if key: seen[key] = v")
            self.deferred(target, "v")
            self.flush()
            self.line("return v, at")

    def _interface(self, node: InterfaceNode, place: str) -> None:
        maximum, size, raw = self.fresh("n"), self.fresh("k"), self.fresh("b")
        self.count(maximum)
        self.take("I", 4, 4, size)
        self.flush()
        with self.block(f"if {maximum} != {size} or {size} > len(buf) - at:"):
            self.line(f"bad({f'{self.label}: an interface pointer whose sizes disagree'!r})")
        self.line(f"{raw} = buf[at:at + {size}]")
        self.line(f"at += {size}")
        self.unknown()
        if node.raw:
            self.line(f"{place} = {raw}")
        else:
            cls = self.constant(node.interface, "interface") if node.interface is not None else "None"
            self.line(f"{place} = {raw} if m is None else m.unmarshal({raw}, {cls})")

    def compare(self, counts: list[tuple[Count | None, str]], place: str, node: Node) -> None:
        """Check that the numbers which travelled apart agree with what they measure."""
        guard = ""
        while isinstance(node, Pointer):
            node, guard = node.target, f"{place} is not None and "
        for count, name in counts:
            kind = count.kind if count is not None else "size"
            if isinstance(node, UnionNode) or kind == "switch":
                actual = f"{place}.tag"
            elif place in self.extents:
                actual = self.extents[place][0 if kind == "size" else 1]
            elif isinstance(node, Text):
                actual = f"len({place}) + 1"
            else:
                actual = f"len({place})"
            what = count.label if count is not None else name
            with self.block(f"if {guard}{name} != {actual}:"):
                self.line(f"bad(f'{self.label}: {what} is {{{name}}}, but there are {{{actual}}}')")

    def extent(self, place: str, node: Node) -> str:
        """The size of a decoded array, or the tag of a union."""
        while isinstance(node, Pointer):
            node = node.target
        return f"{place}.tag" if isinstance(node, UnionNode) else f"len({place})"

    # structures

    def _object(self, place: str) -> str:
        """The local variable of the structure or union at a place; made at first use."""
        if place not in self.objects:
            self.objects[place] = self.fresh("o")
        return self.objects[place]

    def _flat_struct(self, node: Struct, place: str) -> None:
        cls = self.constant(node.cls, "class")
        value = self._object(place)
        label = self.label
        self.line(f"{value} = new({cls})")
        if place != value and not self._collected(place):
            self.line(f"{place} = {value}")
        self.align(node.alignment(self.syntax))
        for member in node.members:
            if isinstance(member, Count):
                self.label = f"{label}.{member.label}"
                name = self.counts[value, member.label] = self.fresh("c")
                self.flat(member.node, name)
            else:
                self.label = f"{label}.{member.name}"
                self.flat(member.node, f"{value}.{member.name}")
        self.label = label
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))
        for member in node.fields:
            counts = self._counts_of(node, member.name, value)
            if not counts:
                continue
            if not isinstance(member.node, Pointer):
                self.read_run()
                self.compare(counts, f"{value}.{member.name}", member.node)
            elif self.apart:
                hidden = [name for count, name in counts if count is not None]
                if hidden:
                    # The deferred pass runs in another loop: the numbers wait beside the id.
                    self.read_run()
                    spot = f"{value}.{member.name}"
                    self.line(f"{spot} = ({spot}, {', '.join(hidden)})")

    def _collected(self, place: str) -> bool:
        """Whether a place is only the name of an item on its way into a list."""
        return place.startswith("e") and place[1:].isdigit()

    def _counts_of(self, node: Struct, name: str, value: str) -> list[tuple[Count | None, str]]:
        counts: list[tuple[Count | None, str]] = [
            (member, self.counts.get((value, member.label), ""))
            for member in node.members
            if isinstance(member, Count) and member.of == name
        ]
        if name in node.correlate:
            counts.append((None, f"{value}.{node.correlate[name]}"))
        return counts

    def _deferred_struct(self, node: Struct, place: str) -> None:
        value = self.objects.get(place) or (place if place.isidentifier() else self.fresh("o"))
        if value != place and place not in self.objects:
            self.flush()
            self.line(f"{value} = {place}")
        label = self.label
        for member in node.fields:
            if not member.node.pointers:
                continue
            self.label = f"{label}.{member.name}"
            spot = f"{value}.{member.name}"
            if not isinstance(member.node, Pointer):
                self.deferred(member.node, spot)
                continue
            counts = self._counts_of(node, member.name, value)
            waiting = [
                i for i, (count, name) in enumerate(counts) if count is not None and (self.apart or not name)
            ]
            if waiting:
                self.flush()
                names = [self.fresh("c") for _ in waiting]
                self.line(f"{spot}, {', '.join(names)} = {spot}")
                for i, name in zip(waiting, names, strict=True):
                    counts[i] = (counts[i][0], name)
            self.deferred_pointer(member.node, spot, counts)
        self.label = label

    # unions

    def _flat_union(self, node: UnionNode, place: str) -> None:
        cls = self.constant(node.cls, "class")
        value = self._object(place)
        label = self.label
        self.line(f"{value} = new({cls})")
        if place != value and not self._collected(place):
            self.line(f"{place} = {value}")
        if self.syntax.wide:
            self.align(node.alignment(self.syntax))
        self.flat(node.tag, f"{value}.tag")
        if self.syntax.wide or (node.ms_union and not node.encapsulated):
            self.align(node.arm_alignment(self.syntax))

        def write(arm: Node | None) -> Callable[[], None]:
            def arm_body() -> None:
                if arm is None:
                    self.line(f"{value}.value = None")
                    return
                if isinstance(arm, (Text, Array)) and arm.conformant:
                    self.hoist(arm, f"{value}.value")
                self.apart += 1
                self.flat(arm, f"{value}.value")
                self.flush()
                self.apart -= 1

            return arm_body

        self.branches(
            self.arms(node, f"{value}.tag", write, f"bad(f'{label}: no arm for tag {{{value}.tag!r}}')")
        )

    def _deferred_union(self, node: UnionNode, place: str) -> None:
        value = self.objects.get(place, place)

        def write(arm: Node | None) -> Callable[[], None]:
            def arm_body() -> None:
                if arm is not None and arm.pointers:
                    self.apart += 1
                    self.deferred(arm, f"{value}.value")
                    self.apart -= 1

            return arm_body

        self.branches(self.arms(node, f"{value}.tag", write, "pass"))

    # pipes

    def _pipe(self, node: Pipe, place: str) -> None:
        octets = Array(node.item, (None,)).octets
        part, count = self.fresh("g"), self.fresh("k")
        self.flush()
        self.line(f"{place} = {'bytearray()' if octets else '[]'}")

        def chunk() -> None:
            self.count(count)
            self.flush()
            with self.block(f"if not {count}:"):
                self.line("break")
            self.hoisted[part] = [count]
            self._flat_array(Array(node.item, (None,)), part)
            self.line(f"{place} += {part}")
            if self.syntax.wide:
                trailer = self.fresh("z")
                self.take("q", 8, 8, trailer)
                self.flush()
                self.check(f"{trailer} != -{count}", "a pipe chunk whose trailer is not its negated count")

        self.align(self.syntax.count_size)
        self.loop("while True:", chunk)
        if self.syntax.wide:
            last = self.fresh("z")
            self.count(last)
            self.read_run()
            self.check(last, "a pipe whose end is not two zeros")
        if octets:
            self.line(f"{place} = bytes({place})")
