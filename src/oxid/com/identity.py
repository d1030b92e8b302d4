"""Who acts: the identity under which calls are made where their blanket leaves it open. [MS-DCOM] 3.2.4.2

    with acting_as(Password("alice", "secret")): ...      explicit, for the calls of this task
    with impersonate(): ...                               within a method, as whoever calls it

What COM calls cloaking: a proxy with static cloaking takes the identity that acts at its first call, one with
dynamic cloaking that of each call; without cloaking it is always the machine's own credentials. On Linux an
identity is a credentials object in a context variable; threads and operating system users have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from oxid.auth.context import Impersonation
from oxid.auth.credentials import Credentials
from oxid.errors import error_for, hresult
from oxid.runtime.dispatch import current_call
from oxid.values.status import E_INVALIDARG, RPC_E_UNSECURE_CALL, HResult


class _Nobody:
    """No identity acts beside the machine's own."""


NOBODY: Final = _Nobody()
_acting: ContextVar[Credentials | _Nobody | None] = ContextVar("oxid_acting_identity", default=NOBODY)
acting: Final = _acting.get


@contextmanager
def acting_as(credentials: Credentials | None) -> Iterator[None]:
    """Let cloaked proxies call as `credentials` within the block; None for unauthenticated calls. Blocks nest."""
    if credentials is not None and not hasattr(credentials, "__dataclass_fields__"):
        raise hresult(E_INVALIDARG, f"{type(credentials).__name__} is no credentials object")
    token = _acting.set(credentials)
    try:
        yield
    finally:
        _acting.reset(token)


def identity_for(default: Credentials | None) -> Credentials | None:
    """The identity that acts now, or `default` where none does."""
    found = _acting.get()
    return default if isinstance(found, _Nobody) else found


@contextmanager
def impersonate() -> Iterator[str]:
    """Within a method: act as its caller until the block ends; gives the name. IServerSecurity::ImpersonateClient

    A caller proves who he is and hands over nothing with which we could prove the same to others: calls of cloaked
    proxies that we make to other machines meanwhile are unauthenticated, as on Windows without delegation. Blocks
    nest. Raises StatusError RPC_E_UNSECURE_CALL where the caller is nobody, or does not allow it.
    """
    call = current_call()
    principal, security = call.principal, call.security
    if principal is None or security is None:
        raise error_for(HResult(RPC_E_UNSECURE_CALL), "the caller is anonymous")
    if security.impersonation < Impersonation.IMPERSONATE:
        raise error_for(HResult(RPC_E_UNSECURE_CALL), f"{principal} lets himself be identified, and no more")
    with acting_as(None):
        yield principal
