"""The part of MIT's libgssapi_krb5 that DCE/RPC needs, by ctypes. [RFC2744], [RFC4757], gssapi_ext.h

    gss = load()                        None where the library is missing
    name = gss.import_principal("host/server")
    handle = gss.acquire(name, usage=ACCEPT, store={"keytab": "/etc/oxid.keytab"})

Every handle is a plain integer that its owner releases. Errors are `GssFailure` with the library's words.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any, Final

INITIATE: Final = 1
ACCEPT: Final = 2

COMPLETE: Final = 0
CONTINUE_NEEDED: Final = 1
_ERROR_MASK: Final = 0xFFFF_0000

# Context flags. [RFC2744] appendix A, gssapi_ext.h
DELEGATE: Final = 0x1
MUTUAL: Final = 0x2
REPLAY: Final = 0x4
SEQUENCE: Final = 0x8
CONFIDENTIALITY: Final = 0x10
INTEGRITY: Final = 0x20
ANONYMOUS: Final = 0x40
DCE_STYLE: Final = 0x1000
IDENTIFY: Final = 0x2000

# Kinds of IOV buffers. gssapi_ext.h
IOV_DATA: Final = 1
IOV_HEADER: Final = 2
IOV_SIGN_ONLY: Final = 11
IOV_MIC_TOKEN: Final = 12

GSS_S_DEFECTIVE_TOKEN: Final = 9
GSS_S_NO_CRED: Final = 7

_KERBEROS: Final = bytes.fromhex("2a864886f712010202")
_NT_PRINCIPAL: Final = bytes.fromhex("2a864886f71201020201")
_SESSION_KEY: Final = bytes.fromhex("2a864886f7120102020505")
_OLD_TYPES: Final = (16, 23, 24)
"""Triple DES and RC4, whose tokens are those of [RFC1964]; Windows 2003 and older know no AES."""
_LIBRARY: Final = "libgssapi_krb5.so.2"


class Buffer(Structure):
    _fields_ = (("length", c_size_t), ("value", c_void_p))


class Oid(Structure):
    _fields_ = (("length", c_uint32), ("elements", c_char_p))


class OidSet(Structure):
    _fields_ = (("count", c_size_t), ("elements", POINTER(Oid)))


class Iov(Structure):
    _fields_ = (("type", c_uint32), ("buffer", Buffer))


class KeyValue(Structure):
    _fields_ = (("key", c_char_p), ("value", c_char_p))


class KeyValueSet(Structure):
    _fields_ = (("count", c_uint32), ("elements", POINTER(KeyValue)))


class BufferSet(Structure):
    _fields_ = (("count", c_size_t), ("elements", POINTER(Buffer)))


class GssFailure(Exception):
    """A GSS call failed; `routine` is the routine error of the major status."""

    def __init__(self, message: str, major: int) -> None:
        super().__init__(message)
        self.routine = major >> 16 & 0xFF


_P = POINTER
_U32P: Final = _P(c_uint32)
_SIGNATURES: Final[Mapping[str, tuple[Any, ...]]] = {
    "gss_import_name": (_U32P, _P(Buffer), _P(Oid), _P(c_void_p)),
    "gss_display_name": (_U32P, c_void_p, _P(Buffer), c_void_p),
    "gss_release_name": (_U32P, _P(c_void_p)),
    "gss_release_buffer": (_U32P, _P(Buffer)),
    "gss_release_buffer_set": (_U32P, _P(_P(BufferSet))),
    "gss_release_cred": (_U32P, _P(c_void_p)),
    "gss_delete_sec_context": (_U32P, _P(c_void_p), c_void_p),
    "gss_display_status": (_U32P, c_uint32, c_int, _P(Oid), _U32P, _P(Buffer)),
    "gss_acquire_cred_from": (
        _U32P, c_void_p, c_uint32, _P(OidSet), c_int, _P(KeyValueSet), _P(c_void_p), c_void_p, c_void_p,
    ),
    "gss_acquire_cred_with_password": (
        _U32P, c_void_p, _P(Buffer), c_uint32, _P(OidSet), c_int, _P(c_void_p), c_void_p, c_void_p,
    ),
    "gss_init_sec_context": (
        _U32P, c_void_p, _P(c_void_p), c_void_p, _P(Oid), c_uint32, c_uint32, c_void_p, _P(Buffer), c_void_p,
        _P(Buffer), _U32P, c_void_p,
    ),
    "gss_accept_sec_context": (
        _U32P, _P(c_void_p), c_void_p, _P(Buffer), c_void_p, _P(c_void_p), c_void_p, _P(Buffer), _U32P,
        c_void_p, _P(c_void_p),
    ),
    "gss_inquire_sec_context_by_oid": (_U32P, c_void_p, _P(Oid), _P(_P(BufferSet))),
    "gss_get_mic": (_U32P, c_void_p, c_uint32, _P(Buffer), _P(Buffer)),
    "gss_verify_mic": (_U32P, c_void_p, _P(Buffer), _P(Buffer), c_void_p),
    "gss_wrap_iov": (_U32P, c_void_p, c_int, c_uint32, c_void_p, _P(Iov), c_int),
    "gss_unwrap_iov": (_U32P, c_void_p, _P(c_int), c_void_p, _P(Iov), c_int),
    "gss_wrap_iov_length": (_U32P, c_void_p, c_int, c_uint32, c_void_p, _P(Iov), c_int),
    "gss_get_mic_iov_length": (_U32P, c_void_p, c_uint32, _P(Iov), c_int),
}  # fmt: skip
"""Every function used, with its C parameters; all return OM_uint32."""


def _oid(value: bytes) -> Oid:
    return Oid(len(value), value)


def _buffer(data: bytes) -> Buffer:
    """A buffer over bytes that the caller keeps alive."""
    return Buffer(len(data), ctypes.cast(c_char_p(data), c_void_p))


class Gss:
    """The library's calls with Python values; nothing in here knows about RPC."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, parameters in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = parameters
            function.restype = c_uint32
            setattr(self, name[4:], function)
        self._kerberos = _oid(_KERBEROS)
        self._mechanisms = OidSet(1, ctypes.pointer(self._kerberos))

    def __getattr__(self, name: str) -> Any:  # the C functions set in __init__
        raise AttributeError(name)

    def check(self, what: str, major: int, minor: c_uint32) -> None:
        """Raise GssFailure for an error status."""
        if major & _ERROR_MASK:
            words = [self._words(major, 1), self._words(minor.value, 2)]
            raise GssFailure(f"{what}: " + "; ".join(dict.fromkeys(filter(None, words))), major)

    def _words(self, status: int, kind: int) -> str:
        minor, more, text = c_uint32(), c_uint32(), Buffer()
        if self.display_status(byref(minor), status, kind, byref(self._kerberos), byref(more), byref(text)):
            return f"status 0x{status:08X}"
        return self.taken(text).decode("utf-8", "replace")

    def taken(self, buffer: Buffer) -> bytes:
        """The bytes of a buffer the library made, which is released."""
        data = ctypes.string_at(buffer.value, buffer.length) if buffer.value else b""
        self.release_buffer(byref(c_uint32()), byref(buffer))
        return data

    def import_principal(self, principal: str) -> c_void_p:
        """A name handle for `service/host[@REALM]` or `user[@REALM]`."""
        minor, name = c_uint32(), c_void_p()
        data = principal.encode()
        kind = _oid(_NT_PRINCIPAL)
        self.check(
            f"principal {principal}",
            self.import_name(byref(minor), byref(_buffer(data)), byref(kind), byref(name)),
            minor,
        )
        return name

    def display(self, name: c_void_p) -> str:
        minor, text = c_uint32(), Buffer()
        self.check("principal", self.display_name(byref(minor), name, byref(text), None), minor)
        return self.taken(text).decode("utf-8", "replace")

    def acquire(self, name: c_void_p | None, usage: int, store: Mapping[str, str]) -> c_void_p:
        """A credentials handle out of the keytab or cache that `store` names."""
        minor, credentials = c_uint32(), c_void_p()
        entries = (KeyValue * max(len(store), 1))(
            *[KeyValue(k.encode(), v.encode()) for k, v in store.items()]
        )

        stores = KeyValueSet(len(store), entries)
        major = self.acquire_cred_from(
            byref(minor), name, 0xFFFF_FFFF, byref(self._mechanisms), usage,
            byref(stores) if store else None, byref(credentials), None, None,
        )  # fmt: skip
        self.check("Kerberos credentials", major, minor)
        return credentials

    def acquire_with_password(self, name: c_void_p, password: str) -> c_void_p:
        """A credentials handle with a ticket the KDC gives for the password."""
        minor, credentials = c_uint32(), c_void_p()
        data = password.encode()
        major = self.acquire_cred_with_password(
            byref(minor), name, byref(_buffer(data)), 0xFFFF_FFFF, byref(self._mechanisms), INITIATE,
            byref(credentials), None, None,
        )  # fmt: skip
        self.check("Kerberos password", major, minor)
        return credentials

    def initiate(
        self, credentials: c_void_p, context: c_void_p, target: c_void_p, flags: int, token: bytes
    ) -> tuple[int, bytes, int]:
        """One leg of the initiator: major status, token to send, flags so far."""
        minor, reply, got = c_uint32(), Buffer(), c_uint32()
        incoming = _buffer(token)
        major = self.init_sec_context(
            byref(minor), credentials, byref(context), target, byref(self._kerberos), flags, 0, None,
            byref(incoming) if token else None, None, byref(reply), byref(got), None,
        )  # fmt: skip
        outgoing = self.taken(reply)
        self.check("Kerberos handshake", major, minor)
        return major, outgoing, got.value

    def accept(
        self, credentials: c_void_p, context: c_void_p, token: bytes
    ) -> tuple[int, bytes, int, c_void_p]:
        """One leg of the acceptor: major status, token to send, flags, name handle of the client."""
        minor, reply, got = c_uint32(), Buffer(), c_uint32()
        source = c_void_p()
        # Delegated credentials are not asked for: in DCE style they come with the first leg, where the
        # library (MIT 1.20) makes them and gives them to nobody.
        major = self.accept_sec_context(
            byref(minor), byref(context), credentials, byref(_buffer(token)), None, byref(source), None,
            byref(reply), byref(got), None, None,
        )  # fmt: skip
        outgoing = self.taken(reply)
        if major & _ERROR_MASK:
            self.free_name(source)
        self.check("Kerberos handshake", major, minor)
        return major, outgoing, got.value, source

    def session_key(self, context: c_void_p) -> tuple[bytes, int]:
        """The key the two ends share, and its encryption type (17 and 18 are AES). [RFC3961] 8"""
        minor, found = c_uint32(), POINTER(BufferSet)()
        kind = _oid(_SESSION_KEY)
        major = self.inquire_sec_context_by_oid(byref(minor), context, byref(kind), byref(found))
        self.check("Kerberos session key", major, minor)
        try:
            key, kind_of_key = found.contents.elements[0], found.contents.elements[1]
            # The second buffer is an object identifier whose last arc is the encryption type.
            arcs = ctypes.string_at(kind_of_key.value, kind_of_key.length)
            return ctypes.string_at(key.value, key.length), arcs[-1]
        finally:
            self.release_buffer_set(byref(minor), byref(found))

    def sign(self, context: c_void_p, data: bytes) -> bytes:
        minor, token = c_uint32(), Buffer()
        major = self.get_mic(byref(minor), context, 0, byref(_buffer(data)), byref(token))
        self.check("Kerberos signature", major, minor)
        return self.taken(token)

    def verify(self, context: c_void_p, data: bytes, token: bytes) -> int:
        """Check a signature; the result is 0, or says that it is old, repeated or out of order."""
        minor = c_uint32()
        major: int = self.verify_mic(byref(minor), context, byref(_buffer(data)), byref(_buffer(token)), None)
        self.check("Kerberos signature", major, minor)
        return major

    def token_size(self, context: c_void_p, encryption_type: int, *, sealed: bool) -> int:
        """How long the token of every PDU is."""
        minor = c_uint32()
        kind = IOV_HEADER if sealed else IOV_MIC_TOKEN
        iov = (Iov * 2)(Iov(kind, Buffer(0, None)), Iov(IOV_DATA, Buffer(16, None)))
        if sealed:
            major = self.wrap_iov_length(byref(minor), context, 1, 0, None, iov, 2)
        else:
            major = self.get_mic_iov_length(byref(minor), context, 0, iov, 2)
        self.check("Kerberos token size", major, minor)
        size = int(iov[0].buffer.length)
        if not sealed and encryption_type in _OLD_TYPES:
            size -= 8  # the library counts a confounder that a MIC does not have
        return size

    def free_name(self, name: c_void_p) -> None:
        if name:
            self.release_name(byref(c_uint32()), byref(name))

    def free_credentials(self, credentials: c_void_p) -> None:
        if credentials:
            self.release_cred(byref(c_uint32()), byref(credentials))

    def free_context(self, context: c_void_p) -> None:
        if context:
            self.delete_sec_context(byref(c_uint32()), byref(context), None)


@cache
def load() -> Gss | None:
    """The library, or None where it is missing or too old."""
    try:
        return Gss(ctypes.CDLL(_LIBRARY))
    except (OSError, AttributeError):
        return None
