"""How a ping travels: to the address of its resolver that answered last. [MS-DCOM] 3.2.6.1"""

from __future__ import annotations

from oxid.com.connections import Connections
from oxid.com.options import Blanket
from oxid.com.ping_agent import Place
from oxid.com.ping_client import Ping
from oxid.errors import AccessDenied, AuthenticationError, OxidError, ServerUnavailable
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.values import status as s
from oxid.values.status import Win32


class Pinger:
    """Sends pings; remembers which address of a resolver is the one to begin with."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._first: dict[tuple[Place, ...], int] = {}

    async def send(self, places: tuple[Place, ...], blanket: Blanket, ping: Ping) -> tuple[int, int]:
        """Send one ping to the first address that answers: (status, SETID). Raises the last failure.

        A refusal is an answer. An address that takes longer than the agent waits is not the first to be tried at
        the next tick.
        """
        failure: Exception = ServerUnavailable(Win32(s.RPC_S_SERVER_UNAVAILABLE), "no address")
        first = self._first.pop(places, 0)
        for index in (*range(first, len(places)), *range(first)):
            # Where this attempt is cancelled, the next ping begins behind it.
            self._first[places] = (index + 1) % len(places)
            try:
                answer = await self._send_to(places[index], blanket, ping)
            except (AccessDenied, AuthenticationError):
                self._first[places] = index
                raise
            except (OxidError, OSError, TimeoutError, UnicodeError) as error:
                failure = error
                continue
            if index:
                self._first[places] = index
            else:
                self._first.pop(places, None)
            return answer
        raise failure

    async def _send_to(self, place: Place, blanket: Blanket, ping: Ping) -> tuple[int, int]:
        async with self._pool.use(*place, blanket) as connection:
            resolver: IObjectExporter = await connection.proxy(IObjectExporter)
            if ping.simple:
                return await resolver.simple_ping(ping.set_id), ping.set_id
            reply = await resolver.complex_ping(
                ping.set_id, ping.sequence or 0, list(ping.add) or None, list(ping.remove) or None
            )
            return reply.status, reply.set_id
