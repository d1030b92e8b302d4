"""Impersonation tokens: who a request is for, as an opaque handle that a thread can wear. IS-63

Linux has no thread tokens. A token names the authenticated principal; `set_thread_token` binds it to the thread (and
to what is copied from its context), `current_token` reads it. No rights change with it.
"""

from __future__ import annotations

from contextvars import ContextVar
from itertools import count
from typing import Any, Final

_numbers: Final = count(0x1000, 4)
_current: ContextVar[ImpersonationToken | None] = ContextVar("oxid_isapi_token", default=None)


class ImpersonationToken:
    """A principal. `int(token)` is a number that means nothing."""

    __slots__ = ("auth_type", "handle", "name")

    def __init__(self, user: Any) -> None:
        self.name = "" if user is None else str(user.name)
        """Empty for anonymous callers."""
        self.auth_type = "" if user is None else str(user.auth_type)
        self.handle = next(_numbers)

    def __int__(self) -> int:
        return self.handle

    __index__ = __int__

    def Close(self) -> None:
        """The host owns tokens; this does nothing."""

    def __repr__(self) -> str:
        return f"<ImpersonationToken {self.name or 'anonymous'}>"


def set_thread_token(token: ImpersonationToken | None) -> None:
    """The thread acts for this principal from now on; None: for itself."""
    _current.set(token)


def current_token() -> ImpersonationToken | None:
    """Whom the thread acts for."""
    return _current.get()
