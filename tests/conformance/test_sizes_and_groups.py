"""What a bind settles for a connection, as raw bytes: fragment sizes and association groups.

The answers are those of Windows Server as Samba's raw_protocol.py recorded them, or of [MS-RPCE] where a
test names its section.
"""

from __future__ import annotations

import pytest
from tests.conformance.wire import (
    ACCEPTED,
    DID_NOT_EXECUTE,
    ECHO,
    LAST,
    NDR20,
    PROBE,
    PROTO_ERROR,
    UNKNOWN_IF,
    WHOLE,
    ZERO,
    Wire,
    alter,
    arena,
    bind,
    check_fault,
    check_nak,
    element,
    feature,
    request,
    story,
)

PLAIN = element(0, PROBE, NDR20)


# -- Fragment sizes ------------------------------------------------------------------------------------------


@pytest.mark.req("BND-7")
@pytest.mark.parametrize(
    ("xmit", "recv", "agreed"),
    [
        (0xFFFF, 0xFFFF, 5840),
        (0x0000, 0xFFFF, 2048),
        (0xFFFF, 0x0000, 2048),
        (0x0000, 0x0000, 2048),
        (3199, 0, 2048),
        (0, 3199, 2048),
        (3199, 0xFFFF, 3192),
        (0xFFFF, 3199, 3192),
        (5840, 5840, 5840),
    ],
)
def test_negotiated_fragment_sizes(xmit: int, recv: int, agreed: int) -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            ack = await wire.ask(bind(PLAIN, xmit=xmit, recv=recv))
            assert ack.sizes == (agreed, agreed)
            # alter_context: sizes and group are ignored, and the old ones repeated
            answer = await wire.ask(
                alter(PLAIN, xmit=agreed - 8, recv=agreed - 8, group=0xFFFF_FFFF - ack.group)
            )
            assert (answer.sizes, answer.group) == ((agreed, agreed), ack.group)
            # answers keep to what was agreed ...
            await wire.send(request((10_000).to_bytes(4, "little"), opnum=5, call_id=3))
            got = 0
            while True:
                fragment = await wire.pdu()
                assert fragment is not None
                assert len(fragment.raw) <= agreed
                got += len(fragment.stub)
                if fragment.flags & LAST:
                    break
            assert got == 10_000
            # ... requests to what the transport takes
            for call_id, size in ((4, agreed), (5, 5840)):
                answer = await wire.ask(request(bytes(size - 24), hint=0xFFFF_FFFF, call_id=call_id, opnum=3))
                assert answer.call_id == call_id
                assert answer.ptype == 2
            answer = await wire.ask(request(bytes(5840 - 24 + 1), hint=0xFFFF_FFFF, call_id=6))
            check_fault(answer, PROTO_ERROR, 6)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-7")
def test_large_fragments_are_agreed_by_the_private_feature_bits_only() -> None:
    async def told() -> None:
        async with arena() as there:
            private = 0x4F58 << 48
            wire = await there.connect()
            ack = await wire.ask(
                bind(PLAIN, element(1, PROBE, feature(private | 3)), xmit=0xFFF8, recv=0xFFF8)
            )
            assert ack.results == [ACCEPTED, (3, 0x8003, ZERO)]
            assert ack.sizes == (65_528, 65_528)
            stub = bytes(range(256)) * 250
            answer = await wire.ask(request(stub))
            assert answer.stub == stub
            other = await there.connect()
            ack = await other.ask(
                bind(PLAIN, element(1, PROBE, feature(0xFFFF << 48)), xmit=0xFFF8, recv=0xFFF8)
            )
            assert (ack.results[1], ack.sizes) == ((3, 0, ZERO), (5840, 5840))

    story(told)


# -- Association groups --------------------------------------------------------------------------------------


@pytest.mark.req("BND-9")
def test_groups_that_nobody_has_are_refused() -> None:
    async def told() -> None:
        async with arena() as there:
            wire = await there.connect()
            check_nak(await wire.ask(bind(PLAIN, group=1)), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-9")
def test_a_group_near_one_that_exists_is_refused() -> None:
    async def told() -> None:
        async with arena() as there:
            first = await there.bound()
            wire = await there.connect()
            check_nak(await wire.ask(bind(PLAIN, group=(first.group + 1) & 0xFFFF_FFFF or 1)), 0)
            await wire.gone()
            await first.echoes()

    story(told)


@pytest.mark.req("BND-9")
def test_every_bind_without_a_group_gets_its_own() -> None:
    async def told() -> None:
        async with arena() as there:
            assert len({(await there.bound()).group for _ in range(5)}) == 5

    story(told)


@pytest.mark.req("BND-9", "REQ-1")
def test_contexts_belong_to_their_connection_not_to_the_group() -> None:
    async def told() -> None:
        async with arena() as there:
            first = await there.bound(element(0, PROBE, NDR20))
            second = await there.bound(element(1, ECHO, NDR20), group=first.group)
            assert second.group == first.group
            check_fault(await second.ask(request(context_id=0)), UNKNOWN_IF, 2, flags=WHOLE | DID_NOT_EXECUTE)
            await first.echoes()
            answer = await second.ask(request(bytes.fromhex("01000000"), context_id=1, call_id=3))
            assert answer.stub == bytes.fromhex("02000000")

    story(told)


@pytest.mark.req("BND-9")
def test_a_group_outlives_the_connection_that_began_it() -> None:
    async def told() -> None:
        async with arena() as there:
            first = await there.bound()
            second = await there.bound(group=first.group)
            await hang_up(first)
            third = await there.bound(group=second.group)
            assert third.group == first.group
            await third.echoes()

    story(told)


@pytest.mark.req("BND-9")
def test_a_group_ends_with_its_last_connection() -> None:
    async def told() -> None:
        async with arena() as there:
            first = await there.bound()
            second = await there.bound(group=first.group)
            await hang_up(first)
            await hang_up(second)
            wire = await there.connect()
            check_nak(await wire.ask(bind(PLAIN, group=first.group)), 0)
            await wire.gone()

    story(told)


@pytest.mark.req("BND-9")
def test_another_address_cannot_join_a_group() -> None:
    async def told() -> None:
        async with arena() as there:
            first = await there.bound()
            wire = await there.connect("127.0.0.2")
            check_nak(await wire.ask(bind(PLAIN, group=first.group)), 0)
            await wire.gone()

    story(told)


async def hang_up(wire: Wire) -> None:
    """Close, and wait until the server knows."""
    wire.writer.write_eof()
    await wire.gone()
