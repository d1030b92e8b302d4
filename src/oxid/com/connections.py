"""The connections of one machine object: one per address and blanket, made at first use."""

from __future__ import annotations

import asyncio
from typing import Final

from oxid.auth.context import AuthType
from oxid.com.options import Blanket, ClientOptions
from oxid.errors import LocalProtocolError
from oxid.runtime.client import RpcConnection, connect
from oxid.world import World

_Key = tuple[str, int, Blanket]
_SWEEP_EVERY: Final = 64


class Connections:
    """Owns its connections; `aclose` ends them. Identities never share one."""

    def __init__(self, world: World, options: ClientOptions) -> None:
        self._world = world
        self._options = options
        self._made: dict[_Key, RpcConnection] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._closed = False

    async def connection(self, host: str, port: int, blanket: Blanket) -> RpcConnection:
        """The connection to an address under a blanket. Raises TransportError."""
        key = (host, port, blanket)
        found = self._made.get(key)
        if found is not None and found.lost is None:
            return found
        if self._closed:
            raise LocalProtocolError("the machine is closed")
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._made.get(key)
            if found is not None and found.lost is None:
                return found
            made = await connect(
                host,
                port,
                world=self._world,
                credentials=blanket.credentials,
                level=blanket.level,
                auth_type=blanket.auth_type or AuthType.SPNEGO,
                target=blanket.target_name or None,
                timeout=self._options.connect_timeout,
                call_timeout=self._options.call_timeout,
            )
            if self._closed:
                await made.aclose()
                raise LocalProtocolError("the machine is closed")
            if len(self._made) % _SWEEP_EVERY == _SWEEP_EVERY - 1:
                self._forget_lost()
            self._made[key] = made
            return made

    def _forget_lost(self) -> None:
        for key in [key for key, made in self._made.items() if made.lost is not None]:
            del self._made[key]
            self._locks.pop(key, None)

    async def aclose(self) -> None:
        """Close all; may be called twice."""
        self._closed = True
        made, self._made = list(self._made.values()), {}
        for connection in made:
            await connection.aclose()

    def __repr__(self) -> str:
        return f"<Connections {len(self._made)} open>"
