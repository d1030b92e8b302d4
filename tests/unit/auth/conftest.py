"""A fixed world, one server's accounts, and PDUs to protect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from oxid.auth import (
    AccountStore,
    Authenticator,
    Credentials,
    MemoryAccountStore,
    Password,
    SecurityContext,
    initiator,
)
from oxid.world import World

NOW = 1_750_000_000.0


@dataclass
class FixedClock:
    seconds: float = 0.0
    utc_now: float = NOW

    def now(self) -> float:
        return self.seconds

    def utc(self) -> float:
        return self.utc_now


@dataclass
class ScriptedEntropy:
    """Hands out the given tokens first, then counts."""

    script: list[bytes] = field(default_factory=list)
    given: int = 0

    def token(self, size: int) -> bytes:
        if self.script:
            token = self.script.pop(0)
            assert len(token) == size
            return token
        self.given += 1
        return self.given.to_bytes(4, "little") * (size // 4)


Pair = tuple[SecurityContext, SecurityContext]


def shake_hands(client: SecurityContext, server: SecurityContext) -> Pair:
    """Pass tokens to and fro until nobody has anything to say."""
    token = client.step(b"")
    for _ in range(6):
        if token is None:
            break
        answer = server.step(token)
        if answer is None or client.complete:
            break
        token = client.step(answer)
    assert client.complete
    assert server.complete
    return client, server


class TrackingAuthenticator(Authenticator):
    """Remembers the contexts it gave out, so that a fixture can close them."""

    def __init__(self, *args: Any, opened: list[SecurityContext], **more: Any) -> None:
        super().__init__(*args, **more)
        self.opened = opened

    def acceptor(self, *args: Any, **more: Any) -> SecurityContext:
        context = super().acceptor(*args, **more)
        self.opened.append(context)
        return context


@dataclass
class Bench:
    """A server with its accounts, and clients that come to it."""

    world: World
    opened: list[SecurityContext] = field(default_factory=list)
    authenticator: Authenticator = field(init=False)

    def __post_init__(self) -> None:
        passwords = {"admin": "secret", "guest": "welcome", "LAB\\ann": "lab"}
        self.authenticator = self.server(MemoryAccountStore(passwords, admins={"admin"}))

    def server(self, store: AccountStore, **more: Any) -> Authenticator:
        return TrackingAuthenticator(store, world=self.world, opened=self.opened, **more)

    def client(self, credentials: Credentials, auth_type: int, level: int, **more: Any) -> SecurityContext:
        more.setdefault("target", "host/server")
        context = initiator(credentials, auth_type, level, world=self.world, **more)
        self.opened.append(context)
        return context

    def pair(
        self,
        auth_type: int,
        level: int,
        credentials: Credentials | None = None,
        **more: Any,
    ) -> Pair:
        client = self.client(credentials or Password("admin", "secret"), auth_type, level, **more)
        return shake_hands(client, self.authenticator.acceptor(auth_type, level))


@pytest.fixture
def world() -> World:
    return World(clock=FixedClock(), entropy=ScriptedEntropy())


@pytest.fixture
def bench(world: World) -> Iterator[Bench]:
    bench = Bench(world)
    yield bench
    for context in bench.opened:
        context.close()


HEADER, TRAILER = b"HEADER--" * 3, b"\x0a\x06\x00\x00\x01\0\0\0"


@pytest.fixture
def send() -> Callable[[SecurityContext, bytes], bytearray]:
    """Seal one PDU; the result is what travels."""

    def seal(context: SecurityContext, body: bytes) -> bytearray:
        pdu = bytearray(b"earlier" + HEADER + body + TRAILER)
        token = context.seal(pdu, 7, 7 + 24, 7 + 24 + len(body))
        assert len(token) == context.signature_size
        return pdu[7:] + token

    return seal


@pytest.fixture
def receive() -> Callable[[SecurityContext, bytes | bytearray], bytes]:
    def unseal(context: SecurityContext, pdu: bytes | bytearray) -> bytes:
        return context.unseal(pdu, 24, len(pdu) - context.signature_size - 8)

    return unseal
