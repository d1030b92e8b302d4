"""The exporter of a client: its sinks are objects that servers call back. [MS-DCOM] 1.3.3, BLK-8

Every process may export. A client's objects are registered with its machine's resolver, which the servers ask where
they are, and ping as long as they hold them: what a server does for its clients, with the roles swapped. The exporter
listens where the server can reach it: on the address that this machine has towards the server, unless told otherwise.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final

from oxid.auth import AccountStore, Authenticator, FailureLimiter, ServerNames
from oxid.auth.accounts import MemoryAccountStore
from oxid.com.channel_link import ChannelLink, ChannelLinks
from oxid.com.local_messages import credentials_to_json
from oxid.com.object_server import ObjectServer
from oxid.com.options import CallbackOptions
from oxid.com.service_link import ServiceLink
from oxid.errors import OxidError, TransportError
from oxid.values.bindings import DualStringArray
from oxid.world import World

REFUSALS_KEPT: Final = 20


class CallbackExporter:
    """One exporter for all Machines of a loop that were given the same CallbackOptions."""

    def __init__(
        self, world: World, options: CallbackOptions, link: ServiceLink, links: ChannelLinks
    ) -> None:
        self.options = options
        self._world = world
        self._links = links
        self._channel_link = ChannelLink(world, link.period, name="callbacks")
        computer = socket.gethostname().partition(".")[0].upper()[:15] or "OXID"
        accounts: AccountStore = options.accounts or MemoryAccountStore()
        self._authenticator = Authenticator(
            accounts,
            world=world,
            names=ServerNames(computer=computer),
            keytab=options.keytab,
            limiter=FailureLimiter(),
        )
        self.objects: ObjectServer | None = None
        self.resolver_bindings = DualStringArray()
        self.refusals: deque[str] = deque(maxlen=REFUSALS_KEPT)
        """What callers were turned away for, the latest last: why a way back may not exist."""
        self._opening = asyncio.Lock()
        self._reached: set[str] = set()

    async def open(self, address: str) -> ObjectServer:
        """See that servers reach this process at `address`. Raises OxidError."""
        options = self.options
        async with self._opening:
            if self.objects is None:
                await self._links.add(self._channel_link)
                self.objects = ObjectServer(
                    self._world,
                    self._channel_link,
                    self._authenticator,
                    oxid=self._channel_link.oxid,
                    allow_anonymous=options.allow_anonymous,
                    minimum_level=options.minimum_level,
                    advertise=options.advertise,
                )
                self.objects.server.core.on_refusal = self.refusals.append
                self._channel_link.serve(self.objects)
            host = options.host or address
            if host not in self._reached:
                await self.objects.listen(host, options.ports)
                await self._listen_at_resolver(host)
                await self._channel_link.publish()
                self._reached.add(host)
        return self.objects

    async def _listen_at_resolver(self, host: str) -> None:
        """The machine's resolver must be reachable where this exporter is, and know who may ping."""
        options = self.options
        listed = getattr(options.accounts, "list", None)
        accounts = [(a.name, a.nt_hash.hex()) for a in listed()] if listed is not None else []
        keytab = credentials_to_json(options.keytab)
        self.resolver_bindings = await self._channel_link.listen_at_resolver(
            host, options.resolver_port or 0, options.advertise, accounts, keytab
        )

    async def aclose(self) -> None:
        """End: servers that still hold objects here find them gone."""
        if self.objects is not None:
            try:
                await self._links.remove(self._channel_link)
            except (OxidError, TransportError):
                pass
            await self.objects.aclose()

    def __repr__(self) -> str:
        return f"<CallbackExporter {self.objects!r}>"
