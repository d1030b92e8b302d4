"""Two clients in one world of tunnels, one of them hostile: what it sends is changed on the way, in every way.

attack(seed)        raises `Broken` where the other one notices, anything leaks, or anything stays behind
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, Final

from tests.fuzz.tunnels import SMALL, pdus_of
from tests.fuzz.tunnels_mutate import made_pdu
from tests.fuzz.tunnels_replay import Broken
from tests.support.tunnel_world import ClientEnd, End, TunnelWorld

from oxid.tunnel import rts as r
from oxid.tunnel.in_proxy import InProxy

ALICE, BOB = b"~alice~~", b"~bobby~~"
ROUNDS: Final = 4


class AttackWorld(TunnelWorld):
    """The requests of "alice" are not what her client wrote."""

    def __init__(self, seed: int, rng: random.Random) -> None:
        super().__init__(seed, proxies=rng.choice((1, 1, 2)), options=SMALL, pieces="crumbs")
        self.rng = rng
        self.echo = True
        self.rate = rng.choice((0.02, 0.1, 0.4))
        self.cookies: list[bytes] = [bytes(16)]
        self.bob: ClientEnd | None = None

    def cut(self, size: int) -> int:
        return size

    @property
    def knows_bob(self) -> bool:
        return self.bob is not None and self.bob.is_open and len(self.tables) == 1

    def learn(self, client: ClientEnd) -> None:
        """The hostile one knows every cookie of this proxy.

        Not those of another: cookies are all that a server has to tell whose channel comes from which proxy (R1).
        Not before they were used: whoever comes first with a cookie has it. AB-11
        """
        if client is self.bob and not self.knows_bob:
            return
        self.cookies += [leg.cookie for leg, _, _ in client.requests]
        self.cookies.append(client.tunnel.cookie)

    def hijack(self, *, is_in: bool) -> bytes:
        """A successor's first PDU with everything right of the other client's virtual connection."""
        assert self.bob is not None
        if not self.knows_bob:
            return made_pdu(self.rng, self.cookies)
        vc = self.bob.tunnel.cookie
        legs = [leg for leg, _, _ in self.bob.requests if leg.is_in is is_in and not leg.finished]
        old = legs[0].cookie if legs else bytes(16)
        mine = self.rng.randbytes(16)
        if is_in:
            return self.rng.choice((r.in_a1(vc, old, mine), r.conn_b1(vc, mine, 1 << 20, 300_000, mine)))
        return self.rng.choice((r.out_a3(vc, old, mine, 16384), r.conn_a1(vc, mine, 16384)))

    def pipe(self) -> tuple[End, End]:
        one, other = HostileEnd(self), HostileEnd(self)
        one.other, other.other = other, one
        self.ends += (one, other)
        return one, other


class HostileEnd(End):
    """Delivers something else where the hostile client's requests arrive at a proxy."""

    world: AttackWorld
    hostile: bool | None = None

    def step(self) -> None:
        if self.hostile is None:
            self.hostile = getattr(self.leg, "identity", "") == "alice"
        if not self.hostile or not self.inbox or not isinstance(self.inbox[0], bytes):
            super().step()
            return
        piece = self.inbox.popleft()
        self.waiting -= len(piece)
        leg = self.leg
        for data in self._changed(piece):
            # what was made up is marked as hers: nothing of bob's has been heard by her
            leg.receive(data.replace(b"~l00000~", ALICE))

    def _changed(self, piece: bytes) -> list[bytes]:
        world, rng = self.world, self.world.rng
        found = []
        for pdu in pdus_of(piece):
            if rng.random() >= world.rate:
                found.append(pdu)
                continue
            choice = rng.randrange(8)
            if choice == 0:
                found += [pdu, pdu]
            elif choice == 1 and rng.random() < 0.7:
                found.append(world.hijack(is_in=isinstance(self.leg, InProxy)))
            elif choice == 1:
                for cookie in world.cookies:
                    pdu = pdu.replace(cookie, rng.choice(world.cookies))
                found.append(pdu)
            elif choice == 2 and len(pdu) > 20:
                changed = bytearray(pdu)
                changed[rng.randrange(min(len(pdu), 120))] ^= rng.choice((1, 4, 16, 255))
                found.append(bytes(changed).replace(BOB, ALICE))
            elif choice == 3:
                found.append(pdu[: rng.randrange(len(pdu))])
            elif choice > 3:
                found += [pdu, *(made_pdu(rng, world.cookies) for _ in range(rng.choice((1, 1, 3))))]
        if rng.random() < 0.2:
            joined = b"".join(found)
            cut = rng.randrange(len(joined) + 1)
            found = [joined[:cut], joined[cut:]]
        return [data for data in found if data]


def attack(seed: int) -> str:
    """One conversation; returns what became of the hostile client."""
    rng = random.Random(seed)
    world = AttackWorld(seed, rng)
    bob = world.bob = world.open("bob", settle=rng.random() < 0.8)
    world.learn(bob)
    alice = world.open("alice", settle=False)
    try:
        _converse(world, rng, alice, bob)
    except Exception as error:
        with suppress(AssertionError):
            world.close()
        raise Broken(f"attack({seed}): {type(error).__name__}: {error}") from error
    outcome = "went on" if alice.is_open and not alice.lost else "ended"
    world.close()
    return outcome


def _converse(world: AttackWorld, rng: random.Random, alice: ClientEnd, bob: ClientEnd) -> None:
    sent = []
    for _ in range(ROUNDS):
        world.learn(alice)
        world.learn(bob)
        if alice.is_open and not alice.lost and alice.may_write:
            alice.send(ALICE * rng.choice((1, 300, 1500)))
        world.settle(100_000)
        payload = BOB * rng.choice((1, 400, 700))
        bob.send(payload)
        sent.append(payload)
        world.settle(100_000)
        if rng.random() < 0.1:
            world.advance(rng.choice((31, 100)))
    _unharmed(bob, sent)
    for end in (alice, *world.servers):
        heard = b"".join((*end.got, bytes(end.data)))
        if end is alice and BOB in heard:
            raise Broken("the hostile client heard the other")
        if ALICE in heard and BOB in heard:
            raise Broken("two clients are heard in one virtual connection")


def _unharmed(bob: Any, sent: list[bytes]) -> None:
    if bob.lost or bob.failures or not bob.is_open:
        raise Broken(f"the other client was cut off: {bob.lost or bob.failures}")
    if bob.got != sent:
        raise Broken(f"the other client sent {len(sent)} PDUs and got {len(bob.got)}")
