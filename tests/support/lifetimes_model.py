"""A small world in invented time: one resolver, exporters, clients, and the network between them.

    world = World(truth)
    exporter = world.exporter(1)
    ref = exporter.marshal(exporter.export())     references leave ...
    world.arrive(ref, world.client(0), 0)         ... and reach a client, which pings from then on
    world.advance(360, weather)                   everything happens that is due, in the order of time

The tables are the product's own: `OxidResolver`, `ReferenceTable`, `ClientPingSet`. What drives them here is what
`oxid.rpcss.reclaimer`, `oxid.com.channel_link` and `oxid.com.ping_agent` do on a loop. The network loses, doubles and
delays as it is told.

`truth` is the oracle, in `tests.property.test_lifetimes_machine`. The world tells it what could be seen from outside
(`Life`, `Heard`), never the inside of a table, and asks it whether what happens may happen.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, cycle
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from oxid.com.ping_agent import ROUNDS
from oxid.com.ping_client import FAREWELLS, ClientPingSet, Ping
from oxid.com.reference_table import RECLAIMED, ExportedObject, ReferenceTable, Verdict
from oxid.interfaces.unknown import IUnknown
from oxid.ledger import Ledger
from oxid.rpc.interface import spec_of
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver, Question
from oxid.rpcss.ping_sets import PingCaller
from oxid.samples.calculator import ICalculator
from oxid.values.bindings import DualStringArray
from oxid.values.status import ERROR_ACCESS_DENIED, OR_INVALID_OID, OR_INVALID_SET, RPC_S_SERVER_TOO_BUSY
from oxid.world import World as Outside

PERIOD, TIMEOUT, SWEEP = 120, 360, 10
PATIENCE, GIVE_UP = 5, 10
"""Seconds in which an exporter may decide, and after which the resolver goes on without its answer."""
DELAY = 2 * GIVE_UP
"""The most by which slow exporters put a question off: the one before it, and the question itself."""
MEMORY = 7 * PERIOD
MARSHALLED = 5
NEVER, ALWAYS = float("-inf"), float("inf")
INTERFACES = (spec_of(ICalculator), spec_of(IUnknown))
PRINCIPALS = ("anna", "boris", None)
ANONYMOUS = 2


class Broken(AssertionError):
    """A law of object lifetimes does not hold. `law` is its number in the scenarios."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


def broken(law: str, what: str) -> NoReturn:
    raise Broken(law, what)


# -- what can be seen from outside ----------------------------------------------------------------------


@dataclass
class Life:
    """One object: what anybody could have seen of it."""

    oid: int
    exporter: Any
    noping: bool
    marshalled: float = NEVER
    called: float = NEVER
    """A call of it ended, or its exporter was asked for references."""
    calls: int = 0
    held: int = 0
    """By other objects of its process."""
    refs: Counter[bytes] = field(default_factory=Counter)
    listed: bool | None = False
    """Whether the resolver was told of it; None once it was told that it is gone."""
    listed_at: float = NEVER
    handed_on: float = NEVER
    """When a client last let go of it, having perhaps given its references to somebody else."""
    freed: float = NEVER
    """Since when nothing else keeps it."""
    kept: float = NEVER
    """When its exporter last said that it must stay, or said nothing."""
    ended: str = ""
    forgiven: tuple[Any, float] = (None, NEVER)
    """The resolver that heard of its release, and when."""
    destroyed: int = 0


@dataclass
class Heard:
    """One ping set, as the pings that arrived tell it."""

    who: PingCaller
    last: float
    index: int
    spared_until: float = NEVER
    """The resolver could not hear, and waits for one more ping."""
    members: set[int] = field(default_factory=set)
    awaited: set[int] = field(default_factory=set)
    """To become members as soon as their exporter has decided that they stay."""

    @property
    def ends(self) -> float:
        return max(self.last + TIMEOUT, self.spared_until)


# -- what the network and slow exporters do ------------------------------------------------------------


class Fate(Enum):
    """What becomes of a ping."""

    ANSWERED = 0
    LOST = 1
    DELAYED = 2
    """For its sender it is lost; it may still arrive."""
    ANSWER_LOST = 3
    DOUBLED = 4


class Answer(Enum):
    """How an exporter answers a question: decides after, is heard after (seconds), and whether what it says in
    between is heard before."""

    AT_ONCE = (0, 0, False)
    SLOWLY = (3, 3, False)
    OVERTAKEN = (0, 3, True)
    IN_TIME_BUT_LATE = (4, 14, False)
    TOO_LATE = (7, 8, False)
    NEVER = (1 << 30, 1 << 30, False)


class Weather:
    """The fates of the pings, and the answers of the exporters, in turn."""

    def __init__(self, fates: tuple[Fate, ...], answers: tuple[Answer, ...] = (Answer.AT_ONCE,)) -> None:
        self.fates, self.answers = cycle(fates), cycle(answers)


FINE = ((Fate.ANSWERED,), (Answer.AT_ONCE,))
WEATHERS = (
    FINE,
    ((Fate.LOST, Fate.ANSWERED), (Answer.SLOWLY,)),
    ((Fate.ANSWERED, Fate.ANSWER_LOST), (Answer.AT_ONCE,)),
    ((Fate.DELAYED, Fate.ANSWERED, Fate.ANSWERED), (Answer.AT_ONCE, Answer.TOO_LATE)),
    ((Fate.DOUBLED,), (Answer.IN_TIME_BUT_LATE, Answer.AT_ONCE)),
    ((Fate.LOST,), (Answer.NEVER, Answer.OVERTAKEN)),
    ((Fate.ANSWER_LOST, Fate.DELAYED, Fate.ANSWERED), (Answer.IN_TIME_BUT_LATE,)),
    ((Fate.ANSWERED, Fate.ANSWERED, Fate.LOST), (Answer.SLOWLY, Answer.AT_ONCE)),
)


