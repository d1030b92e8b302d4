"""The accounts of a host, for a local server that may not read them because it runs as another user.

The server hands what a caller has sent to its host, which says who it is and what the session key is, or nothing:
no hash of a password leaves the host. [MS-APDS] 3.1.5 does the same between machines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoAnswer
from typing import Final

from oxid.auth import Account
from oxid.errors import OxidError, TransportError
from oxid.runtime.local_channel import LocalChannel

LOGON_S: Final = 10.0
"""For a host to judge one caller."""


class RemoteAccounts:
    """An AccountStore that asks; its `logon` waits, and is called in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Callable[[], LocalChannel | None]) -> None:
        self._loop = loop
        self._channel = channel

    def find(self, name: str) -> Account | None:
        """No account can be had here; Kerberos callers keep the names of their tickets."""
        return None

    def logon(
        self, domain: str, user: str, server_challenge: bytes, response: bytes
    ) -> tuple[Account, bytes] | None:
        """Whose password made an NTLMv2 response, and its session key; None for a wrong one.

        Raises TransportError where the host does not answer.
        """
        asking = asyncio.run_coroutine_threadsafe(
            self._ask(domain, user, server_challenge, response), self._loop
        )
        try:
            return asking.result(LOGON_S)
        except (NoAnswer, OxidError) as error:
            asking.cancel()
            raise TransportError(f"the host does not say who {user} is: {error or 'no answer'}") from error

    async def _ask(
        self, domain: str, user: str, server_challenge: bytes, response: bytes
    ) -> tuple[Account, bytes] | None:
        channel = self._channel()
        if channel is None:
            raise TransportError("the host is gone")
        answer = await channel.ask(
            "logon", domain=domain, user=user, challenge=server_challenge.hex(), response=response.hex()
        )
        if not answer:
            return None
        account = Account(str(answer["name"]), bytes(16), bool(answer["admin"]))
        return account, bytes.fromhex(answer["key"])
