"""Why a server cannot call back: which of name, port, firewall or permission stands in between. BLK-8

reason = reason_of(error)                 at the server: from what its own attempt met
await diagnose(error, exporter)           at the client: from what the server said, and what arrived here
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from oxid.errors import AccessDenied, AuthenticationError, CallbackFailed, OxidError, StatusError
from oxid.values import status as s
from oxid.values.bindings import NCACN_IP_TCP, DualStringArray

if TYPE_CHECKING:
    from oxid.com.callback_exporter import CallbackExporter

NAME: Final = "name"
PORT: Final = "port"
FIREWALL: Final = "firewall"
PERMISSION: Final = "permission"
REASONS: Final = (NAME, PORT, FIREWALL, PERMISSION)

REMEDIES: Final = {
    NAME: "give the server a name or address of this machine that it can look up (CallbackOptions.advertise)",
    PORT: "nothing listens there: forward the port to this machine, or give the right one (CallbackOptions.ports)",
    FIREWALL: "let the server connect to this port, or fix the port and open it (CallbackOptions.ports)",
    PERMISSION: "give the account as which the server calls (CallbackOptions.accounts), or let anybody in "
    "(CallbackOptions.allow_anonymous)",
}
_SELF_TEST_S: Final = 3.0
_UNREACHABLE: Final = {
    0x8007_0000 | s.RPC_S_SERVER_UNAVAILABLE,
    0x8007_0000 | s.RPC_S_CALL_FAILED,
    0x8007_0000 | s.RPC_S_CALL_FAILED_DNE,
    s.CONNECT_E_CANNOTCONNECT,
}


def reason_of(error: BaseException) -> str | None:
    """Which of the four an error of an attempt to call means; None where it is none of them."""
    seen: list[BaseException] = [error]
    for found in seen:
        if isinstance(found, AccessDenied | AuthenticationError):
            return PERMISSION
        if isinstance(found, socket.gaierror | UnicodeError):
            return NAME
        if isinstance(found, OSError) and found.errno == errno.ECONNREFUSED:
            return PORT
        if isinstance(found, TimeoutError) or (
            isinstance(found, OSError)
            and found.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)
        ):
            return FIREWALL
        seen += [cause for cause in (found.__cause__, found.__context__) if cause is not None]
        if isinstance(found, BaseExceptionGroup):
            seen += found.exceptions
    return None


def said(reason: str, detail: str) -> str:
    """What a server says about it, in the description of its error; `heard` reads it."""
    return f"no way back to the sink ({reason}): {detail}"


def heard(error: StatusError) -> str | None:
    """The reason that an oxid server has said."""
    text = error.info.description if error.info is not None else ""
    for reason in REASONS:
        if text.startswith(f"no way back to the sink ({reason})"):
            return reason
    return None


async def diagnose(error: OxidError, exporter: CallbackExporter | None, before: Arrivals | None) -> OxidError:
    """The error of a refused sink as one that says what stands in between; others come back as they are."""
    if not isinstance(error, StatusError) or exporter is None or exporter.objects is None:
        return error
    reason, detail = heard(error), error.info.description if error.info is not None else str(error)
    if reason is None:
        if error.status.code == s.E_ACCESSDENIED:
            reason = PERMISSION
        elif error.status.code not in _UNREACHABLE:
            return error
        now = Arrivals.of(exporter)
        if before is not None and now.refusals > before.refusals:
            reason, detail = PERMISSION, exporter.refusals[-1]
        if reason is None:
            reason, detail = await _self_test(exporter)
    places = ", ".join(str(binding) for binding in exporter.objects.bindings().strings)
    failed = CallbackFailed(
        error.status, f"the server cannot call back to {places} ({reason}): {detail}", origin=error.origin
    )
    failed.reason = reason
    failed.remedy = REMEDIES[reason]
    if reason == PERMISSION and exporter.refusals:
        failed.remedy = f"{failed.remedy}; refused here: {exporter.refusals[-1]}"
    return failed


class Arrivals:
    """What has reached this process so far."""

    __slots__ = ("refusals",)

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    @classmethod
    def of(cls, exporter: CallbackExporter) -> Arrivals:
        objects = exporter.objects
        return cls(0 if objects is None else objects.server.core.refusals)


async def _self_test(exporter: CallbackExporter) -> tuple[str, str]:
    """Try from here what the server was told: a name that nobody can look up, a port where nothing listens."""
    assert exporter.objects is not None
    places = [*_places(exporter.resolver_bindings), *_places(exporter.objects.bindings())]
    loop = asyncio.get_running_loop()
    for host, port in dict.fromkeys(places):
        try:
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return NAME, f"{host} cannot be looked up"
        try:
            async with asyncio.timeout(_SELF_TEST_S):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return FIREWALL, f"{host}:{port} does not answer, not even from here"
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return PORT, f"nothing listens at {host}:{port}, tried from here"
            return FIREWALL, f"{host}:{port} cannot be reached from here: {error.strerror}"
        writer.close()
    listed = ", ".join(f"{host}:{port}" for host, port in dict.fromkeys(places))
    return FIREWALL, f"{listed} can be reached from here, and the server could not"


def _places(bindings: DualStringArray) -> list[tuple[str, int]]:
    return [
        (b.host, int(b.endpoint or 135)) for b in bindings.strings if b.tower_id == NCACN_IP_TCP and b.host
    ]
