"""RPC over HTTP against whatever anybody sends: every role alone, whole worlds, and the web server before it. AB-30

pytest tests/fuzz/test_fuzz_tunnels.py            some thousand cases, counts per role and outcome behind the tests
pytest tests/fuzz/test_fuzz_tunnels.py --long     two hundred times as many

A case is known by its seed: the message of one that breaks says which.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from tests.fuzz.conftest import Tables
from tests.fuzz.tunnels import SMALL, Event, Session, marked, record_all
from tests.fuzz.tunnels_attack import attack
from tests.fuzz.tunnels_heads import KINDS, PASSWORDS, head
from tests.fuzz.tunnels_mutate import CHANGES, is_rts, mutate
from tests.fuzz.tunnels_replay import OUTCOMES, Broken, FuzzWorld
from tests.fuzz.tunnels_roles import bench_for
from tests.fuzz.tunnels_web import WebArena

from oxid.http.errors import BadRequest
from oxid.http.heads import KNOWN, RequestHead, parse_request, read_with_h11, read_with_llhttp
from oxid.testing.virtual_loop import run_virtual
from oxid.tunnel import in_proxy, rts
from oxid.tunnel.proxy_channel import ProxyChannel
from oxid.tunnel.proxy_table import ProxyTable
from oxid.tunnel.windows import ReceiveWindow

pytestmark = [pytest.mark.req("AB-30"), pytest.mark.limit(7200)]

SLOWEST_S = 1.0
LONGER = 200
"""So many times more cases with --long."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Refusals are logged, and here there are thousands; only errors matter."""
    logger = logging.getLogger("oxid.tunnel")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def cuts_of(rng: random.Random) -> Callable[[int], int] | None:
    """Into which pieces a case's bytes are cut; None for none."""
    if rng.random() < 0.75:
        return None
    return lambda size: rng.choice((1, 7, 16, 17, 60, size, size, size))


def replay(number: int, fuzz: FuzzWorld, sessions: tuple[Session, ...]) -> tuple[str, str, str]:
    """One case: its role, the kind of what was changed first, and what became of it."""
    rng = random.Random(number)
    session = sessions[number % len(sessions)]
    events, touched = mutate(rng, session)
    cuts = cuts_of(rng)
    begun = time.process_time()
    try:
        bench = bench_for(session, fuzz)
        for event in events:
            bench.hear(event, cuts)
        outcome = bench.finish(rng)
        spent = time.process_time() - begun
        if spent > SLOWEST_S:
            raise Broken(f"took {spent:.1f} s")
    except Exception as error:
        raise Broken(f"replay({number}), {session.name}: {type(error).__name__}: {error}") from error
    role = session.roles().get(events[touched].link, session.party)
    return role, kind_of(events[touched]), outcome


def kind_of(event: Event) -> str:
    """What was changed: the kind of PDU, or of event."""
    if event.what != "bytes":
        return event.what
    if not is_rts(event.data):
        return "RPC PDU"
    try:
        return rts.parse(event.data).kind.name
    except Exception:
        return "broken RTS"


# Every role alone -----------------------------------------------------------------------------------------


@pytest.mark.req("RH-101", "RH-73", "RH-75", "RH-110", "AB-4", "AB-5", "AB-6", "AB-7", "AB-9")
def test_recorded_sessions_changed_in_every_way_against_every_role(long_form: bool, tables: Tables) -> None:
    sessions = record_all()
    fuzz = FuzzWorld()
    tally: Counter[tuple[str, str, str]] = Counter()
    cases = 2000 * (LONGER if long_form else 1)
    begun = time.perf_counter()
    for number in range(cases):
        tally[replay(number, fuzz, sessions)] += 1
    roles = sorted({role for role, _, _ in tally})
    assert roles == ["client", "in-proxy", "out-proxy", "server"]
    lines = [f"{cases:,} cases in {time.perf_counter() - begun:.1f} s"]
    if long_form:
        for role in roles:
            lines += table_of(role, {key[1:]: count for key, count in tally.items() if key[0] == role})
    else:
        sums: Counter[tuple[str, str]] = Counter()
        for (role, _, outcome), count in tally.items():
            sums[role, outcome] += count
        lines += table_of("role", sums)
    tables.add("fuzz of tunnels: who heard what was changed, and what became of it", lines)


