"""Where cases are fought out: live hosts, recorded sessions, the rules, and the count.

    arena.to_server("object", pieces, kind)        one case into a server core
    arena.to_client(session, steps, kind)          one case into a client
    arena.check()                                  others are untouched, everything at rest

A case passes when it is answered, faulted, refused, closed or ignored, and nothing stays behind. Anything else
raises `Broken` with the bytes that do it.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.fuzz.clients import LOST, PACKET_NAMES, Session, Step, play, record, stories
from tests.fuzz.live import LiveHost, Shell

OUTCOMES: Final = ("answered", "fault", "nak", "closed", "ignored")
SLOWEST_S: Final = 5.0
"""No single case may take longer; the usual one takes a quarter of a millisecond."""
CHECK_EVERY: Final = 1000
RENEW_EVERY: Final = 5000
MAX_ANSWER: Final = 64 << 20
_CONNECTION_KINDS: Final = (
    "rpc_connection",
    "rpc_association",
    "rpc_call",
    "security_context",
    "context_handle",
    "task",
)


class Broken(AssertionError):
    """A case that did what none may; its message brings the bytes."""


class Complaints(logging.Handler):
    """What is logged as an error is an exception that nobody expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.said.append(f"{record.getMessage()}: {error!r}")
        self.last = record


