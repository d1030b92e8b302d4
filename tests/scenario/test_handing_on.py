"""References that travel from client to client: nobody gives away what he goes on using. Scenario B9"""

import asyncio

import pytest
from tests.support.lifetimes import CLSID_PROBE, USER, IProbe, Probe, T, play

from oxid.com.objref import decode_objref


@pytest.mark.req("B9", "J1")
def test_who_hands_a_reference_on_and_goes_on_calling_keeps_one_himself(tmp_path):
    """With the last reference gone along, the release by its receiver would be the end of the object."""

    async def story(server, client):
        async with client.process(server, USER) as first, client.process(server, USER) as second:
            probe = await first.activate(CLSID_PROBE, IProbe)
            counts = []
            for _ in range(12):
                objref = first.marshal(probe)
                counts.append(decode_objref(objref).std.public_refs)
                again = second.proxy(objref, IProbe)
                await second.adopt([again])
                assert await again.whoami() == "alice at 6"
                await again.release()
            assert counts[0] == 1
            assert counts[-1] == 0  # its receiver has to ask for references of his own
            await asyncio.sleep(2 * T)
            assert await probe.whoami() == "alice at 6"
            await probe.release()
            assert Probe.alive() == 0

    play(tmp_path, story)


@pytest.mark.req("B9")
def test_the_last_reference_of_a_proxy_that_is_released_at_once_goes_along(tmp_path):
    async def story(server, client):
        async with client.process(server, USER) as first, client.process(server, USER) as second:
            probe = await first.activate(CLSID_PROBE, IProbe)
            probe._pointer.refs, spare = 1, probe._pointer.refs - 1
            objref = first.marshal(probe, hand_over=True)
            assert decode_objref(objref).std.public_refs == 1
            await probe.release()
            again = second.proxy(objref, IProbe)
            await second.adopt([again])
            assert await again.whoami() == "alice at 6"
            again._pointer.refs += spare
            await again.release()
            assert Probe.alive() == 0

    play(tmp_path, story)
