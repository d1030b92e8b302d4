"""Where a server listens and how to speak to it: string bindings and DUALSTRINGARRAY.

StringBinding.parse("ncacn_ip_tcp:10.0.0.1[135]")     what people and RPC libraries write. [C706] 3.1
DcomBinding(NCACN_IP_TCP, "10.0.0.1", "49152")        the same on DCOM's wire. [MS-DCOM] 2.2.19.3
DualStringArray(strings, security).encode()           both kinds of binding together. [MS-DCOM] 2.2.19
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack, unpack
from typing import Final
from uuid import UUID

from oxid.errors import ConfigurationError, LocalProtocolError, RemoteProtocolError
from oxid.values.cursor import Cursor, Wrong

# Protocol sequence identifiers. [C706] appendix I, [MS-RPCE] 2.1
NCACN_IP_TCP: Final = 0x07
NCADG_IP_UDP: Final = 0x08
NCACN_NP: Final = 0x0F
NCALRPC: Final = 0x10
NCACN_HTTP: Final = 0x1F

_PROTSEQS: Final = {
    NCACN_IP_TCP: "ncacn_ip_tcp",
    NCADG_IP_UDP: "ncadg_ip_udp",
    NCACN_NP: "ncacn_np",
    NCALRPC: "ncalrpc",
    NCACN_HTTP: "ncacn_http",
}
_TOWER_IDS: Final = {name: number for number, name in _PROTSEQS.items()}

RPC_C_AUTHN_NONE: Final = 0

_SPECIAL: Final = frozenset("\\@[],=")


def protseq_of(tower_id: int) -> str:
    """The name of a protocol sequence; unknown numbers stay readable as `tower_0x13`."""
    return _PROTSEQS.get(tower_id, f"tower_{tower_id:#x}")


def tower_id_of(protseq: str) -> int:
    """The number of a protocol sequence. Raises ConfigurationError for a name that has none."""
    found = _TOWER_IDS.get(protseq)
    if found is None and protseq.startswith("tower_0x"):
        try:
            found = int(protseq[len("tower_") :], 16)
        except ValueError:
            found = None
    if found is None or not 0 < found <= 0xFFFF:
        raise ConfigurationError(f"unknown protocol sequence {protseq!r}; known: {', '.join(_TOWER_IDS)}")
    return found


@dataclass(frozen=True, slots=True)
class StringBinding:
    """The text form `[object@]protseq:host[endpoint,option=value,...]`; a backslash escapes. [C706] 3.1.2"""

    protseq: str
    host: str = ""
    endpoint: str = ""
    object: UUID | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> StringBinding:
        """Read the text form. Raises ConfigurationError naming what is wrong."""
        head, colon, rest = _split(text, ":")
        if not colon:
            raise ConfigurationError(f"string binding {text!r} has no protocol sequence before a colon")
        object_text, at, protseq = _split(head, "@")
        uuid: UUID | None = None
        if at:
            try:
                uuid = UUID(_unescape(object_text))
            except ValueError as error:
                raise ConfigurationError(f"string binding {text!r}: {object_text!r} is no UUID") from error
        else:
            protseq = head
        host, bracket, inside = _split(rest, "[")
        endpoint = ""
        options: list[tuple[str, str]] = []
        if bracket:
            inside, closing, behind = _split(inside, "]")
            if not closing or behind:
                raise ConfigurationError(f"string binding {text!r} does not end with its closing bracket")
            endpoint, options = _endpoint_and_options(inside)
        if not protseq:
            raise ConfigurationError(f"string binding {text!r} has no protocol sequence")
        return cls(_unescape(protseq), _unescape(host), endpoint, uuid, tuple(options))

    def __str__(self) -> str:
        before = f"{self.object}@" if self.object is not None else ""
        parts = [_escape(self.endpoint)] if self.endpoint or self.options else []
        parts += [f"{_escape(name)}={_escape(value)}" for name, value in self.options]
        inside = f"[{','.join(parts)}]" if parts else ""
        protseq = _escape(self.protseq).replace(":", "\\:")
        return f"{before}{protseq}:{_escape(self.host)}{inside}"


@dataclass(frozen=True, slots=True)
class DcomBinding:
    """One STRINGBINDING: protocol, host, and an endpoint where it is not the well-known one.

    The host is a name, an IPv4 address, or an IPv6 address without brackets. [MS-DCOM] 2.2.19.3
    """

    tower_id: int
    host: str
    endpoint: str = ""

    @classmethod
    def of_address(cls, tower_id: int, address: str) -> DcomBinding:
        """Take `host[endpoint]` apart."""
        host, endpoint = address, ""
        if address.endswith("]"):
            begin = address.rfind("[")
            # "[::1]" is an address that somebody put into brackets, not an endpoint without a host.
            if begin > 0 or (begin == 0 and ":" not in address):
                host, endpoint = address[:begin], address[begin + 1 : -1]
        if host.startswith("[") and host.endswith("]") and ":" in host:
            host = host[1:-1]
        return cls(tower_id, host, endpoint)

    @property
    def protseq(self) -> str:
        return protseq_of(self.tower_id)

    @property
    def address(self) -> str:
        """The network address as the wire has it: `host` or `host[endpoint]`."""
        return f"{self.host}[{self.endpoint}]" if self.endpoint else self.host

    def text(self) -> StringBinding:
        return StringBinding(self.protseq, self.host, self.endpoint)

    def __str__(self) -> str:
        return str(self.text())


@dataclass(frozen=True, slots=True)
class SecurityBinding:
    """One SECURITYBINDING: a security provider and the name of the service's account. [MS-DCOM] 2.2.19.4"""

    authn_service: int
    principal: str = ""


