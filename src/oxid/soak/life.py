"""One client of the soak: activates, calls, queries, copies, hands on and releases objects at random, and reports.

It lives in a process of its own (`oxid.soak.nursery`) and knows nothing of what is done to it. What it reports are
lines of JSON: what it holds from when on, what it lets go, and every call that fails, with the times; the soak
judges. A report that is written has arrived, even where the client is killed behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import traceback
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from oxid.auth.accounts import MemoryAccountStore
from oxid.com.machine import Machine, connect
from oxid.com.options import CallbackOptions, ClientOptions
from oxid.errors import OxidError
from oxid.interfaces.unknown import IUnknown
from oxid.samples.calculator import CLSID_CALCULATOR, ICalculator
from oxid.samples.ticker import CLSID_TICKER, ITicker, ITickerSink
from oxid.soak.exchange import Exchange
from oxid.soak.resident import CLSID_DYNAMIC, CLSID_STATIC, IResident
from oxid.soak.stage import CALL_S, HOST_USER, identity_of

MOST_HELD: Final = 6
"""Objects of one client."""
TICK_MS: Final = 250
CLASSES: Final[Mapping[str, tuple[Any, Any]]] = {
    "calculator": (CLSID_CALCULATOR, ICalculator),  # in the host
    "resident": (CLSID_DYNAMIC, IResident),  # in a local server
    "static": (CLSID_STATIC, IResident),
    "ticker": (CLSID_TICKER, ITicker),
}
FAILED: Final = object()


@dataclass(frozen=True, slots=True)
class Part:
    """What a client is told."""

    number: int
    generation: int
    """How many had its number before."""
    role: str
    """`life`, or `abandon`: hold something of the static endpoint's class and wait to be killed."""
    seed: int
    clients: int
    host: str
    port: int
    period: float
    directory: str

    @property
    def pause(self) -> float:
        """Seconds between two things that it does, on average: all clients together do about a hundred a second."""
        return max(0.2, self.clients / 100) if self.role == "life" else self.period


@dataclass(eq=False, slots=True)
class Held:
    """An object that this client holds."""

    kind: str
    proxy: Any
    since: float
    born: float
    """When its first client activated it."""
    server: int = 0
    """The process that it lives in, where that is a local server and known."""


