"""The timer that the tunnels of a client share: there while one has a deadline, and there again for the next one."""

import asyncio

import pytest

from oxid.runtime.tunnel_client import _timers_of
from oxid.world import World


class Tunnel:
    bucket = None

    def expire(self, now):
        return None


@pytest.mark.req("RH-90", "SC-6")
def test_a_tunnel_that_is_opened_when_all_others_have_closed_is_looked_at_too():
    async def run():
        world = World.real()
        timers = _timers_of(asyncio.get_running_loop(), world, 0.5)
        now = world.clock.now()
        for later in (5.0, 10.0, 20.0):
            tunnel = Tunnel()
            timers.take().deadlines.put(tunnel, now + later)
            assert world.ledger.timer.live == 1
            timers.deadlines.drop(tunnel)
            timers.give_back()
            assert world.ledger.timer.live == 0
        timers.give_back()

    asyncio.run(run())