def table_of(title: str, counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Rows by kind, columns by outcome."""
    outcomes = [outcome for outcome in OUTCOMES if any(key[1] == outcome for key in counts)]
    lines = [f"{title:22}" + "".join(f"{outcome:>16}" for outcome in outcomes)]
    for kind in sorted({kind for kind, _ in counts}):
        lines.append(f"  {kind:20}" + "".join(f"{counts.get((kind, o), 0):>16,}" for o in outcomes))
    return lines


def test_a_session_split_anywhere_is_answered_as_it_was(long_form: bool) -> None:
    """No change but where the pieces begin: every port gets the same bytes, the RPC layers too."""
    fuzz = FuzzWorld()

    def written(session: Session, cuts: Callable[[int], int] | None) -> list[bytes]:
        bench = bench_for(session, fuzz, keep=True)
        for event in session.events:
            bench.hear(event, cuts)
        found = [bytes(port.out or b"") for _, port in sorted(bench.ports.items())]
        found += [bytes(upper.out) for upper in bench.uppers]
        bench.finish(random.Random(1))
        return found

    for session in record_all():
        whole = written(session, None)
        assert sum(map(len, whole)) > 60, session.name
        for seed in range(20 if long_form else 2):
            rng = random.Random(seed)
            # acknowledgments tell of every piece: their number may differ, what they lead to not
            torn = written(session, lambda size, rng=rng: rng.choice((1, 7, 17, 90, 700, size)))
            assert rpc_of(torn) == rpc_of(whole), f"{session.name}, split by seed {seed}"


def rpc_of(streams: list[bytes]) -> list[int]:
    """How much of every stream is marked."""
    return [stream.count(b"~l") for stream in streams]


@pytest.mark.req("RH-110", "AB-9", "AB-4")
def test_a_hostile_client_harms_nobody_else(long_form: bool, tables: Tables) -> None:
    cases = 150 * (LONGER if long_form else 1)
    begun = time.perf_counter()
    tally: Counter[str] = Counter()
    for seed in range(cases):
        tally[attack(seed)] += 1
    tables.add("fuzz of whole tunnels", [f"{cases:,} in {time.perf_counter() - begun:.1f} s: {dict(tally)}"])
    assert tally["went on"]
    assert tally["ended"]


# Work and memory ------------------------------------------------------------------------------------------


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions are called, those in C too."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


FLOODS = {
    "pings": rts.PING,
    "empty RPC PDUs": marked(0),
    "RPC PDUs of 400 bytes": marked(400),
    "keep-alives": rts.keep_alive(60_000),
    "acknowledgments": rts.ack(0, 16384, b"?" * 16),
    "forwarded acknowledgments": rts.ack_forwarded(rts.Destination.CLIENT, 0, 16384, b"?" * 16),
    "padding": b"\x05\x00\x14\x03\x10\0\0\0\xdc\x0f\0\0\0\0\0\0\x01\0\x01\0\x08\0\0\0\xc0\x0f\0\0"
    + bytes(4032),
}
PIECES = {"at once": 1 << 30, "byte by byte": 1}


@pytest.mark.req("AB-7", "RH-73")
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("piece", PIECES)
def test_work_and_memory_of_a_flood(flood: str, piece: str) -> None:
    """Twice the bytes are about twice the work, for every role; and they are not kept."""
    fuzz = FuzzWorld()
    unit = FLOODS[flood]
    count = (1 if piece == "byte by byte" else 24) * 1024 // len(unit) + 1
    for session in (s for s in record_all() if s.story == "talk"):
        links = sorted({(e.link, e.far) for e in session.events if e.what == "bytes"})
        for link, far in links:

            def cost(times: int, key: tuple[int, bool] = (link, far), session: Session = session) -> int:
                bench = bench_for(session, fuzz)
                for event in session.events:
                    bench.hear(event)
                leg, data = bench.legs[key], bench.remarked(unit * times, key)
                size = PIECES[piece]
                pieces = [data[at : at + size] for at in range(0, len(data), size)]

                def feed() -> None:
                    for part in pieces:
                        leg.receive(part)

                calls = calls_of(feed)
                bench.turn()
                bench.finish(random.Random(1))
                return calls

            once, twice = cost(count), cost(2 * count)
            assert twice <= 2.4 * once + 200, f"{session.name}, link {link, far}: {once} calls, then {twice}"
    tracemalloc.start()
    try:
        session = next(s for s in record_all() if s.story == "talk" and s.party == "proxy")
        bench = bench_for(session, fuzz)
        for event in session.events:
            bench.hear(event)
        data = unit * (400_000 // len(unit))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for at in range(0, len(data), 65536):
            bench.legs[0, False].receive(data[at : at + 65536])
        after, _ = tracemalloc.get_traced_memory()
        assert after - before < 300_000, f"{after - before} bytes are kept"
        bench.finish(random.Random(1))
    finally:
        tracemalloc.stop()


@pytest.mark.req("RH-20")
def test_a_request_never_gets_longer_than_it_declared() -> None:
    """A server that drips is acknowledged often; what is beyond the declared body would be another request."""
    session = next(s for s in record_all() if s.story == "talk" and s.party == "client")
    bench = bench_for(session, FuzzWorld())
    for event in session.events:
        bench.hear(event)
    into, out = bench.ports[0, False], bench.legs[1, False]
    for byte in marked(4000):
        out.receive(bytes((byte,)))
    bench.turn()
    assert 120_000 < into.size <= SMALL.channel_lifetime
    assert bench.worst() == "setup"
    bench.finish(random.Random(1))


# HTTP -----------------------------------------------------------------------------------------------------


def judged(raw: bytes) -> RequestHead | int:
    """The head, or the status it is refused with."""
    try:
        return parse_request(raw)
    except BadRequest as error:
        return error.code


@pytest.mark.req("AB-17", "AB-18")
def test_both_parsers_judge_composed_heads_alike(long_form: bool, tables: Tables) -> None:
    verdicts: Counter[str] = Counter()
    cases = 4000 * (LONGER if long_form else 1)
    for number in range(cases):
        rng = random.Random(number)
        raw = head(rng, rng.choice(KINDS), rng.choice(sorted(PASSWORDS)), hostile=0.8)
        read = judged(raw)
        verdicts[str(read) if isinstance(read, int) else "understood"] += 1
        assert not isinstance(read, int) or read in (400, 417, 431, 501, 505), raw
        if raw.partition(b" ")[0] not in KNOWN - {b"OPTIONS"}:
            continue
        other = judged(b"X-" + raw)
        if isinstance(read, int) or isinstance(other, int):
            assert read == other, raw
            continue
        for name in RequestHead.__slots__:
            if name != "method":
                assert getattr(read, name) == getattr(other, name), (name, raw)
        if (fast := read_with_llhttp(raw)) is not None:
            assert fast == read_with_h11(raw), raw
    tables.add("fuzz of heads", [f"{cases:,}: {dict(sorted(verdicts.items()))}"])
    assert len(verdicts) >= 5, verdicts


@pytest.mark.req("AB-17", "AB-18", "AB-19", "AB-23", "RH-24", "RH-28", "RH-110")
def test_composed_requests_and_tunnels_through_the_web_server(long_form: bool, tables: Tables) -> None:
    cases = 250 * (LONGER if long_form else 1)

    async def story() -> None:
        begun = time.perf_counter()
        statuses: Counter[tuple[str, str]] = Counter()
        number = established = 0
        slowest = 0.0
        while number < cases:
            async with WebArena() as arena:
                for _ in range(min(cases - number, 5000)):
                    await arena.case(number)
                    number += 1
                    if not number % 50:
                        await arena.check()
                statuses += arena.statuses
                slowest = max(slowest, arena.slowest)
                established += arena.tunnels.established
            left = {kind: count for kind, count in arena.world.ledger.live().items() if count}
            assert not left
        said = ", ".join(f"{status} {count:,}" for (_, status), count in sorted(statuses.items()))
        spent = time.perf_counter() - begun
        tables.add(
            "fuzz of the web server with the RPC proxy",
            [
                f"{cases:,} cases in {spent:.1f} s, the slowest took {slowest * 1000:.0f} ms",
                f"{established:,} tunnels; answers: {said}",
            ],
        )
        assert established > cases // 10

    run_virtual(story())


# The guards -----------------------------------------------------------------------------------------------


@contextmanager
def planted(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, value: Any) -> Iterator[None]:
    """A mistake, for a while."""
    with monkeypatch.context() as patch:
        patch.setattr(place, name, value)
        yield


def caught(cases: int) -> None:
    """Replay until something breaks, which is what must happen."""
    sessions = record_all()
    fuzz = FuzzWorld()
    with pytest.raises(Broken):
        deque((replay(number, fuzz, sessions) for number in range(cases)), 0)
    for kind in fuzz.live():
        getattr(fuzz.world.ledger, kind).live = 0  # what the mistake left behind is no leak of this test


def test_the_guards_see_mistakes_that_are_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(monkeypatch, ProxyTable, "is_stranger", lambda self, vc, identity, target: False):
        caught(4000)
        with pytest.raises(Broken, match=r"cut off|heard|sent"):
            deque(map(attack, range(300)), 0)

    with planted(monkeypatch, ReceiveWindow, "release", lambda self, size: None):
        caught(400)

    with planted(monkeypatch, in_proxy.Inbound, "client_gone", lambda self, channel: None):
        caught(400)

    let_go = ProxyChannel.let_go

    def twice(self: ProxyChannel, end: Any, **options: Any) -> None:
        shell = self.shell
        let_go(self, end, **options)
        shell.finished(end.value)

    with planted(monkeypatch, ProxyChannel, "let_go", twice):
        caught(400)


def test_every_change_changes_something() -> None:
    """A change that does nothing makes no case."""
    idle = {change.__name__ for change in CHANGES}
    for session in record_all():
        for seed in range(30):
            for change in set(CHANGES):
                events = list(session.events)
                change(random.Random(seed), events, seed % len(events), [b"c" * 16, session.events[0].data])
                if events != session.events:
                    idle.discard(change.__name__)
    assert not idle
