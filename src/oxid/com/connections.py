"""The connections of one machine object: leased per address and blanket from a pool of its own."""

from __future__ import annotations

from oxid.auth.context import AuthType, Impersonation
from oxid.com.options import Blanket, ClientOptions
from oxid.runtime.client import RpcConnection
from oxid.runtime.dispatch import Threads
from oxid.runtime.pool import ConnectionPool, Pooled
from oxid.world import World


class Connections:
    """Owns its connections; `aclose` ends them. Identities never share one."""

    def __init__(self, world: World, options: ClientOptions) -> None:
        self._options = options
        self._pool = ConnectionPool(world, idle_s=options.idle_timeout)
        self._threads = Threads(4)  # for handshakes that block (Kerberos); made at the first one

    def use(self, host: str, port: int, blanket: Blanket) -> Using:
        """A connection for a while; it stays open for a time after its last use. Raises TransportError."""
        return Using(self, host, port, blanket)

    async def lease(self, host: str, port: int, blanket: Blanket) -> Pooled:
        """The same until `give_back`: for those that hold one as long as something else lives."""
        key = host, port, blanket
        found = self._pool.take(key)
        if found is not None:
            return found
        options = {
            "credentials": blanket.credentials,
            "level": blanket.level,
            "auth_type": blanket.auth_type or AuthType.SPNEGO,
            "target": blanket.target_name or None,
            "identify": blanket.impersonation <= Impersonation.IDENTIFY,
            "delegate": blanket.impersonation is Impersonation.DELEGATE,
            "timeout": self._options.connect_timeout,
            "call_timeout": self._options.call_timeout,
            "threads": self._threads,
            "proxy": self._options.proxy,
        }
        return await self._pool.lease(key, host, port, options)

    def give_back(self, leased: Pooled) -> None:
        """End one lease."""
        self._pool.give_back(leased)

    async def aclose(self) -> None:
        """Close all, also those in use; may be called twice."""
        await self._pool.aclose()
        self._threads.close()

    def __repr__(self) -> str:
        return f"<Connections {self._pool!r}>"


class Using:
    """`async with connections.use(...) as connection`."""

    __slots__ = ("_blanket", "_connections", "_host", "_leased", "_port")

    def __init__(self, connections: Connections, host: str, port: int, blanket: Blanket) -> None:
        self._connections = connections
        self._host, self._port, self._blanket = host, port, blanket
        self._leased: Pooled | None = None

    async def __aenter__(self) -> RpcConnection:
        leased = self._leased = await self._connections.lease(self._host, self._port, self._blanket)
        return leased.connection

    async def __aexit__(self, *exc_info: object) -> None:
        leased, self._leased = self._leased, None
        if leased is not None:
            self._connections.give_back(leased)


class Lease:
    """One connection held for as long as something needs it; replaced when it is lost."""

    __slots__ = ("_connections", "_leased")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._leased: Pooled | None = None

    @property
    def usable(self) -> bool:
        return self._leased is not None and self._leased.usable

    @property
    def connection(self) -> RpcConnection | None:
        return None if self._leased is None else self._leased.connection

    async def take(self, host: str, port: int, blanket: Blanket) -> RpcConnection:
        """Hold this connection from now on, instead of any other. Raises TransportError."""
        leased = await self._connections.lease(host, port, blanket)
        self.give_back()
        self._leased = leased
        return leased.connection

    def give_back(self) -> None:
        """Hold nothing; may be called twice."""
        leased, self._leased = self._leased, None
        if leased is not None:
            self._connections.give_back(leased)