class Life:
    """Of one client, from `run` on."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._chance = random.Random(f"{part.seed} client {part.number} {part.generation}")
        self._over = asyncio.Event()
        self._held: list[Held] = []
        self._calls = 0
        self._machine: Machine | None = None
        self._exchange: Exchange | None = None
        self._offered: dict[int, Held] = {}
        self._offers = 0
        self._taking: set[asyncio.Task[None]] = set()
        self._ticks: Ticks | None = None

    async def run(self) -> dict[str, Any]:
        """Live until SIGTERM, then give everything back."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._over.set)
        part = self.part
        options = ClientOptions(
            port=part.port,
            ping_period=part.period,
            call_timeout=CALL_S,
            agent="machine" if part.role == "life" else "own",
            callbacks=CallbackOptions(accounts=MemoryAccountStore({HOST_USER.user: HOST_USER.password})),
        )
        try:
            while not self._over.is_set():
                began = monotonic()
                try:
                    async with connect(part.host, identity_of(part.number), options=options) as machine:
                        await self._live(machine)
                except (OxidError, OSError, TimeoutError) as error:
                    self._failed("connect", error, None, began)
                    await self._wait(part.period)
        except Exception:
            self._report("fault", text=traceback.format_exc()[-1500:])
            raise
        return {}

    async def _live(self, machine: Machine) -> None:
        self._machine = machine
        self._report("up")
        if self.part.role == "abandon":
            await self._activate("static")
            await self._over.wait()
            return
        with Exchange(Path(self.part.directory), self.part.number, self._hear) as exchange:
            self._exchange = exchange
            try:
                while not self._over.is_set():
                    await self._act()
                    await self._wait(self._chance.expovariate(1 / self.part.pause))
            finally:
                self._exchange = None
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)
        if self._ticks is not None:
            await self._end_ticks()
        while self._held:
            await self._release(self._held[-1])
        self._did()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass

    # What it does -------------------------------------------------------------------------------------

    async def _act(self) -> None:
        if self._ticks is not None:
            self._look_at_ticks(self._ticks)
        if not self._held:
            await self._activate(self._chance.choice(("calculator", "resident")))
            return
        held = self._chance.choice(self._held)
        match self._chance.choices(ACTS, weights=WEIGHTS)[0]:
            case "activate" if len(self._held) < MOST_HELD:
                await self._activate(self._chance.choice(("calculator", "resident")))
            case "clone" if len(self._held) < MOST_HELD and held.kind == "calculator":
                await self._clone(held)
            case "query":
                await self._query(held)
            case "copy":
                await self._copy(held)
            case "release" if held not in self._offered.values():
                await self._release(held)
            case "offer":
                if await self._call(held):  # who was stopped for long may hold what is dead
                    self._offer(held)
            case "ticks" if self._ticks is not None:
                await self._end_ticks()
            case "ticks" if self.part.number % 4 == 1:
                await self._begin_ticks()
            case _:
                await self._call(held)
        if self._calls >= 20:
            self._did()

    async def _try(self, act: str, held: Held | None, work: Awaitable[Any], kind: str = "") -> Any:
        """What comes of it, or FAILED where it failed in a way that programs meet; that is reported."""
        began = monotonic()
        try:
            return await work
        except (OxidError, OSError, TimeoutError) as error:
            self._failed(act, error, held, began, kind=kind)
            return FAILED

    async def _activate(self, kind: str) -> None:
        assert self._machine is not None
        clsid, interface = CLASSES[kind]
        proxy = await self._try("activate", None, _result(self._machine.activate(clsid, interface)), kind)
        if proxy is not FAILED:
            await self._call(self._take(kind, proxy))

    def _take(self, kind: str, proxy: Any, server: int = 0, why: str = "activate") -> Held:
        now = monotonic()
        held = Held(kind, proxy, now, now, server)
        self._held.append(held)
        self._report("hold", oid=proxy.oid, kind=kind, why=why)
        return held

    async def _call(self, held: Held, proxy: Any = None) -> bool:
        """One call; whether it was answered."""
        proxy = held.proxy if proxy is None else proxy
        if held.kind == "calculator":
            a, b = self._chance.randrange(1 << 30), self._chance.randrange(1 << 30)
            answer = await self._try("call", held, proxy.add(a, b))
            right = a + b
        else:
            answer = await self._try("call", held, proxy.process())
            right = held.server or answer
        if answer is FAILED:
            if self._chance.random() < 0.5:
                await self._release(held)
            return False
        if answer != right:
            self._report("wrong", text=f"{held.kind} {proxy.oid:016x} answered {answer} instead of {right}")
            return True
        self._calls += 1
        if held.kind != "calculator" and not held.server:
            held.server = answer
            self._report("server", oid=proxy.oid, server=answer)
        return True

    async def _clone(self, held: Held) -> None:
        made = await self._try("call", held, held.proxy.clone())
        if made is not FAILED:
            await self._call(self._take("calculator", made))

    async def _query(self, held: Held) -> None:
        other = await self._try("call", held, held.proxy.query(IUnknown))
        if other is not FAILED:
            self._calls += 1
            await other.release()

    async def _copy(self, held: Held) -> None:
        async with held.proxy.copy() as copy:
            await self._call(held, copy)

    async def _release(self, held: Held) -> None:
        if held in self._held:
            self._held.remove(held)
            self._report("let_go", oid=held.proxy.oid)  # from here on it may be gone
            await held.proxy.release()

    # Handing on ---------------------------------------------------------------------------------------

    def _offer(self, held: Held) -> None:
        """Hand an object on; it is held here too until the other has it, or does not answer."""
        assert self._machine is not None
        assert self._exchange is not None
        to = self._chance.randrange(self.part.clients)
        if to == self.part.number or held in self._offered.values():
            return
        objref = self._machine.marshal(held.proxy)
        assert objref is not None  # it is a proxy
        self._offers += 1
        offer = {
            "at": monotonic(),
            "number": self._offers,
            "from": self.part.number,
            "kind": held.kind,
            "server": held.server,
            "born": held.born,
            "objref": objref.hex(),
        }
        if not self._exchange.send(to, offer):
            self._machine.take_back(objref)
            return
        self._report("offer", oid=held.proxy.oid)
        self._offered[self._offers] = held
        asyncio.get_running_loop().call_later(2 * self.part.period, self._offered.pop, self._offers, None)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "objref" in message:
            task = asyncio.get_running_loop().create_task(self._take_over(message))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
        elif (held := self._offered.pop(message["took"], None)) is not None and self._chance.random() < 0.5:
            task = asyncio.get_running_loop().create_task(self._release(held))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)

    async def _take_over(self, offer: Mapping[str, Any]) -> None:
        """Unmarshal what another client hands on, and answer once it is held."""
        machine = self._machine
        assert machine is not None
        kind, began = offer["kind"], monotonic()
        if began - offer["at"] > self.part.period:
            return  # we were stopped: who offered it may be gone since long ago, and the object too
        proxy: Any = machine.proxy(bytes.fromhex(offer["objref"]), CLASSES[kind][1])
        held = Held(kind, proxy, began, offer["born"], offer["server"])
        oid = proxy.oid
        try:
            await machine.adopt([proxy])
        except (OxidError, OSError, TimeoutError) as error:
            self._failed("adopt", error, held, began, oid=oid)
            return
        self._held.append(held)
        self._report("hold", oid=proxy.oid, kind=kind, why="offer")
        if self._exchange is not None:
            self._exchange.send(offer["from"], {"took": offer["number"]})

    # Events -------------------------------------------------------------------------------------------

    async def _begin_ticks(self) -> None:
        assert self._machine is not None
        proxy = await self._try(
            "activate", None, _result(self._machine.activate(CLSID_TICKER, ITicker)), "ticker"
        )
        if proxy is FAILED:
            return
        now = monotonic()
        held = Held("ticker", proxy, now, now)
        self._report("hold", oid=proxy.oid, kind="ticker", why="activate")
        ticks = Ticks(held)
        began = monotonic()
        try:
            await ticks.stack.enter_async_context(proxy.subscribe(ITickerSink, ticks.on_tick))
            await proxy.start(TICK_MS, 0)
        except (OxidError, OSError, TimeoutError) as error:
            self._failed("subscribe", error, held, began)
            await self._drop_ticks(ticks)
            return
        ticks.last = monotonic()
        self._ticks = ticks

    def _look_at_ticks(self, ticks: Ticks) -> None:
        """The events of a living object come in order, and they come."""
        now = monotonic()
        if ticks.missed:
            self._report("wrong", text=f"{ticks.missed} ticks out of order, the last is {ticks.n}")
            ticks.missed = 0
        silent = now - max(ticks.last, ticks.looked - 1.0)
        # A process that did not run, heard nothing: what came meanwhile has yet to be read.
        if now - ticks.looked > 10 * self.part.pause + 1.0:
            ticks.last = now
        elif silent > 3 * self.part.period + 20 * TICK_MS / 1000 and not ticks.told:
            ticks.told = True
            self._failed(
                "ticks", TimeoutError(f"no tick for {now - ticks.last:.1f} s"), ticks.held, ticks.last
            )
        ticks.looked = now

    async def _end_ticks(self) -> None:
        ticks, self._ticks = self._ticks, None
        if ticks is not None:
            self._calls += ticks.n
            await self._drop_ticks(ticks)

    async def _drop_ticks(self, ticks: Ticks) -> None:
        await ticks.stack.aclose()
        self._report("let_go", oid=ticks.held.proxy.oid)
        await ticks.held.proxy.release()

    # Reports ------------------------------------------------------------------------------------------

    def _failed(
        self,
        act: str,
        error: Exception,
        held: Held | None,
        began: float,
        *,
        kind: str = "",
        oid: int = 0,
    ) -> None:
        known: dict[str, Any] = {}
        if held is not None:
            known = {"oid": oid or held.proxy.oid, "server": held.server}
            known |= {"since": held.since, "born": held.born}
        self._report(
            "failed",
            act=act,
            kind=kind or (held.kind if held is not None else ""),
            error=type(error).__name__,
            text=str(error)[:300],
            began=began,
            **known,
        )

    def _did(self) -> None:
        self._report("did", calls=self._calls)
        self._calls = 0

    def _report(self, what: str, **fields: Any) -> None:
        part = self.part
        line = json.dumps({"n": part.number, "g": part.generation, "at": monotonic(), "what": what, **fields})
        os.write(1, line.encode()[:4000] + b"\n")  # less than PIPE_BUF: whole, whoever else writes


ACTS: Final = ("call", "activate", "clone", "query", "copy", "release", "offer", "ticks")
WEIGHTS: Final = (6, 3, 1, 1, 1, 2, 1, 1)


class Ticks:
    """A subscription, and what came of it."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.stack = AsyncExitStack()
        self.n = 0
        self.last = self.looked = monotonic()
        self.missed = 0
        self.told = False

    def on_tick(self, n: int, date: float) -> None:
        self.missed += n != self.n + 1
        self.n = n
        self.last = monotonic()


async def _result(pending: Awaitable[Any]) -> Any:
    """A proxy on its way, as a coroutine."""
    return await pending