# -- the server's machine ----------------------------------------------------------------------------------


class Ref(NamedTuple):
    """An OBJREF on its way."""

    life: Life
    ipid: bytes
    refs: int


class Exporter:
    """One exporting process: the product's reference table, and its channel to the resolver.

    Exporters of the resolver's own process speak to it directly, and end with it.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.truth, self.number = world, world.truth, number
        self.in_host = number == 0
        self.table = ReferenceTable(world.outside, self._new_oid, lambda cls, spec: (), self._dropped)
        self.spare: list[int] = []
        self.outbox: deque[tuple[Any, ...]] = deque()
        """What the resolver has yet to hear, in order."""
        self.blocked_until = NEVER
        self.gone = False
        self.attached = False
        self.attaches_at = NEVER
        self.lost = False
        """The resolver knew it and has lost it, and has not been started anew since."""
        self.oxid = 0
        self._dies_unheard = False
        self.attach()

    def attach(self) -> None:
        """Tell a resolver of itself and everything it has."""
        resolver, lives, now = self.world.resolver, self.truth.lives, self.truth.now
        self.attached = True
        self.outbox.clear()
        entry = resolver.add_exporter(DualStringArray(), UUID(int=1), oxid=self.oxid or None, owner=self)
        self.oxid = entry.oxid
        for oid, noping in self.table.live_oids():
            resolver.assert_again(self.oxid, oid, now, noping=noping)
            lives[oid].listed, lives[oid].listed_at = True, now
        self.spare = [] if self.in_host else resolver.reserve(self.oxid, 6)

    def detach(self, until: float) -> None:
        """Its channel is lost: what it had to say is not heard, and it is not asked."""
        self.attached, self.attaches_at, self.blocked_until, self.lost = False, until, NEVER, False
        self.outbox.clear()
        self.world.asked = [asked for asked in self.world.asked if asked.exporter is not self]
        for life in self.truth.lives.values():
            if life.exporter is self:
                life.listed = None if life.ended else False

    def lose_channel(self, back_after: float) -> None:
        if self.attached and not self.in_host:
            self.world.resolver.remove_exporter(self.oxid, self.truth.now)
            self.detach(self.truth.now + min(back_after, TIMEOUT))
            self.lost = True

    @property
    def ready(self) -> bool:
        """Whether a new object's identifier is known to the resolver before a client can know it."""
        return self.in_host or bool(self.spare)

    def _new_oid(self, *, noping: bool = False) -> int:
        world, now = self.world, self.truth.now
        oid = world.resolver.add_oid(self.oxid, now, noping=noping) if self.in_host else self.spare.pop()
        self.truth.lives[oid] = Life(oid, self, noping, listed=self.in_host, listed_at=now)
        self._tell("new", oid, noping)
        return oid

    def export(self, *, noping: bool = False) -> Life:
        return self.truth.lives[self.table.export(Target(), noping=noping).oid]

    def exported(self, life: Life) -> ExportedObject:
        found = self.table.object(life.oid)
        assert found is not None, f"{life} is not in the table"
        return found

    def marshal(self, life: Life, interface: int = 0, refs: int = MARSHALLED) -> Ref:
        """What `Exporter.objref` does."""
        exported = self.exported(life)
        pointer = self.table.pointer(exported, INTERFACES[interface])
        assert self.table.add_refs(pointer, refs)
        life.refs[pointer.ipid] += refs
        exported.last_call = life.called = life.marshalled = self.truth.now
        self._tell("out", life.oid)
        return Ref(life, pointer.ipid, refs)

    def query(self, life: Life, interface: int) -> Ref:
        """What RemQueryInterface does, which for the resolver is an ordinary call."""
        exported = self.exported(life)
        pointer = self.table.pointer(exported, INTERFACES[interface])
        assert self.table.add_refs(pointer, MARSHALLED)
        life.refs[pointer.ipid] += MARSHALLED
        exported.last_call = life.called = self.truth.now
        return Ref(life, pointer.ipid, MARSHALLED)

    def add_refs(self, life: Life, ipid: bytes) -> bool:
        """RemAddRef; False where nobody knows the IPID any more."""
        pointer = None if self.gone else self.table.by_ipid.get(ipid)
        if pointer is None:
            return False
        assert self.table.add_refs(pointer, MARSHALLED)
        life.refs[ipid] += MARSHALLED
        pointer.exported.last_call = life.called = self.truth.now
        return True

    def release(self, life: Life, pointers: Counter[bytes]) -> None:
        """RemRelease: the last reference of all drops the object at once."""
        for ipid, refs in pointers.items():
            pointer = None if self.gone else self.table.by_ipid.get(ipid)
            if pointer is not None:
                life.refs[ipid] -= refs
                self.table.release_refs(pointer, refs)
        self._look_after("released")
        if not life.ended and not life.held and not any(life.refs.values()):
            broken("P3", f"nobody has a reference to object {life.oid}, and it lives on")

    def _look_after(self, why: str) -> None:
        """Note the objects that left the table, and that they did so for a reason."""
        for life in self.truth.living():
            if life.exporter is self and self.table.object(life.oid) is None:
                life.ended = why
                if why == "released" and any(life.refs.values()):
                    broken("P1", f"object {life.oid} went with {+life.refs} references left")
                if why == "released" and life.held:
                    broken("B10", f"object {life.oid} went, and its own process needs it")
                self._check_destroyed(life)

    def _dropped(self, exported: ExportedObject, reason: str) -> None:
        life = self.truth.lives[exported.oid]
        if self._dies_unheard:
            return
        life.destroyed += 1
        if life.destroyed != 1 or exported.calls:
            broken("J4", f"object {life.oid}: destructor no. {life.destroyed}, calls {exported.calls}")
        if reason is not RECLAIMED or not self.in_host:
            self._tell("gone", life.oid, reason)

    # Calls

    def begin_call(self, life: Life) -> Call:
        exported = self.exported(life)
        exported.calls += 1
        life.calls += 1
        call = Call(life, exported)
        self.world.calls.append(call)
        return call

    def end_call(self, call: Call) -> None:
        call.life.calls -= 1
        call.life.called = self.truth.now
        self.table.call_ended(call.exported, self.truth.now)
        if call.life.ended:
            self._check_destroyed(call.life)

    def _check_destroyed(self, life: Life) -> None:
        """J4: an object that left the table is destroyed at once, or with the end of its last call."""
        if not self._dies_unheard and life.destroyed != (not life.calls):
            broken("J4", f"object {life.oid} destroyed {life.destroyed} times, {life.calls} calls left")

    # The process's own wishes

    def hold(self, life: Life) -> None:
        self.table.hold(self.exported(life).target)
        life.held += 1

    def unhold(self, life: Life) -> None:
        life.held -= 1
        life.freed = self.truth.now
        left = self.table.unhold(self.exported(life).target)
        if left is not None:
            self._tell("unpinned", left.oid)
        self._look_after("released")

    def disconnect(self, life: Life) -> None:
        self.table.disconnect(self.exported(life).target, "disconnected")
        self._look_after("disconnected")

    def change_noping(self, life: Life) -> None:
        """Clients are told that they need not ping any more; or the next ones, that they must."""
        self.flush()
        if not self.attached or self.outbox:
            return
        life.noping = self.exported(life).noping = not life.noping
        if not life.noping:
            life.freed = self.truth.now
        self.world.resolver.set_noping(life.oid, life.noping, self.truth.now)

    # The channel

    def _tell(self, *message: Any) -> None:
        if self.gone:
            return
        self.outbox.append(message)
        if self.in_host:
            self.flush()

    def flush(self) -> None:
        """Let the resolver hear what was said: `Session._objects` in short."""
        if self.gone or not self.attached or self.world.stopped or self.truth.now < self.blocked_until:
            return
        resolver, now, lives = self.world.resolver, self.truth.now, self.truth.lives
        while self.outbox:
            kind, what, *more = self.outbox.popleft()
            if kind == "answer":
                self.world.hear_answer(what)
            elif kind == "new":
                if not self.in_host:
                    resolver.announce(self.oxid, what, now, noping=more[0])
                lives[what].listed, lives[what].listed_at = True, now
            elif not resolver.owns(self.oxid, what):
                continue
            elif kind == "out":
                resolver.marshalled(what, now)
                lives[what].listed_at = now
            elif kind == "unpinned":
                resolver.unpinned(what, now)
            elif more[0] is RECLAIMED:
                resolver.settle(what, Verdict.DEAD, now)
                lives[what].listed = None
            else:
                resolver.remove_oid(what, now, more[0])
                lives[what].listed, lives[what].forgiven = None, (resolver, now)
        if len(self.spare) < 3 and not self.in_host:
            self.spare += resolver.reserve(self.oxid, 6)

    def decide(self, question: Question, *, in_time: bool) -> list[Verdict]:
        """What `ChannelLink.reclaim` answers."""
        lives, now = self.truth.lives, self.truth.now
        was_there = [lives[oid] for oid in question.oids if not lives[oid].ended]
        verdicts = dict.fromkeys(question.oids, Verdict.BUSY)
        if in_time:
            verdicts = self.table.reclaim(question.oids, now, PERIOD)
        for life in was_there:
            if verdicts[life.oid] is Verdict.DEAD:
                self.truth.may_be_reclaimed(life, list(self.world.client_sets()))
            elif verdicts[life.oid] is Verdict.BUSY:
                life.kept = now
        self._look_after("reclaimed")
        return [verdicts[oid] for oid in question.oids]

    # The end

    def end(self, *, killed: bool) -> None:
        """The process ends. Killed, it runs no destructors, and nothing that it had to say is heard."""
        world, truth = self.world, self.truth
        if not killed:
            self.flush()
        self._dies_unheard = killed
        self.gone = True
        if world.up:
            world.resolver.remove_exporter(self.oxid, truth.now)
        self.table.clear("the exporter closes")
        self._look_after("its exporter ended")
        for call in [call for call in world.calls if call.life.exporter is self]:
            world.calls.remove(call)
            self.end_call(call)
        for life in truth.lives.values():
            if life.exporter is self and killed and not life.destroyed:
                life.ended = "killed"
        self.detach(ALWAYS)
        del world.exporters[self.number]


