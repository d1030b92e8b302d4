"""Kerberos over the system's MIT library, in DCE style for RPC. [MS-KILE] 3.4.5.4, [MS-RPCE] 3.3.1.5.2, [RFC4121]

Three legs without GSS frames: AP-REQ, AP-REP, and the client's own AP-REP. PDUs at privacy get a wrap
token whose header goes behind the trailer; below privacy they get a MIC. With header signing both also
cover header and trailer, without it the body alone.

`step` asks the KDC and reads files, so contexts are `blocking`; sealing is not. An acceptor cannot see
that a client delegates (the library keeps it to itself in DCE style) and says IMPERSONATE.
"""

from __future__ import annotations

import ctypes
import hashlib
from ctypes import byref, c_char, c_int, c_uint32, c_void_p
from typing import Final, NoReturn, Self

from oxid.auth import _gssapi as g
from oxid.auth import der
from oxid.auth.accounts import Account, AccountStore
from oxid.auth.context import (
    SEC_TRAILER_SIZE,
    STATUS_LOGON_FAILURE,
    AuthLevel,
    AuthType,
    Counted,
    Impersonation,
    invalid_token,
    tampered,
)
from oxid.auth.credentials import Keytab, Password, Ticket
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported
from oxid.ledger import Counter
from oxid.values.status import NtStatus

_REMEDY: Final = (
    "install the system's Kerberos library (Debian: apt-get install libgssapi-krb5-2), or use NTLM"
)
_OUT_OF_ORDER: Final = {0x2: "repeated", 0x4: "too old", 0x8: "out of order", 0x10: "behind a gap"}
"""Supplementary bits of a major status. [RFC2744] 3.9.1"""


def available() -> bool:
    """Whether the system has the library."""
    return g.load() is not None


def _library() -> g.Gss:
    gss = g.load()
    if gss is None:
        error = NotSupported("Kerberos needs libgssapi_krb5.so.2, which this system does not have")
        error.remedy = _REMEDY
        raise error
    return gss


