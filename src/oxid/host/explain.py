"""Why does this object live, or why did it die: a host's answer to `oxid why`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oxid.rpcss.machine_service import MachineService


async def explain(service: MachineService, oid: int) -> Mapping[str, Any]:
    """The flight record of an object: what it is now, and what happened to it, with times in seconds since 1970."""
    events = await service.events_of(oid)
    clock = service.world.clock
    to_utc = clock.utc() - clock.now()
    state = service.resolver.state_of(oid)
    return {
        "oid": oid,
        "known": events is not None,
        "lives": state is not None,
        **(state or {}),
        "events": [
            {"at": event.at + to_utc, "kind": event.kind.name.lower(), "text": str(event), "who": event.who}
            for event in events or ()
        ],
    }
