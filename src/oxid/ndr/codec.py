"""Generated functions for operations and single types, compiled once per type and syntax.

    codec_of(Point, Syntax.NDR20_LE).to_bytes(Point(1, 2))
    compile_operation(shape, Syntax.NDR64).decode_request(stub, 0, None)

Encoding appends to a bytearray whose length is 4-aligned; padding counts from its start. Decoding takes
`bytes` and a 4-aligned position; alignment counts from index 0. `m` marshals interface pointers; with None
Python sees the OBJREF's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from oxid.errors import BadStubData, LocalProtocolError
from oxid.ndr.check import explain, zero_of
from oxid.ndr.decoder import Decoder
from oxid.ndr.encoder import Encoder
from oxid.ndr.model import Array, Count, Member, Node, Pointer, Scalar, Struct, Text, UnionNode, resolve
from oxid.ndr.syntax import Syntax
from oxid.values.status import HResult, NtStatus, Win32


class InterfaceMarshaller(Protocol):
    """Who turns interface pointers into OBJREFs and back."""

    def marshal(self, obj: Any, interface: type[Any] | None) -> bytes: ...

    def unmarshal(self, objref: bytes, interface: type[Any] | None) -> Any: ...


@dataclass(eq=False)
class OperationShape:
    """What the generator needs to know about an operation."""

    label: str
    in_names: tuple[str, ...]
    request: tuple[Member | Count, ...]
    reply: tuple[Member | Count, ...]
    out_names: tuple[str, ...]
    form: str
    """How Python holds the out values: `none`, `one`, `tuple` or `record`."""
    make: Any = None
    status: type[HResult] | type[Win32] | type[NtStatus] | None = None
    status_returned: bool = False
    correlate: Mapping[str, str] = field(default_factory=dict)


class OperationCodec:
    """The marshalling of one operation in one syntax; see the module for the calling convention."""

    __slots__ = (
        "_shape",
        "_syntax",
        "_write_outs",
        "decode_reply",
        "decode_request",
        "encode_reply",
        "encode_request",
    )

    encode_request: Callable[..., None]
    """(out, m, *in_args)"""
    decode_request: Callable[[bytes, int, Any], tuple[Any, ...]]
    encode_reply: Callable[[bytearray, Any, Sequence[Any], Any], None]
    """(out, m, in_args, result)"""
    decode_reply: Callable[[bytes, int, Any], Any]

    def __init__(self, shape: OperationShape, syntax: Syntax) -> None:
        self._shape, self._syntax = shape, syntax
        self._write_outs: Callable[..., None] | None = None
        self.encode_request = _request_encoder(shape, syntax)
        self.decode_request = _request_decoder(shape, syntax)
        self.encode_reply = _reply_encoder(shape, syntax, split=False)
        self.decode_reply = _reply_decoder(shape, syntax)

    @property
    def can_fail(self) -> bool:
        """Whether a reply can carry a failure; else a fault PDU has to."""
        return self._shape.status is not None or self._trailing_status is not None

    @property
    def _trailing_status(self) -> Scalar | None:
        last = self._shape.reply[-1] if self._shape.reply else None
        node = last.node if isinstance(last, Member) else None
        return node if isinstance(node, Scalar) and node.status is not None else None

    def encode_failure(self, out: bytearray, in_args: Sequence[Any], status: int) -> None:
        """Write the reply of a failing method: scalars zero, pointers NULL, the status last.

        Raises LocalProtocolError where the operation has no status to end with.
        """
        shape = self._shape
        if not self.can_fail:
            raise LocalProtocolError(f"{shape.label} has no status that could tell the failure")
        if self._write_outs is None:
            self._write_outs = _reply_encoder(shape, self._syntax, split=True)
        arguments = dict(zip(shape.in_names, in_args, strict=True))
        nodes = {part.name: part.node for part in shape.reply if isinstance(part, Member)}
        values = []
        for name in shape.out_names:
            wanted = _wanted(nodes[name], arguments.get(shape.correlate.get(name, "")))
            values.append(zero_of(nodes[name], wanted))
        last = shape.reply[-1] if shape.reply else None
        if isinstance(last, Member) and self._trailing_status is not None:
            values[shape.out_names.index(last.name)] = status
        self._write_outs(out, None, in_args, values, status)

    @property
    def sources(self) -> str:
        """The generated Python, for people who want to read it."""
        made: list[Any] = [self.encode_request, self.decode_request, self.encode_reply, self.decode_reply]
        return "\n".join(function.__source__ for function in made)


def _wanted(node: Node, source: Any) -> int:
    """The size or tag that the request asks for."""
    if source is None:
        return 0
    if isinstance(source, int):
        return int(source)
    while isinstance(node, Pointer):
        node = node.target
    return int(source.tag) if isinstance(node, UnionNode) else len(source)


def compile_operation(shape: OperationShape, syntax: Syntax) -> OperationCodec:
    """Generate the four functions of an operation."""
    return OperationCodec(shape, syntax)


def _open(emitter: Encoder | Decoder, signature: str) -> int:
    emitter.depth = 0
    emitter.line(f"def {signature}:")
    emitter.depth = 1
    emitter.line("try:")
    emitter.depth = 2
    return len(emitter.lines)


def _close(emitter: Encoder | Decoder, start: int, handler: str) -> None:
    """End the function: what it needs at its start, its exits, and the functions of recursive types."""
    emitter.flush()
    if len(emitter.lines) == start:
        emitter.line("pass")
    recursive = bool(emitter.waiting)
    emitter.depth = 1
    for line in handler.split("\n"):
        emitter.line(line)
    emitter.write_waiting()
    if recursive or emitter.uses_full:
        table = "ids = ReferentIds()" if isinstance(emitter, Encoder) else "seen = {}"
        emitter.lines[start:start] = [f"        {table}", "        depth = 0"]


def _parts(emitter: Encoder, label: str, parts: Sequence[Member | Count], places: Mapping[str, str]) -> None:
    nodes = {part.name: part.node for part in parts if isinstance(part, Member)}
    for part in parts:
        if isinstance(part, Count):
            emitter.label = f"{label}: {part.label}"
            emitter.derived(part, nodes[part.of], places[part.of])
        else:
            emitter.label = f"{label}: {part.name}"
            emitter.parameter(part.node, places[part.name])


def _request_encoder(shape: OperationShape, syntax: Syntax) -> Callable[..., None]:
    emitter = Encoder(syntax)
    places = {name: f"v_{name}" for name in shape.in_names}
    names = "".join(f", {places[name]}" for name in shape.in_names)
    start = _open(emitter, f"encode_request(out, m{names})")
    _capacities(emitter, shape, shape.request, places, places)
    _parts(emitter, shape.label, shape.request, places)
    emitter.namespace["explain"] = _explainer(shape.label, shape.request)
    pairs = ", ".join(f"{name!r}: {place}" for name, place in places.items())
    _close(
        emitter, start, f"except ENCODE_ERRORS as error:\n    raise explain({{{pairs}}}, error) from error"
    )
    return emitter.compile("encode_request", f"{shape.label} request")


def _capacities(
    emitter: Encoder,
    shape: OperationShape,
    parts: Sequence[Member | Count],
    places: Mapping[str, str],
    sources: Mapping[str, str],
) -> None:
    """Sizes that in parameters give: written as the maximum count of varying arrays, compared for others."""
    for part in parts:
        if not isinstance(part, Member) or part.name not in shape.correlate:
            continue
        node = part.node
        optional = False
        while isinstance(node, Pointer):
            optional = optional or node.kind.value != "ref"
            node = node.target
        source = sources[shape.correlate[part.name]]
        place = places[part.name]
        emitter.label = f"{shape.label}: {part.name}"
        wanted = emitter.fresh("w")
        emitter.line(
            f"{wanted} = {source} if isinstance({source}, int) else 0 if {source} is None else len({source})"
        )
        actual = f"{place}.tag" if isinstance(node, UnionNode) else f"len({place})"
        if isinstance(node, Text):
            actual = f"len({place}) + 1"
        guard = f"{place} is not None and " if optional else ""
        varying = isinstance(node, Text) or (isinstance(node, Array) and node.varying)
        with emitter.block(f"if {guard}{actual} {'>' if varying else '!='} {wanted}:"):
            emitter.line(
                f"refuse(f'{emitter.label}: {{{actual}}}, not {{{wanted}}} of {shape.correlate[part.name]}')"
            )
        if varying:
            emitter.capacity[place] = wanted


def _request_decoder(shape: OperationShape, syntax: Syntax) -> Callable[..., tuple[Any, ...]]:
    emitter = Decoder(syntax)
    start = _open(emitter, "decode_request(buf, at, m)")
    places = _read_parts(emitter, shape, shape.request, "v_")
    emitter.flush()
    for name, source in shape.correlate.items():
        if name in places:
            _agree(emitter, shape, shape.request, name, source, places)
    emitter.line(f"return ({''.join(places[name] + ', ' for name in shape.in_names)})")
    _close(
        emitter,
        start,
        f"except DECODE_ERRORS as error:\n    raise bad_from(error, {shape.label!r}) from error",
    )
    return emitter.compile("decode_request", f"{shape.label} request")


def _agree(
    emitter: Decoder,
    shape: OperationShape,
    parts: Sequence[Member | Count],
    name: str,
    source: str,
    places: Mapping[str, str],
) -> None:
    """A parameter that says the size (or the switch) of another one has to be right."""
    nodes = {part.name: part.node for part in parts if isinstance(part, Member)}
    emitter.label = f"{shape.label}: {name}"
    guard = f"{places[name]} is not None and " if isinstance(nodes[name], Pointer) else ""
    with emitter.block(f"if {guard}{places[source]} != {emitter.extent(places[name], nodes[name])}:"):
        emitter.line(f"bad({f'{emitter.label} does not agree with {source}'!r})")


def _read_parts(
    emitter: Decoder, shape: OperationShape, parts: Sequence[Member | Count], prefix: str
) -> dict[str, str]:
    """Read parameters; numbers that travel apart are compared as soon as both sides are known."""
    places = {part.name: f"{prefix}{part.name}" for part in parts if isinstance(part, Member)}
    read: dict[str, str] = {}
    done: set[str] = set()
    for part in parts:
        emitter.label = f"{shape.label}: {part.label if isinstance(part, Count) else part.name}"
        if isinstance(part, Count):
            read[part.label] = emitter.fresh("c")
            emitter.flat(part.node, read[part.label])
            continue
        node = part.node
        while isinstance(node, Pointer) and node.kind.value == "ref":
            node = node.target
        counts = [
            (other, read[other.label])
            for other in parts
            if isinstance(other, Count) and other.of == part.name and other.label in read
        ]
        done.update(other.label for other, _ in counts)
        place = places[part.name]
        if isinstance(node, Pointer):
            emitter.flat(node, place)
            emitter.deferred_pointer(node, place, [(count, name) for count, name in counts])
        else:
            emitter.parameter(node, place)
            if counts:
                emitter.read_run()
                emitter.compare([(count, name) for count, name in counts], place, node)
    nodes = {part.name: part.node for part in parts if isinstance(part, Member)}
    for part in parts:
        if isinstance(part, Count) and part.label not in done:
            emitter.label = f"{shape.label}: {part.label}"
            emitter.read_run()
            emitter.compare([(part, read[part.label])], places[part.of], nodes[part.of])
    return places


def _reply_encoder(shape: OperationShape, syntax: Syntax, *, split: bool) -> Callable[..., None]:
    emitter = Encoder(syntax)
    outs = [f"r_{name}" for name in shape.out_names]
    start = _open(emitter, f"encode_reply(out, m, args, result{', status' if split else ''})")
    if outs and (split or shape.form == "tuple"):
        emitter.line(f"{', '.join(outs)}, = result")
    elif shape.form == "one":
        emitter.line(f"{outs[0]} = result")
    elif shape.form == "record":
        for name, place in zip(shape.out_names, outs, strict=True):
            emitter.line(f"{place} = result.{name}")
    places = dict(zip(shape.out_names, outs, strict=True))
    sources = {name: f"args[{i}]" for i, name in enumerate(shape.in_names)} | places
    _capacities(emitter, shape, shape.reply, places, sources)
    _parts(emitter, shape.label, shape.reply, places)
    if shape.status is not None and not shape.status_returned:
        emitter.put("I", 4, 4, "status" if split else "0")
    emitter.namespace["explain"] = _explainer(shape.label, shape.reply)
    pairs = ", ".join(f"{name!r}: {place}" for name, place in places.items())
    what = f"{{{pairs}}}" if shape.form == "one" else "result"
    _close(emitter, start, f"except ENCODE_ERRORS as error:\n    raise explain({what}, error) from error")
    return emitter.compile("encode_reply", f"{shape.label} reply")


def _reply_decoder(shape: OperationShape, syntax: Syntax) -> Callable[..., Any]:
    emitter = Decoder(syntax)
    start = _open(emitter, "decode_reply(buf, at, m)")
    places = _read_parts(emitter, shape, shape.reply, "r_")
    for name, source in shape.correlate.items():
        if name in places and source in places:
            emitter.read_run()
            _agree(emitter, shape, shape.reply, name, source, places)
    if shape.status is not None:
        status = "status"
        if shape.status_returned:
            last = shape.reply[-1]
            assert isinstance(last, Member)
            status = places[last.name]
        else:
            emitter.take("I", 4, 4, status)
        emitter.read_run()
        kind = emitter.constant(shape.status, "status")
        limit = {HResult: "0x7FFFFFFF", NtStatus: "0xBFFFFFFF"}.get(shape.status, "0")
        emitter.line(f"if {status} > {limit}: failed({kind}, {status}, {shape.label!r})")
    emitter.read_run()
    emitter.delta = 0
    values = ", ".join(places[name] for name in shape.out_names)
    if shape.form == "one":
        emitter.line(f"return {values}")
    elif shape.form == "tuple" and shape.make is None:
        emitter.line(f"return ({values},)")
    elif shape.form in ("tuple", "record"):
        emitter.line(f"return {emitter.constant(shape.make, 'make')}({values})")
    _close(
        emitter,
        start,
        f"except DECODE_ERRORS as error:\n    raise bad_from(error, {shape.label!r}) from error",
    )
    return emitter.compile("decode_reply", f"{shape.label} reply")


def _explainer(label: str, parts: Sequence[Member | Count]) -> Callable[[Any, Exception], LocalProtocolError]:
    """Say which argument does not fit its type; called only after encoding has failed."""
    nodes = {part.name: part.node for part in parts if isinstance(part, Member)}

    def say(values: Any, error: Exception) -> LocalProtocolError:
        if isinstance(values, Mapping):
            for name, value in values.items():
                wrong = explain(nodes[name], value, name)
                if wrong:
                    return LocalProtocolError(f"{label}: {wrong}")
        return LocalProtocolError(f"{label}: {error}")

    return say


class TypeCodec:
    """The marshalling of one type in one syntax, as a top-level value."""

    __slots__ = ("decode", "encode", "label", "syntax")

    encode: Callable[[bytearray, Any, Any], None]
    """(out, m, value)"""
    decode: Callable[[bytes, int, Any], tuple[Any, int]]
    """(buf, at, m) -> (value, at)"""

    def __init__(self, node: Node, label: str, syntax: Syntax) -> None:
        self.label, self.syntax = label, syntax
        writer = Encoder(syntax)
        writer.label = label
        start = _open(writer, "encode(out, m, v)")
        writer.parameter(node, "v")
        writer.namespace["explain"] = _explainer(label, (Member("value", node),))
        _close(
            writer, start, "except ENCODE_ERRORS as error:\n    raise explain({'value': v}, error) from error"
        )
        self.encode = writer.compile("encode", label)
        reader = Decoder(syntax)
        reader.label = label
        start = _open(reader, "decode(buf, at, m)")
        reader.parameter(node, "v")
        reader.flush()
        reader.line("return v, at")
        _close(
            reader, start, f"except DECODE_ERRORS as error:\n    raise bad_from(error, {label!r}) from error"
        )
        self.decode = reader.compile("decode", label)

    def to_bytes(self, value: Any, m: InterfaceMarshaller | None = None) -> bytes:
        """Return a value's representation. Raises LocalProtocolError where the value does not fit."""
        out = bytearray()
        self.encode(out, m, value)
        return bytes(out)

    def from_bytes(self, data: bytes, m: InterfaceMarshaller | None = None) -> Any:
        """Return the value at the start of `data`. Raises BadStubData."""
        value, at = self.decode(bytes(data), 0, m)
        if at > len(data):
            raise BadStubData(f"{self.label}: the data ends too early")
        return value


_codecs: dict[tuple[Any, Syntax], TypeCodec] = {}


def codec_of(hint: Any, syntax: Syntax = Syntax.NDR20_LE) -> TypeCodec:
    """Return the codec of a type; generated at first use. Raises TypeError for what cannot travel."""
    node = resolve(hint)
    label = node.cls.__name__ if isinstance(node, (Struct, UnionNode)) else type(node).__name__
    if not isinstance(node, (Struct, UnionNode)):
        return TypeCodec(node, label, syntax)
    key = (node, syntax)
    if key not in _codecs:
        _codecs[key] = TypeCodec(node, label, syntax)
    return _codecs[key]