class KerberosContext(Counted):
    """Either end of a Kerberos conversation; see `oxid.auth.context.SecurityContext`."""

    __slots__ = (
        "_accounts",
        "_context",
        "_credentials",
        "_dce_style",
        "_flags",
        "_gss",
        "_local_realm",
        "_receiving",
        "_source",
        "_started",
        "_target",
        "admin",
        "anonymous",
        "complete",
        "header_signing",
        "impersonation",
        "level",
        "principal",
        "session_key",
        "signature_size",
        "target_name",
    )

    auth_type: int = AuthType.KERBEROS
    blocking: bool = True
    odd_legs: bool = False

    def __init__(self, gss: g.Gss, level: int, counter: Counter | None) -> None:
        super().__init__(counter)
        self._gss = gss
        self._context = c_void_p()
        self._credentials = c_void_p()
        self._target: c_void_p | None = None
        self._source: Password | Ticket | Keytab | None = None
        self._accounts: AccountStore | None = None
        self._local_realm = ""
        self._dce_style = True
        self._flags = 0
        self._started = False
        self._receiving = True
        self.level: int = level
        self.complete: bool = False
        self.principal: str | None = None
        self.anonymous: bool = False
        self.admin: bool = False
        self.impersonation: Impersonation = Impersonation.IMPERSONATE
        self.target_name: str | None = None
        self.header_signing: bool = False
        self.session_key: bytes = b""
        self.signature_size: int = 0

    @classmethod
    def initiator(
        cls,
        credentials: Password | Ticket | Keytab,
        level: int,
        counter: Counter | None,
        *,
        target: str,
        identify: bool = False,
        delegate: bool = False,
        dce_style: bool = True,
    ) -> Self:
        """A client's end; raises NotSupported where the library is missing. Without `dce_style` one token says it all,
        and the server proves nothing: HTTP, where TLS does that."""
        self = cls(_library(), level, counter)
        self._source = credentials
        self.target_name = target
        self._flags = g.REPLAY | g.SEQUENCE | g.INTEGRITY
        if dce_style:
            self._flags |= g.MUTUAL | g.DCE_STYLE
        if level == AuthLevel.PKT_PRIVACY:
            self._flags |= g.CONFIDENTIALITY
        if identify:
            self._flags |= g.IDENTIFY
        if delegate:
            self._flags |= g.DELEGATE
        return self

    @classmethod
    def acceptor(
        cls,
        keytab: Keytab,
        level: int,
        counter: Counter | None,
        *,
        accounts: AccountStore | None = None,
        local_realm: str = "",
        dce_style: bool = True,
    ) -> Self:
        """A server's end; raises NotSupported where the library is missing."""
        self = cls(_library(), level, counter)
        self._source = keytab
        self._accounts = accounts
        self._local_realm = local_realm
        self._dce_style = dce_style
        return self

    @property
    def can_sign(self) -> bool:
        return bool(self._flags & g.INTEGRITY)

    def step(self, token: bytes) -> bytes | None:
        """Take the peer's token, return ours; may wait for the KDC. Raises AuthenticationError."""
        if self.complete or self._source is None:
            raise invalid_token("the Kerberos handshake is over, or failed")
        source, self._source = self._source, None  # a failed handshake stays failed
        try:
            if self.target_name is not None:
                reply = self._initiate(source, token, self.target_name)
            else:
                assert isinstance(source, Keytab)
                reply = self._accept(source, token)
        except g.GssFailure as error:
            if error.routine == g.GSS_S_DEFECTIVE_TOKEN:
                raise invalid_token(str(error)) from error
            raise AuthenticationError(str(error), NtStatus(STATUS_LOGON_FAILURE)) from error
        if self.complete:
            self._finish()
        else:
            self._source = source
        return reply or None

    def _initiate(self, source: Password | Ticket | Keytab, token: bytes, target: str) -> bytes:
        gss = self._gss
        if self._target is None:
            if token:
                raise invalid_token("the server spoke before the Kerberos AP-REQ")
            self._credentials = self._initiator_credentials(source)
            self._target = gss.import_principal(target)
        elif not token:
            raise invalid_token("the server's Kerberos token is empty")
        major, reply, flags = gss.initiate(self._credentials, self._context, self._target, self._flags, token)
        if major == g.COMPLETE:
            missing = self._flags & ~flags & (g.MUTUAL | g.INTEGRITY | g.CONFIDENTIALITY)
            if missing:
                raise AuthenticationError(f"Kerberos gives less protection than asked (0x{missing:X})")
            self._flags = flags
            self.complete = True
        return reply

    def _initiator_credentials(self, source: Password | Ticket | Keytab) -> c_void_p:
        gss = self._gss
        if isinstance(source, Password):
            name = gss.import_principal(f"{source.user}@{source.domain}" if source.domain else source.user)
            try:
                return gss.acquire_with_password(name, source.password)
            finally:
                gss.free_name(name)
        store: dict[str, str] = {}
        if isinstance(source, Keytab):
            # One memory cache per keytab and principal, so that connections share their tickets.
            label = hashlib.sha256(f"{source.path}\0{source.principal}".encode()).hexdigest()[:24]
            store = {"client_keytab": source.path, "ccache": f"MEMORY:oxid-{label}"}
        elif source.ccache is not None:
            store = {"ccache": source.ccache}
        initiator = gss.import_principal(source.principal) if source.principal else None
        try:
            return gss.acquire(initiator, g.INITIATE, store)
        finally:
            if initiator is not None:
                gss.free_name(initiator)

    def _accept(self, keytab: Keytab, token: bytes) -> bytes:
        gss = self._gss
        if not self._started:
            self._started = True
            name = gss.import_principal(keytab.principal) if keytab.principal else None
            try:
                self._credentials = gss.acquire(name, g.ACCEPT, {"keytab": keytab.path})
            finally:
                if name is not None:
                    gss.free_name(name)
            if self._dce_style:
                token = unframed(token)
        major, reply, flags, client = gss.accept(self._credentials, self._context, token)
        try:
            if major == g.COMPLETE:
                self._check_strength(flags)
                self._flags = flags
                self._identify(gss.display(client))
                self.complete = True
        finally:
            gss.free_name(client)
        return reply

    def _check_strength(self, flags: int) -> None:
        if self.level >= AuthLevel.CALL and not flags & g.INTEGRITY:
            raise AuthenticationError("the Kerberos client offers no integrity")
        if self.level == AuthLevel.PKT_PRIVACY and not flags & g.CONFIDENTIALITY:
            raise AuthenticationError("the Kerberos client offers no encryption")

    def _identify(self, principal: str) -> None:
        """Who came, and which account that is here."""
        self.principal = principal
        user, _, realm = principal.rpartition("@")
        account: Account | None = None
        if self._accounts is not None:
            account = self._accounts.find(principal)
            if account is None and realm and realm == self._local_realm:
                account = self._accounts.find(user)
        if account is not None:
            self.principal, self.admin = account.name, account.admin

    def _finish(self) -> None:
        """Keep what PDUs need, release the rest."""
        flags = self._flags
        if flags & g.ANONYMOUS:
            self.anonymous, self.impersonation = True, Impersonation.ANONYMOUS
        elif flags & g.IDENTIFY:
            self.impersonation = Impersonation.IDENTIFY
        elif flags & g.DELEGATE:
            self.impersonation = Impersonation.DELEGATE
        gss = self._gss
        try:
            self.session_key, encryption_type = gss.session_key(self._context)
            if self.level >= AuthLevel.CALL:
                sealed = self.level == AuthLevel.PKT_PRIVACY
                self.signature_size = gss.token_size(self._context, encryption_type, sealed=sealed)
        except g.GssFailure as error:
            raise AuthenticationError(str(error)) from error
        self._release_handshake()

    def seal(self, out: bytearray, start: int, body_at: int, body_end: int) -> bytes:
        """Protect the PDU out[start:body_end + 8]; at privacy the body is encrypted in place."""
        self._check_usable()
        gss, trailer_end = self._gss, body_end + SEC_TRAILER_SIZE
        try:
            if self.level != AuthLevel.PKT_PRIVACY:
                begin, end = (start, trailer_end) if self.header_signing else (body_at, body_end)
                return gss.sign(self._context, bytes(out[begin:end]))
            token = ctypes.create_string_buffer(self.signature_size)
            memory = (c_char * (trailer_end - start)).from_buffer(out, start)
            iov, count = self._iov(memory, token, body_at - start, body_end - start)
            minor = c_uint32()
            major = gss.wrap_iov(byref(minor), self._context, 1, 0, None, iov, count)
            gss.check("Kerberos encryption", major, minor)
            return token.raw
        except g.GssFailure as error:
            raise AuthenticationError(str(error)) from error

    def unseal(self, pdu: bytes | bytearray, body_at: int, body_end: int) -> bytes:
        """Check a PDU and its token, return the plain body; raises AuthenticationError."""
        self._check_usable()
        if not self._receiving:
            raise tampered("an earlier message of this Kerberos context failed its check")
        gss, trailer_end = self._gss, body_end + SEC_TRAILER_SIZE
        token = bytes(pdu[trailer_end:])
        try:
            if self.level != AuthLevel.PKT_PRIVACY:
                begin, end = (0, trailer_end) if self.header_signing else (body_at, body_end)
                major = gss.verify(self._context, bytes(pdu[begin:end]), token)
                body = bytes(pdu[body_at:body_end])
            else:
                plain = bytearray(pdu[:trailer_end])
                memory = (c_char * trailer_end).from_buffer(plain)
                holder = ctypes.create_string_buffer(token, len(token))
                iov, count = self._iov(memory, holder, body_at, body_end)
                minor, encrypted = c_uint32(), c_int()
                major = gss.unwrap_iov(byref(minor), self._context, byref(encrypted), None, iov, count)
                gss.check("Kerberos encryption", major, minor)
                if not encrypted.value:
                    self._refuse("the message is signed but not encrypted")
                body = bytes(plain[body_at:body_end])
        except g.GssFailure as error:
            self._receiving = False
            raise tampered(str(error)) from error
        if major:
            self._refuse(next((text for bit, text in _OUT_OF_ORDER.items() if major & bit), hex(major)))
        return body

    def _iov(
        self, memory: ctypes.Array[c_char], token: ctypes.Array[c_char], body_at: int, body_end: int
    ) -> tuple[ctypes.Array[g.Iov], int]:
        """Buffers for wrap and unwrap: the token's, the body, and around it what is signed only."""
        address = ctypes.addressof(memory)
        header = g.Iov(g.IOV_HEADER, g.Buffer(len(token), ctypes.addressof(token)))
        body = g.Iov(g.IOV_DATA, g.Buffer(body_end - body_at, address + body_at))
        if not self.header_signing:
            return (g.Iov * 2)(header, body), 2
        before = g.Iov(g.IOV_SIGN_ONLY, g.Buffer(body_at, address))
        after = g.Iov(g.IOV_SIGN_ONLY, g.Buffer(SEC_TRAILER_SIZE, address + body_end))
        return (g.Iov * 4)(header, before, body, after), 4

    def mic(self, data: bytes) -> bytes:
        """Sign SPNEGO's list of mechanisms."""
        try:
            return self._gss.sign(self._context, data)
        except g.GssFailure as error:
            raise AuthenticationError(str(error)) from error

    def check_mic(self, data: bytes, mic: bytes) -> None:
        """Check the peer's signature of the list of mechanisms; raises AuthenticationError."""
        try:
            major = self._gss.verify(self._context, data, mic)
        except g.GssFailure as error:
            raise tampered(str(error)) from error
        if major:
            self._refuse("the mechListMIC is out of order")

    def _refuse(self, why: str) -> NoReturn:
        self._receiving = False
        raise tampered(f"Kerberos message: {why}")

    def _check_usable(self) -> None:
        if not self.complete:
            raise LocalProtocolError("the Kerberos handshake is not complete")
        if self.level == AuthLevel.CONNECT:
            raise LocalProtocolError("level connect has no per-message protection")
        if not self._context:
            raise AuthenticationError("the Kerberos context is closed")

    def _release_handshake(self) -> None:
        gss = self._gss
        gss.free_credentials(self._credentials)
        self._credentials = c_void_p()
        if self._target is not None:
            gss.free_name(self._target)
            self._target = None
        self._accounts = None

    def close(self) -> None:
        """Release the library's handles; may be called twice."""
        self._release_handshake()
        self._gss.free_context(self._context)
        self._context = c_void_p()
        self._source = None
        self.session_key = b""
        super().close()

    def __repr__(self) -> str:
        state = "complete" if self.complete else "open"
        return f"<KerberosContext level {int(self.level)} {state}, {self.principal or 'peer unnamed'}>"


def unframed(token: bytes) -> bytes:
    """An AP-REQ without the GSS frame that impacket puts around it and DCE style has not. [RFC4121] 4.1"""
    if token[:1] != b"\x60":
        return token
    _, framed, _ = der.take(token, 0, der.GSS_TOKEN)
    _, _, at = der.take(framed, 0, der.OBJECT_IDENTIFIER)
    return framed[at + 2 :]
