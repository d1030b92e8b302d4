"""Any bytes whatever, into the live cores of both roles: an answer, a fault, a refusal or the end, nothing else.

pytest tests/fuzz                      200,000 cases; counts per PDU type and outcome behind the tests
pytest tests/fuzz --fuzz-cases 20000   fewer, or with --long ten times as many
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.fuzz.arena import CHECK_EVERY, Arena, Broken, kind_of
from tests.fuzz.clients import Step
from tests.fuzz.conftest import Account
from tests.fuzz.mutate import mutate
from tests.fuzz.strategies import conversations
from tests.fuzz.structured import Script, client_case, server_case

from oxid.rpc import pdu

CORPUS = Path(__file__).parent / "corpus"
BATCH = 200
"""Cases in one example of hypothesis, whose own work is per example."""
DRAWN = 40
"""Bytes drawn for one case."""
COMPOSED_BATCH = 25
MUTATED, DRAWN_SHARE, COMPOSED = 0.5, 0.45, 0.05

pytestmark = [pytest.mark.req("PDU-2", "PDU-6", "rpce§8"), pytest.mark.limit(1800)]


def fight(state: Path, rounds: Callable[[Arena], None], turns: int, account: Account) -> None:
    """Turn `rounds` so often, and see after each that everything else still works."""

    async def story() -> None:
        async with Arena(state) as arena:
            for _ in range(turns):
                rounds(arena)
                await arena.check()
            await arena.renew()
            account.close(arena)

    asyncio.run(story())


def test_recorded_sessions_changed_in_every_way(cases: int, tmp_path: Path, account: Account) -> None:
    rng = random.Random(20_261)
    turns = max(1, int(cases * MUTATED) // CHECK_EVERY)

    def some(arena: Arena) -> None:
        for number in range(CHECK_EVERY):
            if number % 3:
                _, core, pieces = rng.choice(arena.requests)
                changed, first = mutate(rng, pieces, arena.from_clients)
                first = min(first, len(changed) - 1)
                anonymous = rng.random() < 0.8
                arena.to_server(core, changed, kind_of(changed[first]), anonymous=anonymous, intact=first)
            else:
                session = rng.choice(arena.sessions)
                links = [step.link for step in session.answers]
                changed, first = mutate(rng, [step.data for step in session.answers], arena.from_servers)
                first = min(first, len(changed) - 1)
                steps = [Step(links[min(i, len(links) - 1)], data) for i, data in enumerate(changed)]
                arena.to_client(session, steps, kind_of(changed[first]))

    fight(tmp_path, some, turns, account)


def test_made_pdus_inside_recorded_sessions(cases: int, tmp_path: Path, account: Account) -> None:
    examples = CHECK_EVERY // BATCH
    turns = max(1, int(cases * DRAWN_SHARE) // (examples * BATCH))
    following = iter(range(turns))

    def some(arena: Arena) -> None:
        @hypothesis.seed(next(following))
        @_settings(examples)
        @given(st.binary(min_size=BATCH * DRAWN, max_size=BATCH * DRAWN))
        def batch(drawn: bytes) -> None:
            for at in range(0, len(drawn), DRAWN):
                script = Script(drawn[at : at + DRAWN])
                if script.byte() % 3:
                    made = server_case(script, arena)
                    kind = kind_of(made.pieces[made.intact])
                    arena.to_server(
                        made.core, made.pieces, kind, anonymous=made.anonymous, intact=made.intact
                    )
                else:
                    told = client_case(script, arena)
                    arena.to_client(told.session, told.steps, kind_of(told.steps[told.intact].data))

        batch()

    fight(tmp_path, some, turns, account)


def test_composed_conversations(cases: int, tmp_path: Path, account: Account) -> None:
    """Slower to draw, and free of what sessions look like: raw bytes, and PDUs of all types in any order."""
    examples = CHECK_EVERY // COMPOSED_BATCH
    turns = max(1, int(cases * COMPOSED) // (examples * COMPOSED_BATCH))
    following = iter(range(turns))

    def some(arena: Arena) -> None:
        @hypothesis.seed(next(following))
        @_settings(examples)
        @given(
            st.lists(
                st.tuples(st.integers(0, 255), conversations),
                min_size=COMPOSED_BATCH,
                max_size=COMPOSED_BATCH,
            )
        )
        def batch(drawn: list[tuple[int, list[bytes]]]) -> None:
            for choice, pieces in drawn:
                if choice % 3:
                    _, core, recorded = arena.requests[choice % len(arena.requests)]
                    intact = choice & 1  # in front of the bind, or behind it
                    arena.to_server(core, [*recorded[:intact], *pieces], kind_of(pieces[0]), intact=intact)
                else:
                    session = arena.sessions[choice % len(arena.sessions)]
                    intact = choice & 1
                    steps = [*session.answers[:intact], *(Step(0, piece) for piece in pieces)]
                    arena.to_client(session, steps, kind_of(pieces[0]))

        batch()

    fight(tmp_path, some, turns, account)


def _settings(examples: int) -> settings:
    # Not shrunk: the bytes of a case are in the message, and a core that broke is no ground for more.
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.json")), ids=lambda file: file.stem)
def test_what_once_broke_does_so_no_more(file: Path, tmp_path: Path, account: Account) -> None:
    case = json.loads(file.read_text(encoding="utf-8"))
    role, _, name = case["where"].partition(" ")
    pieces = [bytes.fromhex(piece) for piece in case["pieces"]]

    def some(arena: Arena) -> None:
        if role == "server":
            for anonymous in (True, False):
                arena.to_server(name, pieces, "corpus", anonymous=anonymous)
        else:
            session = next(session for session in arena.sessions if session.name == name)
            links = case.get("links") or [0] * len(pieces)
            arena.to_client(session, [Step(*pair) for pair in zip(links, pieces, strict=True)], "corpus")

    fight(tmp_path, some, 1, account)


def test_the_guard_sees_an_exception_that_nobody_expected(
    tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise struct.error("planted")

    def some(arena: Arena) -> None:
        session = arena.sessions[0]
        fault = pdu.fault_pdu(2, 0, 5, executed=True)
        steps = [session.answers[0], Step(0, bytes(fault))]
        assert arena.to_client(session, steps, "fault") == "fault"
        monkeypatch.setattr(pdu, "parse_fault", broken)
        with pytest.raises(Broken, match="planted"):
            arena.to_client(session, steps, "fault")
        _, core, pieces = arena.requests[0]
        monkeypatch.setattr(pdu, "parse_bind", broken)
        with pytest.raises(Broken, match="planted"):
            arena.to_server(core, pieces, "bind")
        monkeypatch.undo()

    with pytest.raises(Broken, match=r"bystander|left behind|outlived"):
        fight(tmp_path, some, 1, account)
