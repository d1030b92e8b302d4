"""Activation requests: who may, what they ask for, and the answer. [MS-DCOM] 3.1.2.5.2

`ActivationService` implements IActivation and IRemoteSCMActivator. It judges the caller, reads the request
and writes the reply; making the object is the `Activator`'s part. "The methods MUST NOT throw exceptions":
every refusal is a status in a complete reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from oxid.com.activation_properties import (
    ACTVFLAGS_ACTIVATE_32_BIT_SERVER,
    ACTVFLAGS_ACTIVATE_64_BIT_SERVER,
    ACTVFLAGS_DISABLE_AAA,
    ACTVFLAGS_NO_FAILURE_LOG,
    ANY_SESSION,
    ActivationIn,
    ActivationOut,
)
from oxid.com.activation_templates import ReplyWriter, read_request
from oxid.com.orpc import ComVersion, negotiate, version_mismatch
from oxid.errors import AccessDenied, BadStubData, StatusError, error_for, hresult_for
from oxid.interfaces.activation import MODE_GET_CLASS_OBJECT, ActivatorReply, RemoteActivationReply
from oxid.interfaces.dcom_types import ComVersionIdl, DualStringArrayIdl, OrpcThatIdl, OrpcThisIdl
from oxid.runtime.dispatch import may_wait
from oxid.values.bindings import NCACN_IP_TCP
from oxid.values.status import (
    CO_E_RUNAS_LOGON_FAILURE,
    E_ACCESSDENIED,
    E_FAIL,
    E_INVALIDARG,
    E_NOINTERFACE,
    E_NOTIMPL,
    ERROR_ACCESS_DENIED,
    REGDB_E_CLASSNOTREG,
    HResult,
)

log = logging.getLogger("oxid.rpcss.activator")

LEVELS: Final = {0: "default", 1: "none", 2: "connect", 3: "call", 4: "packet", 5: "integrity", 6: "privacy"}
_NIL: Final = UUID(int=0)
_NO_EXTENSIONS: Final = OrpcThatIdl()


class Caller(Protocol):
    """Who makes the call that runs now, and how well it is protected."""

    @property
    def principal(self) -> str | None:
        """The account's name; None without one."""
        ...

    @property
    def anonymous(self) -> bool: ...

    @property
    def admin(self) -> bool:
        """The account is an administrator's."""
        ...

    @property
    def local(self) -> bool:
        """The call comes from this machine."""
        ...

    @property
    def level(self) -> int:
        """The authentication level of the call, 1 (none) to 6 (privacy)."""
        ...

    @property
    def peer(self) -> str:
        """The address it comes from."""
        ...


@dataclass(frozen=True, slots=True)
class ActivationPolicy:
    """What activation demands. [MS-DCOM] 3.1.2.5.2.3, CVE-2021-26414"""

    minimum_level: int = 5
    """The lowest authentication level of an authenticated activation: 5 is integrity."""
    allow_anonymous: bool = False
    """Lets callers without an account activate; for laboratories."""
    sessions: frozenset[int] = frozenset({0})
    """Logon sessions that exist here: the one of services."""
    console_session: bool = False
    """Whether there is a console logon session to start servers in."""
    bits: int = 64
    """The address space that servers run in."""
    runs_as_activator: bool = False
    """Whether servers run under the identity of whoever activates them."""


@dataclass(frozen=True, slots=True)
class ActivationRequest:
    """What the `Activator` is asked for; everything in it has been checked."""

    clsid: UUID
    iids: tuple[UUID, ...]
    caller: Caller
    causality_id: UUID
    client_version: ComVersion
    protseqs: tuple[int, ...] = (NCACN_IP_TCP,)
    class_object: bool = False
    session_id: int = ANY_SESSION
    actv_flags: int = 0
    client_context: bytes | None = None
    prototype_context: bytes | None = None


class Activator(Protocol):
    """Finds the class, starts its server where needed, and marshals what was made.

    It answers with one result per requested interface, in order, and raises StatusError for the activation
    as a whole. Where every interface failed, the object must be released before it returns.
    """

    def activate(self, request: ActivationRequest) -> ActivationOut | Coroutine[Any, Any, ActivationOut]:
        """At once where nothing has to be waited for."""
        ...


