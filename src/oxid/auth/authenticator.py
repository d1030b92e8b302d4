"""The two doors of this room: contexts for a server's callers, and contexts for our own calls.

authenticator = Authenticator(accounts, world=world, keytab=Keytab("/etc/oxid.keytab"))
context = authenticator.acceptor(AuthType.SPNEGO, AuthLevel.PKT_PRIVACY, peer="192.0.2.7")

context = initiator(Password("admin", "secret"), AuthType.NTLM, AuthLevel.PKT_PRIVACY,
                    target="host/server", world=world)
"""

from __future__ import annotations

from typing import Final

from oxid.auth import kerberos, spnego
from oxid.auth.accounts import AccountStore
from oxid.auth.context import STATUS_NOT_SUPPORTED, AuthLevel, AuthType, SecurityContext
from oxid.auth.credentials import Anonymous, Credentials, Keytab, NtHash, Password, Ticket
from oxid.auth.failures import FailureLimiter
from oxid.auth.ntlm import AcceptorHandshake, InitiatorHandshake, NtlmContext, ServerNames
from oxid.errors import AuthenticationError, LocalProtocolError, NotSupported
from oxid.ledger import Counter
from oxid.values.status import NtStatus
from oxid.world import World

_LEVELS: Final = range(AuthLevel.CONNECT, AuthLevel.PKT_PRIVACY + 1)


class Authenticator:
    """What a server knows about callers: its accounts, its Kerberos keys, its names and its policy."""

    __slots__ = (
        "accounts",
        "allow_anonymous",
        "keytab",
        "limiter",
        "local_realm",
        "minimum_level",
        "names",
        "world",
    )

    def __init__(
        self,
        accounts: AccountStore,
        *,
        world: World,
        names: ServerNames | None = None,
        keytab: Keytab | None = None,
        local_realm: str = "",
        allow_anonymous: bool = True,
        minimum_level: int = AuthLevel.CONNECT,
        limiter: FailureLimiter | None = None,
    ) -> None:
        self.accounts = accounts
        self.world = world
        self.names = names or ServerNames()
        self.keytab = keytab
        """Where the server's Kerberos keys are; without one Kerberos is not offered."""
        self.local_realm = local_realm
        """A Kerberos realm whose `name@REALM` is the local account `name`."""
        self.allow_anonymous = allow_anonymous
        """Whether anonymous NTLM may finish its handshake; what it may call is decided per interface."""
        self.minimum_level = minimum_level
        self.limiter = limiter

    @property
    def auth_types(self) -> tuple[AuthType, ...]:
        """The security providers a client may use here."""
        if self.keytab is not None and kerberos.available():
            return (AuthType.SPNEGO, AuthType.NTLM, AuthType.KERBEROS)
        return (AuthType.SPNEGO, AuthType.NTLM)

    def principal_name(self, auth_type: int) -> str:
        """What `rpc_mgmt_inq_princ_name` and DCOM's security bindings answer."""
        names = self.names
        if auth_type in (AuthType.KERBEROS, AuthType.SPNEGO) and self.keytab is not None:
            return self.keytab.principal or f"host/{names.dns_computer or names.computer.lower()}"
        return f"{names.domain or names.computer}\\{names.computer}$"

    def acceptor(
        self,
        auth_type: int,
        level: int,
        *,
        peer: str = "",
        channel_bindings: bytes | None = None,
        dce_style: bool = True,
    ) -> SecurityContext:
        """A context for one caller; close it when its connection ends.

        `peer` is who the failure limiter counts for; `dce_style`: Kerberos as RPC has it, not as HTTP. Raises
        NotSupported for an unknown provider and AuthenticationError for a level below the minimum.
        """
        if level not in _LEVELS:
            raise LocalProtocolError(f"authentication level {level}, wanted 2 to 6")
        if level < self.minimum_level:
            raise AuthenticationError(
                f"level {level} is below the minimum {int(self.minimum_level)}",
                NtStatus(STATUS_NOT_SUPPORTED),
            )
        counter = self.world.ledger.security_context
        if auth_type == AuthType.NTLM:
            return self._ntlm(level, peer, channel_bindings, counter)
        if auth_type == AuthType.KERBEROS and self.keytab is not None:
            return self._kerberos(level, counter, dce_style)
        if auth_type == AuthType.SPNEGO:
            mechanisms: list[tuple[bytes, spnego.Mechanism]] = []
            with_kerberos = AuthType.KERBEROS in self.auth_types
            if with_kerberos:
                mechanisms.append((spnego.KERBEROS_OID, lambda: self._kerberos(level, None, dce_style)))
            mechanisms.append((spnego.NTLM_OID, lambda: self._ntlm(level, peer, channel_bindings, None)))
            blocking = with_kerberos or self._asks_elsewhere
            return spnego.SpnegoAcceptor(mechanisms, level, counter, blocking=blocking)
        raise NotSupported(f"security provider {auth_type} is not offered here; use {self._offer()}")

    def _offer(self) -> str:
        return ", ".join(f"{kind.name} ({kind.value})" for kind in self.auth_types)

    def _ntlm(
        self, level: int, peer: str, channel_bindings: bytes | None, counter: Counter | None
    ) -> NtlmContext:
        handshake = AcceptorHandshake(
            self.accounts,
            world=self.world,
            names=self.names,
            allow_anonymous=self.allow_anonymous,
            channel_bindings=channel_bindings,
            limiter=self.limiter,
            peer=peer,
        )
        return NtlmContext(handshake, level, counter, blocking=self._asks_elsewhere)

    @property
    def _asks_elsewhere(self) -> bool:
        """Passwords are judged by another process, so a step waits for it."""
        return getattr(self.accounts, "logon", None) is not None

    def _kerberos(self, level: int, counter: Counter | None, dce_style: bool) -> SecurityContext:
        assert self.keytab is not None
        return kerberos.KerberosContext.acceptor(
            self.keytab,
            level,
            counter,
            accounts=self.accounts,
            local_realm=self.local_realm,
            dce_style=dce_style,
        )

    def __repr__(self) -> str:
        return f"<Authenticator {self.names.computer}, {self._offer()}>"