@dataclass(frozen=True, slots=True)
class DualStringArray:
    """Every way to reach a server, and every way to authenticate to it. [MS-DCOM] 2.2.19"""

    strings: tuple[DcomBinding, ...] = ()
    security: tuple[SecurityBinding, ...] = ()

    def encode(self) -> bytes:
        """The packed form that stands in an OBJREF: two counts and the entries. [MS-DCOM] 2.2.19.1"""
        security_offset, body = self._body()
        return pack("<HH", len(body) // 2, security_offset) + body

    @classmethod
    def decode(
        cls, data: bytes, at: int = 0, *, wrong: Wrong = RemoteProtocolError
    ) -> tuple[DualStringArray, int]:
        """Read the packed form at `at`; returns it and where it ends. Raises what `wrong` makes."""
        cursor = Cursor(data, at, wrong=wrong)
        entries, security_offset = cursor.u16(), cursor.u16()
        begin = cursor.skip(entries * 2)
        return cls._of_body(data, begin, entries, security_offset, wrong), cursor.at

    def entries(self) -> tuple[int, tuple[int, ...]]:
        """The IDL form: the security offset and the array of 16-bit entries. [MS-DCOM] 2.2.19.2"""
        security_offset, body = self._body()
        return security_offset, unpack(f"<{len(body) // 2}H", body)

    @classmethod
    def from_entries(
        cls, security_offset: int, entries: Sequence[int], *, wrong: Wrong = RemoteProtocolError
    ) -> DualStringArray:
        """Read the IDL form. Raises what `wrong` makes."""
        if len(entries) > 0xFFFF:
            raise wrong(f"{len(entries)} entries in a DUALSTRINGARRAY")
        body = pack(f"<{len(entries)}H", *entries)
        return cls._of_body(body, 0, len(entries), security_offset, wrong)

    def _body(self) -> tuple[int, bytes]:
        strings = b"".join(pack("<H", s.tower_id) + _utf16z(s.address) for s in self.strings)
        security = b"".join(
            pack("<HH", s.authn_service, 0xFFFF) + _utf16z(s.principal)
            if s.authn_service != RPC_C_AUTHN_NONE
            else pack("<H", 0)  # ends the array as well: nothing can follow "unsecured"
            for s in self.security
        )
        # "The smallest possible DUALSTRINGARRAY ... 4 unsigned shorts": an empty half is two zeros.
        strings = strings + b"\0\0" if strings else b"\0\0\0\0"
        security = security + b"\0\0" if security else b"\0\0\0\0"
        if len(strings) + len(security) > 2 * 0xFFFF:
            raise LocalProtocolError("the bindings do not fit into one DUALSTRINGARRAY")
        return len(strings) // 2, strings + security

    @classmethod
    def _of_body(
        cls, data: bytes, begin: int, entries: int, security_offset: int, wrong: Wrong
    ) -> DualStringArray:
        if security_offset > entries:
            raise wrong(f"security bindings at entry {security_offset} of {entries}")
        middle, end = begin + security_offset * 2, begin + entries * 2
        # A machine's bindings come with every reference to one of its objects.
        key = bytes(data[begin:end]), security_offset
        found = _known.get(key)
        if found is None:
            found = cls(
                _string_bindings(Cursor(data, begin, middle, wrong=wrong)),
                _security_bindings(Cursor(data, middle, end, wrong=wrong)),
            )
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            if len(key[0]) <= _KNOWN_SIZE:
                _known[key] = found
        return found


EMPTY_BINDINGS: Final = DualStringArray()

_MOST_KNOWN: Final = 512
_KNOWN_SIZE: Final = 2048
_known: dict[tuple[bytes, int], DualStringArray] = {}
"""Arrays that were read lately, by their body and security offset: values, so that sharing them is safe."""


def _string_bindings(cursor: Cursor) -> tuple[DcomBinding, ...]:
    found = []
    while tower_id := cursor.u16():
        address = cursor.utf16z()
        if not address:
            raise cursor.wrong("a string binding without a network address")
        found.append(DcomBinding.of_address(tower_id, address))
    return tuple(found)


def _security_bindings(cursor: Cursor) -> tuple[SecurityBinding, ...]:
    found = []
    while authn_service := cursor.u16():
        cursor.u16()
        found.append(SecurityBinding(authn_service, cursor.utf16z()))
    return tuple(found)


def _utf16z(text: str) -> bytes:
    if "\0" in text:
        raise LocalProtocolError(f"a binding may not contain a NUL character: {text!r}")
    try:
        return text.encode("utf-16-le") + b"\0\0"
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a binding must be valid Unicode: {text!r}") from error


def _escape(text: str) -> str:
    return "".join("\\" + char if char in _SPECIAL else char for char in text)


def _unescape(text: str) -> str:
    out, chars = [], iter(text)
    for char in chars:
        out.append(next(chars, "\\") if char == "\\" else char)
    return "".join(out)


def _split(text: str, separator: str) -> tuple[str, str, str]:
    """`str.partition` that steps over escaped characters; the parts keep their escapes."""
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == separator:
            return text[:at], separator, text[at + 1 :]
        else:
            at += 1
    return text, "", ""


def _endpoint_and_options(inside: str) -> tuple[str, list[tuple[str, str]]]:
    endpoint, options = "", []
    first = True
    while first or inside:
        part, _, inside = _split(inside, ",")
        name, equals, value = _split(part, "=")
        if not equals:
            if not first:
                raise ConfigurationError(f"string binding option {part!r} has no value")
            endpoint = _unescape(part)
        elif name.lower() == "endpoint":
            endpoint = _unescape(value)
        else:
            options.append((_unescape(name), _unescape(value)))
        first = False
    return endpoint, options