class _Asked(NamedTuple):
    clsid: UUID
    flags: int


class ActivationService:
    """IActivation and IRemoteSCMActivator over one `Activator`."""

    def __init__(
        self,
        activator: Activator,
        caller: Callable[[], Caller],
        policy: ActivationPolicy | None = None,
    ) -> None:
        self._activator = activator
        self._caller = caller
        self.policy = policy or ActivationPolicy()
        self._replies = ReplyWriter()
        self.refused = 0
        """Activations refused for their caller, since the start."""

    async def remote_activation(
        self,
        orpcthis: OrpcThisIdl,
        clsid: UUID,
        object_name: str | None,
        object_storage: bytes | None,
        client_imp_level: int,
        mode: int,
        iids: Sequence[UUID] | None,
        protseqs: Sequence[int],
    ) -> RemoteActivationReply:
        """The activation of DCOM 5.1: everything is a parameter."""
        if not iids:
            raise BadStubData("an activation that asks for no interface")
        asked = _Asked(clsid, 0)
        wanted = ActivationIn(
            clsid,
            tuple(iids),
            tuple(protseqs) or (NCACN_IP_TCP,),
            _version(orpcthis),
            file_name=object_name,
            storage=object_storage,
        )
        try:
            caller = self._admit(asked)
            made = self._activate(wanted, orpcthis, caller, mode == MODE_GET_CLASS_OBJECT)
            result = made if isinstance(made, ActivationOut) else await made
            if all(found.failed for found in result.interfaces):
                raise error_for(HResult(E_NOINTERFACE), "the object has none of the requested interfaces")
        except Exception as error:
            return self._failed_activation(self._code_of(error, asked), len(iids))
        return RemoteActivationReply(
            OrpcThatIdl(),
            result.oxid,
            DualStringArrayIdl.of(result.bindings),
            result.ipid_rem_unknown,
            result.authn_hint,
            ComVersionIdl(*result.version),
            0,
            [None if i.failed else i.objref for i in result.interfaces],
            [i.hresult for i in result.interfaces],
            0,
        )

    @may_wait
    def remote_get_class_object(
        self, orpcthis: OrpcThisIdl, properties: bytes | None
    ) -> ActivatorReply | Coroutine[Any, Any, ActivatorReply]:
        return self._by_properties(orpcthis, properties, class_object=True)

    @may_wait
    def remote_create_instance(
        self, orpcthis: OrpcThisIdl, outer: bytes | None, properties: bytes | None
    ) -> ActivatorReply | Coroutine[Any, Any, ActivatorReply]:
        return self._by_properties(orpcthis, properties, class_object=False)

    def _by_properties(
        self, orpcthis: OrpcThisIdl, properties: bytes | None, *, class_object: bool
    ) -> ActivatorReply | Coroutine[Any, Any, ActivatorReply]:
        asked = _Asked(_NIL, 0)
        try:
            if properties is None:
                raise error_for(HResult(E_INVALIDARG), "an activation without properties")
            # Read first, so that the log of a refusal names the class; nothing is looked up before the check.
            wanted = read_request(properties)
            asked = _Asked(wanted.clsid, wanted.actv_flags)
            caller = self._admit(asked)
            self._check_demands(wanted)
            made = self._activate(wanted, orpcthis, caller, class_object)
            if not isinstance(made, ActivationOut):
                return self._later(made, asked)
            return self._reply(made)
        except Exception as error:
            return ActivatorReply(_NO_EXTENSIONS, None, self._code_of(error, asked))

    async def _later(self, made: Coroutine[Any, Any, ActivationOut], asked: _Asked) -> ActivatorReply:
        try:
            return self._reply(await made)
        except Exception as error:
            return ActivatorReply(_NO_EXTENSIONS, None, self._code_of(error, asked))

    def _reply(self, made: ActivationOut) -> ActivatorReply:
        if all(found.failed for found in made.interfaces):
            raise error_for(HResult(E_NOINTERFACE), "the object has none of the requested interfaces")
        return ActivatorReply(_NO_EXTENSIONS, self._replies.write(made), 0)

    def _admit(self, asked: _Asked) -> Caller:
        """The caller, where it may activate at all. The refusal says who, what and why in the log."""
        caller, policy = self._caller(), self.policy
        if caller.anonymous or caller.principal is None:
            if policy.allow_anonymous:
                return caller
            why = "anonymous callers may not activate; --insecure-anonymous would let them"
        elif caller.level < policy.minimum_level:
            wanted, got = (LEVELS.get(n, str(n)) for n in (policy.minimum_level, caller.level))
            why = f"the call is protected at level {got}, activation needs {wanted}"
        else:
            return caller
        self.refused += 1
        who = caller.principal or "anonymous"
        log.warning("activation of %s refused to %s from %s: %s", asked.clsid, who, caller.peer, why)
        raise error_for(HResult(E_ACCESSDENIED), why)

    def _check_demands(self, wanted: ActivationIn) -> None:
        """What the properties demand of the place where the server runs. [MS-DCOM] 3.1.2.5.2.3"""
        policy, flags = self.policy, wanted.actv_flags
        if wanted.use_console_session:
            if not policy.console_session:
                raise error_for(HResult(CO_E_RUNAS_LOGON_FAILURE), "there is no console session here")
        elif wanted.session_id != ANY_SESSION and wanted.session_id not in policy.sessions:
            raise error_for(
                HResult(CO_E_RUNAS_LOGON_FAILURE), f"there is no session {wanted.session_id} here"
            )
        if flags & ACTVFLAGS_DISABLE_AAA and policy.runs_as_activator:
            raise error_for(HResult(E_ACCESSDENIED), "the server would run as its activator")
        if (flags & ACTVFLAGS_ACTIVATE_32_BIT_SERVER and policy.bits != 32) or (
            flags & ACTVFLAGS_ACTIVATE_64_BIT_SERVER and policy.bits != 64
        ):
            raise error_for(HResult(REGDB_E_CLASSNOTREG), f"servers here have {policy.bits} bits")

    def _activate(
        self, wanted: ActivationIn, orpcthis: OrpcThisIdl, caller: Caller, class_object: bool
    ) -> ActivationOut | Coroutine[Any, Any, ActivationOut]:
        version = negotiate(_version(orpcthis))
        if orpcthis.version.minor > version.minor:
            # "MUST return RPC_E_VERSION_MISMATCH if the client has a higher minor COM version"
            raise version_mismatch(_version(orpcthis))
        if wanted.persistent:
            raise error_for(HResult(E_NOTIMPL), "objects are not made from files or storages here")
        request = ActivationRequest(
            clsid=wanted.clsid,
            iids=wanted.iids,
            caller=caller,
            causality_id=orpcthis.cid,
            client_version=version,
            protseqs=wanted.protseqs,
            class_object=class_object,
            session_id=wanted.session_id,
            actv_flags=wanted.actv_flags,
            client_context=wanted.client_context,
            prototype_context=wanted.prototype_context,
        )
        return self._activator.activate(request)

    def _code_of(self, error: Exception, asked: _Asked) -> int:
        """The HRESULT for a failed activation, with one line in the log unless the client wants none."""
        if not isinstance(error, StatusError):
            log.error("activation of %s failed", asked.clsid, exc_info=error)
            return E_FAIL
        code = hresult_for(error)
        # `_admit` has said its part already, for the operator rather than for the client.
        if not isinstance(error, AccessDenied) and not asked.flags & ACTVFLAGS_NO_FAILURE_LOG:
            log.info("activation of %s failed: %s", asked.clsid, error)
        return code if code >= 0x8000_0000 else E_FAIL

    def _failed_activation(self, code: int, count: int) -> RemoteActivationReply:
        """ "If phr contains a failure value, [pResults] MUST contain an array of 0x00000000 values"."""
        status = ERROR_ACCESS_DENIED if code == E_ACCESSDENIED else 0
        return RemoteActivationReply(
            OrpcThatIdl(), 0, None, _NIL, 0, ComVersionIdl(), code, [None] * count, [0] * count, status
        )


def _version(orpcthis: OrpcThisIdl) -> ComVersion:
    return ComVersion(orpcthis.version.major, orpcthis.version.minor)