def initiator(
    credentials: Credentials,
    auth_type: int,
    level: int,
    *,
    world: World,
    target: str | None = None,
    workstation: str = "",
    identify: bool = False,
    delegate: bool = False,
    dce_style: bool = True,
    channel_bindings: bytes | None = None,
) -> SecurityContext:
    """A context for calls to one server; begin with `step(b"")`, and close it with its connection.

    `target` is the service principal name, `host/server` or `RPCSS/server@REALM`; a bare name means `host/name`.
    `dce_style`: Kerberos as RPC has it, not as HTTP. Raises NotSupported where the credentials cannot be used with
    this provider.
    """
    if level not in _LEVELS:
        raise LocalProtocolError(f"authentication level {level}, wanted 2 to 6")
    spn = target if target is None or "/" in target else f"host/{target}"

    def ntlm(counter: Counter | None) -> NtlmContext:
        if not isinstance(credentials, Password | NtHash | Anonymous):
            raise NotSupported("NTLM needs a password or its hash; with a ticket or keytab use Kerberos")
        handshake = InitiatorHandshake(
            credentials,
            level=level,
            world=world,
            target=spn,
            workstation=workstation,
            identify=identify,
            channel_bindings=channel_bindings,
        )
        return NtlmContext(handshake, level, counter)

    def kerberos_context(counter: Counter | None) -> kerberos.KerberosContext:
        if not isinstance(credentials, Password | Ticket | Keytab):
            raise NotSupported("Kerberos needs a ticket, a keytab or a password")
        if spn is None:
            raise NotSupported("Kerberos needs the server's principal name, say host/server")
        return kerberos.KerberosContext.initiator(
            credentials,
            level,
            counter,
            target=spn,
            identify=identify,
            delegate=delegate,
            dce_style=dce_style,
        )

    count = world.ledger.security_context
    if auth_type == AuthType.NTLM:
        return ntlm(count)
    if auth_type == AuthType.KERBEROS:
        return kerberos_context(count)
    if auth_type == AuthType.SPNEGO:
        mechanisms: list[tuple[bytes, spnego.Mechanism]] = []
        # A password goes to NTLM at once: a Kerberos try would wait for a KDC that mostly is not there.
        blocking = isinstance(credentials, Ticket | Keytab)
        if blocking:
            for oid in (spnego.MS_KERBEROS_OID, spnego.KERBEROS_OID):
                mechanisms.append((oid, lambda: kerberos_context(None)))
        else:
            mechanisms.append((spnego.NTLM_OID, lambda: ntlm(None)))
        return spnego.SpnegoInitiator(mechanisms, level, count, blocking=blocking)
    raise NotSupported(f"security provider {auth_type}; oxid has SPNEGO (9), NTLM (10) and Kerberos (16)")