class Target:
    """An object of a server."""


@dataclass
class Call:
    life: Life
    exported: ExportedObject


@dataclass
class Asked:
    """A question to an exporter that has not been answered."""

    question: Question
    exporter: Exporter
    since: float
    decides: float
    answers: float
    overtaken: bool
    verdicts: list[Verdict] | None = None

    def next(self) -> float:
        if self.verdicts is None:
            return min(self.since + GIVE_UP, self.decides)
        return self.answers if self.overtaken else self.since + GIVE_UP


# -- the clients' machines ---------------------------------------------------------------------------------


@dataclass
class Holding:
    """What one client machine has of one object."""

    life: Life
    identity: int
    pointers: Counter[bytes] = field(default_factory=Counter)
    uses: int = 0
    pinged: bool = True


class ClientSet:
    """One ping set of a client: the product's, and what the world has seen of it."""

    def __init__(self, client: Client, identity: int, due: float) -> None:
        self.client, self.identity, self.due = client, identity, due
        self.caller = PingCaller(PRINCIPALS[identity], f"10.0.0.{client.number}")
        self.owed = ClientPingSet()
        self.holders: Counter[int] = Counter()
        self.waiting = False
        self.rounds = 0
        self.index = 0
        self.last: Ping | None = None
        self.sequence = 0
        self.safe: set[int] = set()
        """What the resolver was known to hold for us when everything was told, and since when we held on."""
        self.heard = NEVER
        self.verify: set[int] = set()
        """What the resolver was asked about: the dead ones are known when everything is told."""
        self.declared: set[int] = set()
        self.farewells = 0

    @property
    def pings_at(self) -> float:
        """Who hangs pings as soon as he goes on."""
        return max(self.due, self.client.hangs_until)

    def hold(self, oid: int, times: int = 1) -> None:
        for _ in range(times):
            self.owed.hold(oid)
        self.holders[oid] += times
        self.declared.discard(oid)
        self.farewells = 0

    def let_go(self, oid: int, times: int = 1) -> None:
        for _ in range(times):
            self.owed.let_go(oid)
        self.holders[oid] -= times
        if not self.holders[oid]:
            del self.holders[oid]
            for known in (self.safe, self.verify, self.declared):
                known.discard(oid)

    def __str__(self) -> str:
        return f"client {self.client.number} as {self.caller.principal}"


