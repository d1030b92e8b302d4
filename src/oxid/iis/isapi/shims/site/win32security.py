"""Stand-in for pywin32's `win32security`: a thread may wear a token that the server gave."""

from __future__ import annotations

from typing import Any

from pywintypes import error

from oxid.iis.isapi.tokens import ImpersonationToken, set_thread_token

__all__ = ["RevertToSelf", "SetThreadToken", "error"]


def SetThreadToken(thread: Any, token: Any) -> None:
    """This thread acts for the token's principal; None: for itself again."""
    if thread is not None:
        raise error(50, "SetThreadToken", "The request is not supported.")
    if token is not None and not isinstance(token, ImpersonationToken):
        raise error(6, "SetThreadToken", "The handle is invalid.")
    set_thread_token(token)


def RevertToSelf() -> None:
    """This thread acts for itself again."""
    set_thread_token(None)