class Arena:
    """Hosts, sessions and tallies of one test run. Open it inside a running loop."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._hosts: dict[bool, LiveHost] = {}
        self._bystander: Shell | None = None
        self.probes: dict[str, tuple[bytes, bytes]] = {}
        self._complaints = Complaints()
        self.tally: Counter[tuple[str, str, str]] = Counter()
        self.cases = 0
        self.slowest = 0.0
        self.sessions: list[Session] = []
        self._peer = 0
        self._renewed = 0
        self._warnings = ExitStack()

    async def __aenter__(self) -> Arena:
        logger = logging.getLogger("oxid")
        self._logging = (logger.level, logger.propagate)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        logger.addHandler(self._complaints)
        # Python's own word about a dropped proxy comes from a finaliser; ours says which case dropped it.
        self._warnings.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            await self._open_hosts()
            host = self._hosts[True]
            for name, story, anonymous in stories(host):
                self.sessions.append(record(name, story, host, anonymous=anonymous))
            self.requests = [
                (session.name, core, pieces)
                for session in self.sessions
                for core, pieces in session.requests.values()
            ]
            self.from_clients = [piece for _, _, pieces in self.requests for piece in pieces]
            self.from_servers = [step.data for session in self.sessions for step in session.answers]
            by_name = {name: pieces for name, _, pieces in self.requests}
            self.probes = {"object": tuple(by_name["echo"][:2]), "rpc": tuple(by_name["alive"][:2])}
            await self.renew()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._bystander is not None:
            self._bystander.end()
        for host in self._hosts.values():
            await host.__aexit__(None, None, None)
        self._hosts.clear()
        self._warnings.close()
        logger = logging.getLogger("oxid")
        logger.removeHandler(self._complaints)
        logger.level, logger.propagate = self._logging
        logger.setLevel(self._logging[0])

    async def _open_hosts(self) -> None:
        for anonymous in (True, False):
            state = self._state / f"anonymous-{anonymous}"
            state.mkdir(exist_ok=True)
            host = LiveHost(state, anonymous=anonymous)
            await host.__aenter__()
            self._hosts[anonymous] = host
        self._bystander = None
        if self.probes:
            # somebody who has nothing to do with it, and must not notice anything
            self._bystander = self._hosts[True].connection("object", "192.0.2.1")
            self._bystander.take(self.probes["object"][0])

    async def renew(self) -> None:
        """Close the hosts, which must leave nothing, and open new ones."""
        if self._bystander is not None:
            self._bystander.end()
        for host in self._hosts.values():
            host.forget()
            live = host.world.ledger.live()
            if live["object"] > 2 or live["ping_set"] or live["pinged_oid"]:
                raise Broken(f"objects or ping sets outlived their clients: {host.world.ledger}")
            await host.__aexit__(None, None, None)
            left = {kind: count for kind, count in host.world.ledger.live().items() if count}
            if left:
                raise Broken(f"left behind by a host: {left}")
        await self._open_hosts()
        self._renewed = self.cases

    # -- one case ----------------------------------------------------------------------------------------------

    def to_server(
        self, core: str, pieces: Sequence[bytes], kind: str, *, anonymous: bool = True, intact: int = 0
    ) -> str:
        """Feed the pieces to a new connection. `intact` pieces in front are as recorded: theirs is no outcome."""
        host = self._hosts[anonymous]
        host.clock.time += 0.01
        self._peer = (self._peer + 1) % 60000
        shell = host.connection(core, f"10.1.{self._peer >> 8}.{self._peer & 255}")
        begun = time.process_time()
        try:
            for piece in pieces[:intact]:
                shell.take(piece)
            shell.kinds.clear()
            for piece in pieces[intact:]:
                shell.take(piece)
            if shell._calls:
                shell.wake()
            outcome = shell.outcome
            if shell.sent_size > MAX_ANSWER:
                raise AssertionError(f"{shell.sent_size} bytes were answered")
            shell.end()
        except Exception as error:
            raise self._broken(f"server {core}", pieces, f"{type(error).__name__}: {error}") from error
        self._judge(f"server {core}", pieces, begun)
        counters = host.world.ledger
        idle = host.world.ledger.rpc_connection.live - (anonymous)
        if idle or counters.rpc_call.live or counters.security_context.live or counters.context_handle.live:
            raise self._broken(f"server {core}", pieces, f"left behind: {counters}")
        if counters.rpc_association.live - (anonymous) or counters.task.live:
            raise self._broken(f"server {core}", pieces, f"left behind: {counters}")
        self._count("server", kind, outcome)
        return outcome

    def to_client(self, session: Session, steps: Sequence[Step], kind: str) -> str:
        """Tell the client of a story these answers."""
        begun = time.process_time()
        pieces = [step.data for step in steps]
        try:
            outcome, _ = play(session, steps)
        except Exception as error:
            where = f"client {session.name}"
            raise self._broken(where, pieces, f"{type(error).__name__}: {error}") from error
        self._judge(f"client {session.name}", pieces, begun)
        self._count("client", kind, outcome)
        return outcome

    def _judge(self, where: str, pieces: Sequence[bytes], begun: float) -> None:
        spent = time.process_time() - begun
        if spent > self.slowest:
            self.slowest = spent
            if spent > SLOWEST_S:
                raise self._broken(where, pieces, f"took {spent:.1f} s")
        if LOST:
            LOST.clear()
            raise self._broken(where, pieces, "a proxy was dropped without release")
        if self._complaints.said:
            said, self._complaints.said = self._complaints.said, []
            cause = self._complaints.last.exc_info
            raise self._broken(where, pieces, f"not a typed error: {said}") from (cause and cause[1])

    def _count(self, role: str, kind: str, outcome: str) -> None:
        self.tally[role, kind, outcome] += 1
        self.cases += 1

    def _broken(self, where: str, pieces: Sequence[bytes], what: str) -> Broken:
        text = json.dumps({"where": where, "pieces": [piece.hex() for piece in pieces]})
        return Broken(f"{what}\n{where}, to run again put this into tests/fuzz/corpus:\n{text}")

    # -- every so often ------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """New connections work, the bystander's old one too, and nothing adds up in the hosts."""
        for host in self._hosts.values():
            for core in ("rpc", "object"):
                bind, call = self.probes[core]
                fresh = host.connection(core, "192.0.2.2")
                fresh.take(bind)
                fresh.take(call)
                wanted = {12: 1, 2: 1}
                if core == "object" and not host.options.insecure_anonymous:
                    wanted = {12: 1, 3: 1}  # Echo wants to know who calls
                got = dict(fresh.kinds)
                fresh.end()
                if got != wanted:
                    raise Broken(f"a fresh connection to {core} gets {got}")
        bystander = self._bystander
        assert bystander is not None
        bystander.kinds.clear()
        bystander.take(self.probes["object"][1])
        if dict(bystander.kinds) != {2: 1}:
            raise Broken(f"the bystander gets {dict(bystander.kinds)}")
        tables = self._hosts[True].rpc_server.core.registry._tables
        if len(tables) > 1024:
            raise Broken(f"{len(tables)} context tables are kept")
        if self.cases - self._renewed >= RENEW_EVERY or not all(h.intact for h in self._hosts.values()):
            await self.renew()


def kind_of(piece: bytes) -> str:
    """The name of the PDU type a piece begins with."""
    if len(piece) < 3 or piece[0] != 5:
        return "no PDU"
    return PACKET_NAMES.get(piece[2], "other type")


def report(tally: Counter[tuple[str, str, str]]) -> list[str]:
    """Counts per PDU type and outcome, as text."""
    lines = []
    for role in ("server", "client"):
        kinds = sorted({kind for r, kind, _ in tally if r == role})
        lines.append(f"{role + ' core':22}" + "".join(f"{title:>11}" for title in (*OUTCOMES, "sum")))
        sums = Counter[str]()
        for kind in kinds:
            row = {outcome: tally[role, kind, outcome] for outcome in OUTCOMES}
            sums.update(row)
            lines.append(f"  {kind:20}" + "".join(f"{n:>11,}" for n in (*row.values(), sum(row.values()))))
        total = [sums[outcome] for outcome in OUTCOMES]
        lines.append("  all                 " + "".join(f"{n:>11,}" for n in (*total, sum(total))))
    return lines