class Client:
    def __init__(self, number: int) -> None:
        self.number = number
        self.long_history = bool(number & 1)
        """Its sets have seen so many changes that their sequence numbers are about to go round."""
        self.pings_all = bool(number & 2)
        """It does not look at NOPING."""
        self.sets: dict[int, ClientSet] = {}
        self.holdings: dict[int, Holding] = {}
        self.hangs_until = NEVER
        self.cut_until = NEVER
        """Until when it has no connection to the server's machine."""
        self.silenced_until = NEVER
        """Until when its pings are blocked, and its calls are not."""


@dataclass
class Pending:
    """A ping whose additions wait for an exporter's word."""

    one: ClientSet
    ping: Ping
    status: int
    set_id: int
    undecided: tuple[int, ...]
    answered: bool
    """Whether its answer will arrive."""
    awaited: bool
    """It is not a copy, of which its sender knows nothing."""


class World:
    """Everything, and the clock."""

    def __init__(self, truth: Any) -> None:
        self.ids = count(1)
        self.ledger = Ledger()
        self.truth = truth
        self.outside = Outside(self, self, self.ledger)
        self.resolver = self._new_resolver()
        self.up = True
        self.back_at = ALWAYS
        self.stopped = False
        """The resolver's process is there and does not run."""
        self.exporters: dict[int, Exporter] = {}
        """Number 0 lives in the resolver's process."""
        self.clients: dict[int, Client] = {}
        self.calls: list[Call] = []
        self.asked: list[Asked] = []
        self.pending: list[Pending] = []
        self.transit: list[tuple[Ref, int]] = []
        self.strays: list[tuple[ClientSet, Ping, int]] = []
        self.refused: dict[int, float] = {}
        """Identities that may not ping, and until when."""
        self.weather = Weather(*FINE)
        self.asks = True
        """Whether the resolver asks exporters at once; it may have more to ask than it can."""

    # The outside world of the product's tables.

    def now(self) -> float:
        return self.truth.now

    def utc(self) -> float:
        return self.truth.now

    def token(self, size: int) -> bytes:
        return next(self.ids).to_bytes(size, "little")

    def _new_resolver(self) -> OxidResolver:
        return OxidResolver(lambda: next(self.ids), PingPolicy(float(PERIOD)), self.ledger)

    # Who is there.

    def exporter(self, number: int) -> Exporter:
        if number not in self.exporters:
            self.exporters[number] = Exporter(self, number)
        return self.exporters[number]

    def client(self, number: int) -> Client:
        return self.clients.setdefault(number, Client(number))

    def client_sets(self) -> list[ClientSet]:
        return [one for client in self.clients.values() for one in client.sets.values()]

    def client_set(self, client: Client, identity: int) -> ClientSet:
        found = client.sets.get(identity)
        if found is None:
            # The first ping comes at some moment of the first period, so that clients spread.
            phase = (client.number * 37 + identity * 53 + self.truth.now) % PERIOD
            found = client.sets[identity] = ClientSet(client, identity, self.truth.now + phase)
        return found

    def in_question(self) -> set[int]:
        """What exporters are being asked about, or about to be asked."""
        asked = {oid for asked in self.asked for oid in asked.question.oids}
        if not asked and not (self.up and self.resolver.has_questions):
            return asked
        return asked.union(life.oid for life in self.truth.living() if not any(self.truth.covers(life.oid)))

    def hangs(self, client: Client) -> bool:
        return self.truth.now < client.hangs_until

    def is_cut(self, client: Client) -> bool:
        return self.truth.now < client.cut_until

    def refuses(self, identity: int) -> bool:
        return self.truth.now < self.refused.get(identity, NEVER)

    # References travel.

    def arrive(self, ref: Ref, client: Client, identity: int) -> None:
        """A client machine takes a reference in: `RemoteExporter.take`, and what follows."""
        life, ipid, refs = ref
        if not refs:
            if self.is_cut(client) or not life.exporter.add_refs(life, ipid):
                return
            refs = MARSHALLED
        holding = client.holdings.get(life.oid)
        if holding is None:
            pinged = client.pings_all or not life.noping
            holding = client.holdings[life.oid] = Holding(life, identity, pinged=pinged)
        holding.pointers[ipid] += refs
        holding.uses += 1
        if holding.pinged:
            self.client_set(client, holding.identity).hold(life.oid)

    def hand_over(self, client: Client, holding: Holding) -> Ref:
        """`Machine.marshal`: one of our references, or none where we have none to spare."""
        ipid = next(iter(holding.pointers))
        given = int(holding.pointers[ipid] > 1)
        holding.pointers[ipid] -= given
        return Ref(holding.life, ipid, given)

    def release(self, client: Client, holding: Holding, *, heard: bool) -> None:
        """One user less; the last one sends RemRelease, which may be lost or refused. Local, whatever becomes of it."""
        holding.uses -= 1
        if holding.pinged:
            client.sets[holding.identity].let_go(holding.life.oid)
        if not holding.uses:
            del client.holdings[holding.life.oid]
            if heard and not self.is_cut(client):
                holding.life.exporter.release(holding.life, holding.pointers)

    def met_the_end(self, client: Client, holding: Holding) -> None:
        """A call found the object gone."""
        life = holding.life
        if not life.ended:
            broken("P1", f"a call of client {client.number} finds object {life.oid} gone, and it lives")
        if holding.pinged:
            one = client.sets[holding.identity]
            one.owed.object_gone(life.oid)
            one.declared.add(life.oid)

    def suspect(self, client: Client, exporter: Exporter) -> None:
        """The connection to an exporter is lost: its resolver is asked about its objects."""
        for one in client.sets.values():
            oids = {oid for oid in one.holders if self.truth.lives[oid].exporter is exporter}
            one.owed.suspect(sorted(oids))
            one.verify |= oids & one.safe

    # Pings.

    def tick(self, one: ClientSet) -> None:
        """What `PingAgent._bring_up_to_date` does."""
        if one.waiting or self.hangs(one.client):
            return
        if not one.holders:
            one.farewells += 1
        one.rounds = ROUNDS
        self.go_on(one)

    def go_on(self, one: ClientSet) -> None:
        while True:
            ping = one.owed.next_ping()
            if ping is None:
                self.all_is_told(one)
                break
            one.rounds -= 1
            if one.rounds < 0:
                broken("J6", f"{one} sends more than {ROUNDS} pings in a tick")
            if not self.send(one, ping):
                break
        self.forget_if_finished(one)

    def forget_if_finished(self, one: ClientSet) -> None:
        if one.holders or one.waiting:
            return
        if one.owed.finished:
            one.client.sets.pop(one.identity, None)
        elif one.farewells >= FAREWELLS:
            broken("P2", f"{one} holds nothing and pings on: {one.last}")

    def send(self, one: ClientSet, ping: Ping) -> bool:
        """One ping and its fate; True where the next one may follow at once."""
        self.look_at_number(one, ping)
        if self.refuses(one.identity) and self.up and not self.is_cut(one.client):
            if one.identity == ANONYMOUS:
                one.owed.answered(ping, ERROR_ACCESS_DENIED, ping.set_id)
            else:
                one.owed.refused(ping)  # the call itself failed
            self.change_identity(one)
            return False
        fate = next(self.weather.fates)
        silent = self.is_cut(one.client) or self.truth.now < one.client.silenced_until
        if silent or not self.up or self.stopped or fate is Fate.LOST or self.names_who_is_away(one, ping):
            one.owed.lost(ping)
            return False
        if fate is Fate.DELAYED:
            self.strays.append((one, ping, one.index))
            one.owed.lost(ping)
            return False
        answered = fate is not Fate.ANSWER_LOST
        answer = self.deliver(one, ping, one.index, answered=answered, awaited=True)
        if fate is Fate.DOUBLED:
            self.deliver(one, ping, one.index)
        if answer is None:
            one.waiting = True
            return False
        if not answered:
            one.owed.lost(ping)
            return False
        return self.hear(one, ping, *answer)

    def names_who_is_away(self, one: ClientSet, ping: Ping) -> bool:
        """Whether it would hear that objects are gone whose exporter has only lost its channel. To the resolver that
        is the end of a process; processes that live and come back are rare enough that this much is left to luck."""
        named = [self.truth.lives[oid] for oid in (*ping.add, *ping.remove)]
        return any(life.exporter.lost for life in named if not life.ended and not life.exporter.attached)

    def look_at_number(self, one: ClientSet, ping: Ping) -> None:
        """J9: one number per change, in order; a lost ping is sent again as it was. B27: the dead are not named."""
        if ping is one.last:
            return
        if one.declared and (
            one.declared & set(ping.add) or (ping.simple and one.declared >= one.holders.keys())
        ):
            broken("B27", f"{one} knows that {one.declared} are dead, and sends {ping}")
        if ping.simple:
            return
        if kept := set(ping.remove) & (one.holders.keys() - one.declared):
            broken("B32", f"{one} takes {kept} out of its set and holds them")
        expected = one.sequence % 0xFFFF + 1 if ping.set_id else 1
        if ping.sequence != expected:
            broken("J9", f"{one} sends {ping} behind number {one.sequence}")
        one.index, one.last, one.sequence = one.index + 1, ping, expected

    def deliver(
        self, one: ClientSet, ping: Ping, index: int, *, answered: bool = False, awaited: bool = False
    ) -> tuple[int, int] | None:
        """A ping arrives; its answer, or None while an exporter is deciding."""
        truth, resolver, set_id = self.truth, self.resolver, ping.set_id
        alive = truth.alive(set_id)
        if ping.simple:
            status = resolver.simple_ping(set_id, one.caller, truth.now)
            self.expect(status, [0 if alive else OR_INVALID_SET], f"{ping} of {one}")
            if alive:
                truth.sets[set_id].last = truth.now
            return status, set_id
        assert ping.sequence is not None
        result = resolver.complex_ping(set_id, ping.sequence, ping.add, ping.remove, one.caller, truth.now)
        if set_id and not alive:
            self.expect(result.status, [OR_INVALID_SET], f"{ping} of {one}")
        elif set_id and index < truth.sets[set_id].index:
            self.expect(result.status, [0], f"{ping} of {one}, which is stale")
        elif not set_id and result.status == RPC_S_SERVER_TOO_BUSY:
            known = {oid for oid in ping.add if resolver.exporter_of(oid) is not None}
            if known.issuperset(ping.add) or truth.now >= truth.expecting_until:
                broken("PNG", f"{ping} of {one} is refused, and nobody is expected any more")
        else:
            if not set_id:
                truth.sets[result.set_id] = Heard(one.caller, truth.now, index)
            heard = truth.sets[result.set_id]
            heard.last, heard.index = truth.now, index
            known = {oid for oid in ping.add if resolver.exporter_of(oid) is not None}
            heard.members |= known - set(result.undecided)
            heard.awaited |= set(result.undecided)
            truth.take_out(result.set_id, ping.remove)
            self.expect(result.status, truth.answers_to(ping, known, resolver), f"{ping} of {one}")
            for oid in known:
                life = truth.lives[oid]
                if life.listed is False and not life.exporter.in_host:
                    life.listed, life.listed_at = True, truth.now  # the ping was faster than its exporter
            if result.undecided:
                more = (result.status, result.set_id, result.undecided, answered, awaited)
                self.pending.append(Pending(one, ping, *more))
                return None
        return result.status, result.set_id

    @staticmethod
    def expect(status: int, wanted: Collection[int], what: str) -> None:
        if status not in wanted:
            broken("PNG", f"{what} is answered {status} instead of {wanted}")

    def hear(self, one: ClientSet, ping: Ping, status: int, set_id: int) -> bool:
        """An answer arrives; True where another ping is owed at once."""
        if status == OR_INVALID_SET:
            one.safe.clear()
            one.verify = set(one.holders)
        elif status:
            one.verify |= set(ping.add) & one.holders.keys()
        elif ping.set_id:
            one.verify -= set(ping.add)  # they lived when they were asked about; a new set would not say
        founded = not one.owed.set_id
        again = one.owed.answered(ping, status, set_id)
        for oid in one.owed.take_dead():
            if not self.truth.lives[oid].ended:
                broken("P1", f"{one} takes object {oid} for dead, and it lives")
            one.declared.add(oid)
        if founded and one.owed.set_id and one.client.long_history:
            self.grow_old(one)
        if not again and status != RPC_S_SERVER_TOO_BUSY:
            self.all_is_told(one)
        self.note_when_heard(one)
        return again

    def note_when_heard(self, one: ClientSet) -> None:
        heard = self.truth.sets.get(one.owed.set_id)
        if heard is not None:
            one.heard = heard.last

    def grow_old(self, one: ClientSet) -> None:
        """What sixty thousand changes leave behind: sequence numbers that are about to go round."""
        for sequence in (0x7FFF, 0xFFFD):
            self.deliver(one, Ping(one.owed.set_id, sequence), one.index)
        one.owed._sequence = one.sequence = 0xFFFD  # nobody has the time to make so many changes

    def all_is_told(self, one: ClientSet) -> None:
        """J5: the resolver has heard everything, so it has in the client's set what the client holds."""
        lives = self.truth.lives
        heard = self.truth.sets.get(one.owed.set_id)
        more = set() if heard is None else heard.members - one.holders.keys() - one.declared
        if any(not lives[oid].ended for oid in more):
            broken("B31", f"{one} has told everything, and its set holds {more} in vain")
        for oid in one.holders.keys() - one.declared:
            life, state = lives[oid], self.resolver.state_of(oid)
            if not life.ended and life.exporter.attached:
                if state is None or one.owed.set_id not in state["ping_sets"]:
                    broken("J5", f"{one} has told everything, and object {oid} is not in its set: {state}")
            elif life.ended and state is None and oid in one.verify - self.forgiven_here():
                broken("B27", f"{one} has asked about object {oid}, which is gone, and does not know it")
        one.verify.clear()
        one.safe = {oid for oid in one.holders if not lives[oid].ended and lives[oid].listed}
        self.note_when_heard(one)

    def forgiven_here(self) -> set[int]:
        """What was released: late pings for it are no error for a while, so nobody learns of its end by pinging."""
        return {oid for oid, life in self.truth.lives.items() if life.forgiven[0] is self.resolver}

    def change_identity(self, one: ClientSet) -> None:
        """`PingAgent._move`: what is refused as one identity is held as the next, at once."""
        left = [i for i in range(len(PRINCIPALS)) if not self.refuses(i)]
        if not left or not one.holders:
            return
        client, identity = one.client, min(left, key=lambda i: (i - one.identity) % len(PRINCIPALS))
        other = self.client_set(client, identity)
        other.due = min(other.due, self.truth.now)
        for oid, times in list(one.holders.items()):
            other.hold(oid, times)
            one.let_go(oid, times)
            client.holdings[oid].identity = identity

    def stray_arrives(self, one: ClientSet, ping: Ping, index: int) -> None:
        if self.up and not self.refuses(one.identity) and not self.names_who_is_away(one, ping):
            self.deliver(one, ping, index)

    def stranger_pings(self, one: ClientSet) -> None:
        """PNG-10: a set that an account made is that account's, whoever knows its number."""
        set_id, now, stranger = one.owed.set_id, self.truth.now, PingCaller("mallory", "10.6.6.6")
        if self.up and one.caller.principal is not None and self.truth.alive(set_id):
            oids = sorted(self.truth.sets[set_id].members)
            result = self.resolver.complex_ping(set_id, one.sequence + 1, [], oids, stranger, now)
            for status in (result.status, self.resolver.simple_ping(set_id, stranger, now)):
                self.expect(status, [ERROR_ACCESS_DENIED], f"a stranger's ping for set {set_id}")

    # The resolver.

    def sweep(self) -> None:
        """What `Reclaimer` does."""
        for exporter in self.exporters.values():
            exporter.flush()
        for _ in range(100 * self.up):
            self.answer_questions()
            deadline = self.resolver.next_deadline()
            questions: list[Question] = []
            if deadline is not None and deadline <= self.truth.now:
                self.resolver.expire(self.truth.now)
            else:
                questions = list(self.resolver.questions()) if self.asks else []
                if not questions:
                    break
            for question in questions:
                self.ask(question)
        else:
            if self.up:
                broken("Q", f"the resolver is never done: {self.resolver}")
        self.finish_pending()
        self.truth.prune()

    def ask(self, question: Question) -> None:
        (exporter,) = (e for e in self.exporters.values() if e.oxid == question.oxid)
        how = Answer.AT_ONCE if exporter.in_host else next(self.weather.answers)
        decides, answers, overtaken = how.value
        now = self.truth.now
        self.asked.append(Asked(question, exporter, now, now + decides, now + answers, overtaken))

    def answer_questions(self) -> None:
        now = self.truth.now
        for asked in list(self.asked):
            exporter = asked.exporter
            if asked.verdicts is None and asked.decides <= now:
                asked.verdicts = exporter.decide(asked.question, in_time=now <= asked.since + PATIENCE)
                if not asked.overtaken:
                    exporter.outbox.append(("answer", asked))
                    exporter.blocked_until = max(exporter.blocked_until, asked.answers)
            exporter.flush()
            if asked.overtaken and asked.verdicts is not None and asked.answers <= now:
                self.hear_answer(asked)
            if asked in self.asked and now >= asked.since + GIVE_UP:
                self.asked.remove(asked)
                self.resolver.unanswered(asked.question, now)
                for oid in asked.question.oids:
                    self.truth.lives[oid].kept = now

    def hear_answer(self, asked: Asked) -> None:
        """One that nobody waits for any more counts where it says DEAD."""
        if asked in self.asked:
            self.asked.remove(asked)
        assert asked.verdicts is not None
        for oid, verdict in zip(asked.question.oids, asked.verdicts, strict=True):
            life = self.truth.lives[oid]
            if verdict is Verdict.DEAD:
                life.listed = None
            elif verdict is Verdict.BUSY:
                life.kept = self.truth.now
        self.resolver.answered(asked.question, asked.verdicts, self.truth.now)

    def finish_pending(self) -> None:
        """`ObjectExporterService._when_decided`."""
        truth = self.truth
        for pending in list(self.pending):
            if self.resolver.undecided(pending.undecided):
                continue
            self.pending.remove(pending)
            one, set_id = pending.one, pending.set_id
            status = self.resolver.add_decided(set_id, pending.undecided, truth.now)
            known = {oid for oid in pending.undecided if self.resolver.exporter_of(oid) is not None}
            if set_id in truth.sets:
                heard = truth.sets[set_id]
                heard.members |= known & heard.awaited
                heard.awaited -= set(pending.undecided)
            if not pending.ping.set_id and status == OR_INVALID_OID:
                status = 0
            if not pending.awaited:
                continue
            one.waiting = False
            if self.clients.get(one.client.number) is not one.client:
                continue
            if not pending.answered or self.hangs(one.client) or self.names_who_is_away(one, pending.ping):
                one.owed.lost(pending.ping)
            elif self.hear(one, pending.ping, pending.status or status, set_id):
                self.go_on(one)
            self.forget_if_finished(one)

    def resolver_stops(self, back_at: float) -> None:
        """Its process dies; exporters and clients live on, and its own exporter does not."""
        self.up, self.back_at = False, back_at
        if 0 in self.exporters:
            self.exporters[0].end(killed=True)
        self.resolver.close(self.truth.now)
        self.asked.clear()
        self.strays.clear()
        for pending in self.pending:
            pending.one.waiting = pending.one.waiting and not pending.awaited
        self.pending.clear()
        for exporter in self.exporters.values():
            exporter.detach(ALWAYS)
        self.truth.sets.clear()

    def resolver_starts(self, *, asserted_after: float = 0) -> None:
        self.up, self.back_at = True, ALWAYS
        self.resolver = self._new_resolver()
        self.resolver.started(self.truth.now, survivors=True)
        self.truth.spared_until = self.truth.now + TIMEOUT
        self.truth.expecting_until = self.truth.now + PERIOD
        for exporter in self.exporters.values():
            exporter.attaches_at = self.truth.now + asserted_after
        self.exporters_attach()

    def exporters_attach(self) -> None:
        for exporter in self.exporters.values():
            if self.up and not exporter.attached and exporter.attaches_at <= self.truth.now:
                exporter.attach()

    def resolver_is_stopped(self, seconds: float) -> None:
        """B50: nothing runs there for a while, and what comes is not heard. Nobody is silent who could not be heard."""
        due, start, end = self.resolver.next_deadline(), self.truth.now, self.truth.now + seconds
        if self.resolver.has_questions:
            due = start
        for exporter in self.exporters.values():
            exporter.attaches_at = NEVER
        self.exporters_attach()
        self.stopped = True
        while (when := min([one.pings_at for one in self.client_sets()], default=ALWAYS)) <= end:
            self.truth.now = max(self.truth.now, int(when))
            self.ticks()
        self.truth.now, self.stopped = end, False
        if due is not None and end - max(due, start) > PERIOD / 2:  # as `Reclaimer` notices it
            self.resolver.slept(end)
            self.truth.spare_all(self.resolver.tables().sets, end + PERIOD)
        self.truth.spare_all((), end)

    # Time.

    def next_event(self) -> float:
        times = [self.back_at]
        times += [one.pings_at for one in self.client_sets()]
        if self.up:
            deadline = self.resolver.next_deadline()
            times += [exporter.attaches_at for exporter in self.exporters.values() if not exporter.attached]
            times += [] if deadline is None else [deadline]
            times += [asked.next() for asked in self.asked]
            times += [e.blocked_until for e in self.exporters.values() if e.attached and e.outbox]
        return max(min(times), self.truth.now)

    def turn(self, *, ticks_first: bool) -> None:
        """Everything that is due now."""
        if self.back_at <= self.truth.now:
            self.resolver_starts(asserted_after=1)
        self.exporters_attach()
        if not ticks_first:
            self.sweep()
        self.ticks()
        self.sweep()

    def ticks(self) -> None:
        while due := [one for one in self.client_sets() if one.pings_at <= self.truth.now]:
            due[0].due = max(due[0].due + PERIOD, self.truth.now + PERIOD // 2)
            self.tick(due[0])

    def advance(self, seconds: float, weather: Weather, *, ticks_first: bool = True) -> None:
        """Let time pass, and everything happen in its turn."""
        end, turns = self.truth.now + seconds, 0
        self.weather, self.asks = weather, True
        self.turn(ticks_first=ticks_first)
        while (when := self.next_event()) <= end:
            turns = 0 if when > self.truth.now else turns + 1
            assert turns < 9, f"time stands still at {when}"
            self.truth.now = int(when)
            self.turn(ticks_first=ticks_first)
        self.truth.now = end

    def until_asked(self, weather: Weather, most: float, *, aloud: bool) -> None:
        """Let time pass until an exporter thinks about a question; or, not `aloud`, until there is one to ask."""
        self.advance(0, weather)
        self.asks, end = aloud, self.truth.now + most
        while not self.asked and not self.resolver.has_questions and self.next_event() <= end:
            self.truth.now = int(self.next_event())
            self.turn(ticks_first=True)

    def check(self) -> None:
        """The laws that hold at every moment."""
        for one in self.client_sets():
            if one.owed.oids != one.holders.keys():
                broken("J5", f"{one} holds {set(one.holders)}, and its set says {set(one.owed.oids)}")
            if not self.hangs(one.client) and one.due > self.truth.now + PERIOD:
                broken("J5", f"{one} will not ping within a period")
        if self.up:
            self.truth.check_bounds()
            self.truth.check_tables(self.resolver, self.ledger)

    # The end.

    def wind_up(self) -> None:
        """Clients die without a word; everything that is left must go by itself, and leave nothing."""
        truth, fine = self.truth, Weather(*FINE)
        for call in list(self.calls):
            self.calls.remove(call)
            call.life.exporter.end_call(call)
        self.clients.clear()
        self.transit.clear()
        if not self.up:
            self.resolver_starts()
        self.advance(TIMEOUT + 2 * (PERIOD + SWEEP + DELAY), fine)
        for life in truth.living():
            while life.held:
                life.exporter.unhold(life)
        self.advance(2 * (PERIOD + SWEEP + DELAY), fine)
        self.check()
        self.resolver.expire(truth.now)  # sets without objects have nobody to wake for
        left = [life.oid for life in truth.living() if not life.noping]
        statistics = self.resolver.statistics()
        if left or statistics["sets"] or statistics["oids"] != len(truth.living()):
            broken("P3", f"all clients are dead since long; left: objects {left}, {statistics}")
        for exporter in list(self.exporters.values()):
            exporter.end(killed=False)
        for life in truth.lives.values():
            if life.destroyed != (life.ended != "killed"):
                broken("J4", f"object {life.oid} ({life.ended}) was destroyed {life.destroyed} times")
        if any(self.resolver.statistics().values()) or self.ledger_not_at_rest():
            broken("Q", f"left behind: {self.resolver.statistics()}, {self.ledger}")

    def ledger_not_at_rest(self) -> bool:
        return any(self.ledger.live().values())

    def close(self) -> None:
        """Give everything back, whatever has gone wrong."""
        for exporter in list(self.exporters.values()):
            exporter.end(killed=True)
        self.resolver.close(self.truth.now)
