"""Activations that look like the last ones: properties are written and read once, then only what differs.

    read_request(objref)             the properties of a request are the same for each kind
    ReplyWriter().write(result)      one exporter's replies differ in their references only
    ReplyReader().read(objref)       and those of one kind in the object's identifiers

What is not like anything before goes through `oxid.com.activation_properties`, which decides alone what is valid: a
template is taken only where every byte outside of the parts that differ is the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from oxid.com.activation_properties import (
    ActivationIn,
    ActivationOut,
    InterfaceResult,
    decode_activation_in,
    decode_activation_out,
    encode_activation_out,
)
from oxid.com.objref import STD_AT, STD_SIZE
from oxid.com.orpc import ComVersion
from oxid.values.bindings import DualStringArray

KINDS: Final = 256
"""Templates kept by each owner; the next one starts over."""
MOST_BYTES: Final = 4_096
"""Of a request or reply that becomes a template."""
_IDENTIFIERS_AT: Final = STD_AT + 16
"""Where OID and IPID stand in an OBJREF, to the end of its STDOBJREF."""
_IDENTIFIERS_END: Final = STD_AT + STD_SIZE


def read_request(objref: bytes) -> ActivationIn:
    """The request in an OBJREF. Raises StatusError as `decode_activation_in` does."""
    return _read_request(objref) if len(objref) <= MOST_BYTES else decode_activation_in(objref)


_read_request = lru_cache(maxsize=KINDS)(decode_activation_in)


class _Written(NamedTuple):
    bindings: DualStringArray
    ipid_rem_unknown: UUID
    authn_hint: int
    version: ComVersion
    pieces: tuple[bytes, ...]
    """What stands in front of, between and behind the references."""


class ReplyWriter:
    """Writes replies; its owner is whoever answers activations."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Written] = {}

    def write(self, result: ActivationOut) -> bytes:
        """The properties of a reply, as the OBJREF that travels."""
        references = [found.objref for found in result.interfaces]
        if any(found.failed for found in result.interfaces):
            return encode_activation_out(result)
        key = (result.oxid, *[(found.iid, len(found.objref or b"")) for found in result.interfaces])
        known = self._known.get(key)
        if (
            known is None
            or known.bindings is not result.bindings
            or known.ipid_rem_unknown != result.ipid_rem_unknown
            or known.authn_hint != result.authn_hint
            or known.version != result.version
        ):
            return self._learn(key, result)
        out = [known.pieces[0]]
        for reference, piece in zip(references, known.pieces[1:], strict=True):
            out += (reference or b"", piece)
        return b"".join(out)

    def _learn(self, key: tuple[object, ...], result: ActivationOut) -> bytes:
        whole = encode_activation_out(result)
        pieces, at = [], 0
        for found in result.interfaces:
            reference = found.objref or b""
            begin = whole.find(reference, at)
            if begin < 0 or whole.count(reference) != 1 or any(found.hresult for found in result.interfaces):
                return whole
            pieces.append(whole[at:begin])
            at = begin + len(reference)
        if len(whole) <= MOST_BYTES:
            if len(self._known) >= KINDS:
                self._known.clear()
            self._known[key] = _Written(
                result.bindings,
                result.ipid_rem_unknown,
                result.authn_hint,
                result.version,
                (*pieces, whole[at:]),
            )
        return whole


class _Read(NamedTuple):
    begin: int
    """Where the reference stands."""
    end: int
    head: bytes
    """Everything in front of the object's identifiers."""
    tail: bytes
    """Everything behind them."""
    result: ActivationOut


class ReplyReader:
    """Reads replies; its owner is whoever activates."""

    def __init__(self) -> None:
        self._known: dict[int, _Read] = {}
        """By length."""

    def read(self, objref: bytes) -> ActivationOut:
        """The reply in an OBJREF. Raises StatusError as `decode_activation_out` does."""
        known = self._known.get(len(objref))
        if known is not None:
            begin, end, head, tail, result = known
            at = begin + _IDENTIFIERS_END
            if objref.startswith(head) and objref[at:] == tail:
                (only,) = result.interfaces
                found = InterfaceResult(only.iid, only.hresult, objref[begin:end])
                return ActivationOut(
                    result.oxid,
                    result.bindings,
                    result.ipid_rem_unknown,
                    result.authn_hint,
                    result.version,
                    (found,),
                )
        return self._learn(objref)

    def _learn(self, objref: bytes) -> ActivationOut:
        result = decode_activation_out(objref)
        if len(result.interfaces) == 1 and len(objref) <= MOST_BYTES:
            reference = result.interfaces[0].objref
            if reference is not None and objref.count(reference) == 1 and len(reference) > _IDENTIFIERS_END:
                begin = objref.index(reference)
                if len(self._known) >= KINDS:
                    self._known.clear()
                self._known[len(objref)] = _Read(
                    begin,
                    begin + len(reference),
                    objref[: begin + _IDENTIFIERS_AT],
                    objref[begin + _IDENTIFIERS_END :],
                    result,
                )
        return result
