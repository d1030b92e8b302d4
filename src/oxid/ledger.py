"""Live counts: every kind of owned resource counts itself in and out.

    ledger = Ledger()
    ledger.object.enter()        an owner acquires one
    ledger.object.leave()        and gives it back, exactly once
    ledger.live()                {"object": 0, ...}: what `oxid status` and the test fixture read

A `Counter` is three integers; an ordinary call costs additions, never a lock or an allocation.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = (
    "rpc_connection",
    "rpc_association",
    "rpc_call",
    "security_context",
    "context_handle",
    "exporter",
    "object",
    "interface_pointer",
    "ping_set",
    "pinged_oid",
    "client_set",
    "endpoint",
    "local_server",
    "http_connection",
    "http_request",
    "ecb",
    "isapi_io",
    "virtual_connection",
    "tunnel_channel",
    "sink",
    "timer",
    "task",
)
"""The kinds of the contract that exist now; a kind is added with the part that owns it."""


class Counter:
    """How many of one kind are live, the most there ever were, and how many there have been."""

    __slots__ = ("live", "peak", "total")

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self.total = 0

    def enter(self) -> None:
        self.total += 1
        live = self.live = self.live + 1
        if live > self.peak:
            self.peak = live

    def leave(self) -> None:
        self.live -= 1

    def __repr__(self) -> str:
        return f"<Counter {self.live} live, peak {self.peak}, total {self.total}>"


class Ledger:
    """One counter per kind, as attributes named after the kinds."""

    __slots__ = KINDS

    rpc_connection: Counter
    rpc_association: Counter
    rpc_call: Counter
    security_context: Counter
    context_handle: Counter
    exporter: Counter
    object: Counter
    interface_pointer: Counter
    ping_set: Counter
    pinged_oid: Counter
    client_set: Counter
    endpoint: Counter
    local_server: Counter
    http_connection: Counter
    http_request: Counter
    ecb: Counter
    isapi_io: Counter
    virtual_connection: Counter
    tunnel_channel: Counter
    sink: Counter
    timer: Counter
    task: Counter

    def __init__(self) -> None:
        for kind in KINDS:
            setattr(self, kind, Counter())

    def counter(self, kind: str) -> Counter:
        """The counter of a kind, by name. Raises AttributeError for one that does not exist."""
        found: Counter = getattr(self, kind)
        return found

    def live(self) -> dict[str, int]:
        """How many of each kind are held now."""
        return {kind: self.counter(kind).live for kind in KINDS}

    def peak(self) -> dict[str, int]:
        """The most of each kind that were ever held at once."""
        return {kind: self.counter(kind).peak for kind in KINDS}

    def total(self) -> dict[str, int]:
        """How many of each kind there have been."""
        return {kind: self.counter(kind).total for kind in KINDS}

    def __repr__(self) -> str:
        held = ", ".join(f"{kind} {count}" for kind, count in self.live().items() if count)
        return f"<Ledger {held or 'at rest'}>"
