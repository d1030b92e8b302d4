"""Writing Python source with knowledge of alignment: what both code generators share.

The position in the stub is known modulo a power of two (`mod`, `rem`). While it is known well enough, padding
is part of the format of one `struct.Struct`; otherwise a line that aligns at run time is written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import gcd
from typing import Any

from oxid.ndr import support
from oxid.ndr.model import DEFAULT, Node, UnionNode
from oxid.ndr.syntax import Syntax

MAX_DEPTH = 128
"""Levels of recursion through pointers: deeper than any list a Windows stub survives with its stack."""


class Emitter:
    """Lines of one or more functions, the names they need, and where the position is known to be."""

    def __init__(self, syntax: Syntax) -> None:
        self.syntax = syntax
        self.lines: list[str] = []
        self.depth = 1
        self.namespace: dict[str, Any] = {
            name: value for name, value in vars(support).items() if not name.startswith("__")
        }
        self.mod, self.rem = 4, 0
        self.label = ""
        self._names = 0
        self._constants: dict[Any, str] = {}
        self.functions: dict[int, str] = {}
        self.waiting: list[tuple[str, Node]] = []

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    def constant(self, value: Any, prefix: str, key: Any = None) -> str:
        """A global name for a value the generated code needs."""
        key = id(value) if key is None else key
        if key not in self._constants:
            name = self._constants[key] = f"_{prefix}{len(self._constants)}"
            self.namespace[name] = value
        return self._constants[key]

    def packer(self, form: str, attribute: str) -> str:
        form = self.syntax.order + form
        return self.constant(getattr(struct.Struct(form), attribute), attribute[:2], (form, attribute))

    def advance(self, size: int) -> None:
        self.rem = (self.rem + size) % self.mod

    def flush(self) -> None:
        raise NotImplementedError

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """An indented block; the run before it is written first, the run inside at its end."""
        self.flush()
        self.line(head)
        self.depth += 1
        before = len(self.lines)
        yield
        self.flush()
        if len(self.lines) == before:
            self.line("pass")
        self.depth -= 1

    def branches(self, choices: list[tuple[str, Callable[[], None]]]) -> None:
        """`if`/`elif`/`else` whose ways meet again; what is known of the position is what all agree on."""
        self.flush()
        start = (self.mod, self.rem)
        met: tuple[int, int] | None = None
        for head, write in choices:
            self.mod, self.rem = start
            with self.block(head):
                write()
            met = (self.mod, self.rem) if met is None else _join(met, (self.mod, self.rem))
        if not choices[-1][0].startswith("else"):
            met = _join(met or start, start)
        self.mod, self.rem = met or start

    def arms(
        self, node: UnionNode, tag: str, write: Callable[[Node | None], Callable[[], None]], otherwise: str
    ) -> list[tuple[str, Callable[[], None]]]:
        """The ways of a union, for `branches`; `otherwise` is the line for a tag without an arm."""
        choices: list[tuple[str, Callable[[], None]]] = []
        for case, arm in node.arms.items():
            if case is not DEFAULT:
                word = "elif" if choices else "if"
                choices.append((f"{word} {tag} == {int(case)}:", write(arm)))
        last = write(node.arms[DEFAULT]) if DEFAULT in node.arms else lambda: self.line(otherwise)
        choices.append(("else:" if choices else "if True:", last))
        return choices

    def loop(self, head: str, write: Callable[[], None]) -> None:
        """A loop; its body is written for what is known of the position in every round."""
        self.flush()
        known = (self.mod, self.rem)
        while True:
            saved = self._save()
            self.mod, self.rem = known
            with self.block(head):
                write()
            after = _join(known, (self.mod, self.rem))
            if after == known:
                break
            self._restore(saved)
            known = after
        self.mod, self.rem = known

    def _save(self) -> tuple[Any, ...]:
        return len(self.lines), dict(self.functions), list(self.waiting)

    def _restore(self, saved: tuple[Any, ...]) -> None:
        length, self.functions, self.waiting = saved
        del self.lines[length:]

    def unknown(self) -> None:
        """Nothing is known of the position any more."""
        self.mod, self.rem = 1, 0

    def compile(self, name: str, title: str) -> Callable[..., Any]:
        """Make the function `name` of the lines written so far."""
        source = "\n".join(self.lines) + "\n"
        exec(compile(source, f"<ndr {title} {self.syntax.value}>", "exec"), self.namespace)
        made: Callable[..., Any] = self.namespace[name]
        made.__source__ = source  # type: ignore[attr-defined]
        return made


class WriteRuns(Emitter):
    """Collects what is packed together; written when something else has to come."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self.run: list[tuple[str, str | None]] = []

    def put(self, code: str, size: int, align: int, expression: str) -> None:
        self.align(align)
        self.run.append((code, expression))
        self.advance(size)

    def align(self, boundary: int) -> None:
        if boundary <= 1:
            return
        if self.mod % boundary == 0:
            pad = -self.rem % boundary
            if pad:
                self.run.append((f"{pad}x", None))
                self.advance(pad)
            return
        self.flush()
        self.line(f"out += PAD{boundary}[len(out) & {boundary - 1}]")
        self.mod, self.rem = boundary, 0

    def flush(self) -> None:
        if not self.run:
            return
        values = [expression for _, expression in self.run if expression is not None]
        if values:
            pack = self.packer("".join(code for code, _ in self.run), "pack")
            self.line(f"out += {pack}({', '.join(values)})")
        else:
            self.line(f"out += {bytes(sum(int(code[:-1]) for code, _ in self.run))!r}")
        self.run = []


class ReadRuns(Emitter):
    """Collects what is unpacked together; `delta` is what `at` still has to move by."""

    def __init__(self, syntax: Syntax) -> None:
        super().__init__(syntax)
        self.run: list[tuple[str, str | None]] = []
        self.after: list[Callable[[], None]] = []
        self.delta = 0

    def take(self, code: str, size: int, align: int, target: str) -> None:
        self.align(align)
        self.run.append((code, target))
        self.advance(size)

    def skip(self, size: int) -> None:
        if size:
            self.run.append((f"{size}x", None))
            self.advance(size)

    def align(self, boundary: int) -> None:
        if boundary <= 1:
            return
        if self.mod % boundary == 0:
            self.skip(-self.rem % boundary)
            return
        self.flush()
        self.line(f"at = (at + {self.delta + boundary - 1}) & -{boundary}")
        self.delta = 0
        self.mod, self.rem = boundary, 0

    def read_run(self) -> None:
        """Write the pending fixed run, leaving its length to be added to `at` later."""
        while self.run or self.after:
            run, self.run = self.run, []
            after, self.after = self.after, []
            targets = [target for _, target in run if target is not None]
            form = "".join(code for code, _ in run)
            unpack = self.packer(form, "unpack_from") if targets else ""
            size = struct.calcsize(self.syntax.order + form)
            where = f"at + {self.delta}" if self.delta else "at"
            if targets:
                self.line(f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {unpack}(buf, {where})")
            self.delta += size
            for write in after:
                write()

    def flush(self) -> None:
        self.read_run()
        if self.delta:
            self.line(f"at += {self.delta}")
            self.delta = 0

    def check(self, condition: str, message: str) -> None:
        with self.block(f"if {condition}:"):
            self.line(f"bad({f'{self.label}: {message}'!r})")


def _join(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    mod = gcd(a[0], b[0], abs(a[1] - b[1]))
    return mod, a[1] % mod
