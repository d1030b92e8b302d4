"""The connections of one machine object: leased per address and blanket from a pool of its own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

from oxid.auth.context import AuthType
from oxid.com.options import Blanket, ClientOptions
from oxid.rpc.pdu import MAX_CALL_ID
from oxid.runtime.client import RpcConnection
from oxid.runtime.dispatch import Threads
from oxid.runtime.pool import ConnectionPool
from oxid.world import World


class Connections:
    """Owns its connections; `aclose` ends them. Identities never share one."""

    def __init__(self, world: World, options: ClientOptions) -> None:
        self._options = options
        self._pool = ConnectionPool(world, idle_s=options.idle_timeout)
        self._threads = Threads(4)  # for handshakes that block (Kerberos); made at the first one

    def use(self, host: str, port: int, blanket: Blanket) -> AbstractAsyncContextManager[RpcConnection]:
        """A connection for a while; it stays open for a time after its last use. Raises TransportError."""
        return self._pool.connection(
            host,
            port,
            credentials=blanket.credentials,
            level=blanket.level,
            auth_type=blanket.auth_type or AuthType.SPNEGO,
            target=blanket.target_name or None,
            timeout=self._options.connect_timeout,
            call_timeout=self._options.call_timeout,
            threads=self._threads,
        )

    async def aclose(self) -> None:
        """Close all, also those in use; may be called twice."""
        await self._pool.aclose()
        self._threads.close()

    def __repr__(self) -> str:
        return f"<Connections {self._pool!r}>"


class Lease:
    """One connection held for as long as something needs it; replaced when it is lost."""

    __slots__ = ("_stack", "connection")

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.connection: RpcConnection | None = None

    @property
    def usable(self) -> bool:
        connection = self.connection
        return connection is not None and connection.lost is None and connection.last_call_id < MAX_CALL_ID

    async def take(self, using: AbstractAsyncContextManager[RpcConnection]) -> RpcConnection:
        """Hold this connection from now on, instead of any other."""
        connection = await using.__aenter__()
        await self.give_back()
        self._stack.push_async_exit(using)
        self.connection = connection
        return connection

    async def give_back(self) -> None:
        """Hold nothing; may be called twice."""
        self.connection = None
        await self._stack.aclose()
