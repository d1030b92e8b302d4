"""How calls are secured when nobody says so for one proxy: negotiation, and the defaults of a process.
[MS-DCOM] 3.2.4.1.1.1, CoInitializeSecurity of the Windows SDK
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from oxid.auth.context import AuthLevel, AuthType, Impersonation
from oxid.auth.credentials import Anonymous, Credentials, Keytab, Password, Ticket
from oxid.com.options import UNAUTHENTICATED, Blanket, Capabilities, ClientOptions, usual_provider
from oxid.errors import error_for, hresult
from oxid.values.bindings import DualStringArray
from oxid.values.status import E_INVALIDARG, RPC_E_NO_GOOD_SECURITY_PACKAGES, RPC_E_TOO_LATE, HResult

_FIELDS: Final = frozenset(field.name for field in fields(Blanket) if field.init)


def providers_for(credentials: Credentials) -> tuple[AuthType, ...]:
    """The security packages that credentials can be used with, the usual one first."""
    if isinstance(credentials, Ticket | Keytab):
        return AuthType.SPNEGO, AuthType.KERBEROS
    if isinstance(credentials, Password):
        return AuthType.NTLM, AuthType.SPNEGO, AuthType.KERBEROS
    return AuthType.NTLM, AuthType.SPNEGO


def negotiated(blanket: Blanket, bindings: DualStringArray, options: ClientOptions) -> Blanket:
    """A default blanket as a server can understand it: a package that both have, and the name the server gave.

    What the options choose stays as chosen. Raises StatusError RPC_E_NO_GOOD_SECURITY_PACKAGES where there is
    none in common: a call that was to be protected is not made without protection.
    """
    if blanket.credentials is None:
        return UNAUTHENTICATED
    offered = {binding.authn_service: binding.principal for binding in bindings.security}
    provider = blanket.auth_type
    if options.auth_type is None and offered:
        usable = providers_for(blanket.credentials)
        provider = next((kind for kind in usable if int(kind) in offered), None)
        if provider is None:
            names = ", ".join(str(number) for number in offered)
            raise error_for(
                HResult(RPC_E_NO_GOOD_SECURITY_PACKAGES),
                f"the server has the security packages {names}; {type(blanket.credentials).__name__} works with "
                + ", ".join(f"{kind.name} ({int(kind)})" for kind in usable),
            )
    target = blanket.target_name
    if not target and provider is not AuthType.NTLM and isinstance(blanket.credentials, Ticket | Keytab):
        target = offered.get(int(provider or 0), "")
    return replace(blanket, auth_type=provider, target_name=target)


def checked(blanket: Blanket, changes: Mapping[str, Any]) -> Blanket:
    """A blanket with changes, if a connection can have it. Raises InvalidArgument."""
    for name in changes:
        if name not in _FIELDS:
            raise hresult(E_INVALIDARG, f"a blanket has no {name}; it has {', '.join(sorted(_FIELDS))}")
    changed = dict(changes)
    if "credentials" in changed and "auth_type" not in changed:
        who = changed["credentials"]
        changed["auth_type"] = None if who is None else usual_provider(who)
        if who is None:
            changed.setdefault("level", UNAUTHENTICATED.level)
        elif "level" not in changed and blanket.credentials is None:
            changed["level"] = AuthLevel.PKT_PRIVACY
    made = replace(blanket, **changed)
    if made.credentials is None:
        if made.level > UNAUTHENTICATED.level:
            raise hresult(E_INVALIDARG, f"level {int(made.level)} needs somebody: give credentials")
        return UNAUTHENTICATED
    if made.level not in list(AuthLevel):
        raise hresult(E_INVALIDARG, f"level {made.level}: 2 (connect) to 6 (privacy) were expected")
    if made.auth_type is None or made.auth_type not in providers_for(made.credentials):
        raise hresult(
            E_INVALIDARG, f"{type(made.credentials).__name__} cannot be used with package {made.auth_type}"
        )
    if made.impersonation not in list(Impersonation):
        raise hresult(E_INVALIDARG, f"impersonation level {made.impersonation}: 1 to 4 were expected")
    made.capabilities.check()
    return made


class ProcessSecurity:
    """What calls of this process have in common, said once. CoInitializeSecurity

    `initialize` must come before the first connection; `settled` is what the first connection calls.
    """

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._credentials: Credentials | None = None
        self._settled = False

    def initialize(
        self,
        credentials: Credentials | None = None,
        *,
        level: AuthLevel | None = None,
        impersonation: Impersonation | None = None,
        capabilities: Capabilities = Capabilities.NONE,
    ) -> None:
        """Choose the defaults. Raises StatusError RPC_E_TOO_LATE once there are, InvalidArgument for a
        combination that COM refuses."""
        if self._settled:
            raise hresult(
                RPC_E_TOO_LATE, "security was initialised already, or the first connection was made"
            )
        capabilities.check()
        if isinstance(credentials, Anonymous) and capabilities & Capabilities.SECURE_REFS:
            raise hresult(E_INVALIDARG, "references of one's own need an account")
        self._options = {"capabilities": capabilities}
        if level is not None:
            self._options["level"] = level
        if impersonation is not None:
            self._options["impersonation"] = impersonation
        self._credentials = credentials
        self._settled = True

    def settled(
        self, options: ClientOptions | None, credentials: Credentials | None
    ) -> tuple[ClientOptions, Credentials | None]:
        """What a connection uses that says nothing itself; nothing can be initialised afterwards."""
        self._settled = True
        if options is None:
            options = replace(ClientOptions.from_environment(), **self._options)
        return options, self._credentials if credentials is None else credentials


process_security: Final = ProcessSecurity()
"""Of this process."""

initialize_security: Final = process_security.initialize
