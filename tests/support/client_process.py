"""A client in a process of its own, told what to do over pipes: what scenarios with real kills play on.

    with ClientProcess(host.port, agent=socket, period=0.5) as client:
        (oid,) = client.do("activate", clsid=CLSID)
        client.do("call", oid=oid)
        client.kill()

The script at the bottom is the process: it knows nothing but oxid's public names.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
ANSWER_S = 30.0


class ClientFailed(AssertionError):
    """The client process did not answer, or failed; the message has what it said."""


class ClientProcess:
    """One process; leaving the block ends it, whatever it does."""

    def __init__(
        self,
        port: int,
        *,
        user: str = "admin",
        password: str = "Correct-Horse-9",
        agent: str | Path | None = None,
        period: float = 1.0,
        **options: Any,
    ) -> None:
        """`agent` is the socket of its machine; None lets it ping for itself. `options` of ClientOptions; `accounts`
        for callers of its sinks."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OXID_")}
        told = {"OXID_AGENT_SOCKET": str(agent), "OXID_AGENT": "machine"} if agent else {"OXID_AGENT": "own"}
        setup = {"port": port, "user": user, "password": password, "options": options}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__)), json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**kept, **told, "OXID_PING_PERIOD": f"{period:g}", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self._heard = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, what: str, **fields: Any) -> Any:
        """Have something done; the answer. Raises ClientFailed with the process's words where it fails."""
        self.tell(what, **fields)
        answer = self.hear()
        if "error" in answer:
            raise ClientFailed(f"{what}: {answer['error']}\n{self.said()}")
        return answer["ok"]

    def tell(self, what: str, **fields: Any) -> None:
        """Have something done without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, within: float = ANSWER_S) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        until = time.monotonic() + within
        while b"\n" not in self._heard:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise ClientFailed(f"no answer in {within:g} s\n{self.said()}")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise ClientFailed(f"the client ended with {self.process.wait()}\n{self.said()}")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-4000:]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, and wait for its end where that is one."""
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(10)

    def end(self) -> None:
        """Let it end as programs do: its block ends, and everything is given back."""
        if self.process.poll() is None:
            self.tell("end")
            try:
                code = self.process.wait(15)
            except subprocess.TimeoutExpired:
                raise ClientFailed(f"it does not end\n{self.said()}") from None
            if code:
                raise ClientFailed(f"it ended with {code}\n{self.said()}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.process.poll() is None:
                self.end()
        finally:
            self.close()


# -- the process ----------------------------------------------------------------------------------------


class _Script:
    def __init__(self, machine: Any) -> None:
        import oxid

        self.oxid = oxid
        self.machine = machine
        self.proxies: dict[int, Any] = {}
        self.leaked: list[Any] = []
        self.events: list[list[Any]] = []
        self.subscriptions: list[Any] = []
        self.sinks: list[list[int]] = []
        """Of each sink: its last tick, how many were not the next one, how many there were."""
        self.gone: list[int] = []
        self.living: asyncio.Task[None] | None = None
        self.cycles = 0
        self.troubles: Counter[str] = Counter()
        """What a life met that its program may meet, and how often: OxidErrors."""
        self.faults: list[str] = []
        """What it must not meet."""

    async def activate(
        self, clsid: str, interface: str = "tests.support.lifetimes:IProbe", count: int = 1
    ) -> Any:
        cls = self._interface(interface)
        made = [await self.machine.activate(clsid, cls) for _ in range(count)]
        self.proxies |= {proxy.oid: proxy for proxy in made}
        for proxy in made:
            proxy.on_gone(partial(self.gone.append, proxy.oid))
        return [proxy.oid for proxy in made]

    async def heard_of_the_end(self) -> list[int]:
        """Objects of which it turned out that they are dead."""
        return self.gone

    @staticmethod
    def _interface(name: str) -> Any:
        from importlib import import_module

        module, _, cls = name.partition(":")
        return getattr(import_module(module), cls)

    async def call(self, oid: int, method: str = "whoami", arguments: tuple[Any, ...] = ()) -> Any:
        return await getattr(self.proxies[oid], method)(*arguments)

    async def release(self, oid: int) -> None:
        await self.proxies.pop(oid).release()

    async def release_all(self) -> None:
        for oid in list(self.proxies):
            await self.release(oid)

    async def leak(self, cycle: bool = True) -> None:
        """Forget every proxy without a release, in a reference cycle that nobody collects."""
        self.leaked = [[proxy] for proxy in self.proxies.values()]
        if cycle:
            for cell in self.leaked:
                cell.append(cell)
            import gc

            gc.disable()
            self.leaked = []
        self.proxies.clear()

    async def subscribe(self, oid: int) -> int:
        from oxid.samples.ticker import ITickerSink

        subscription = self.proxies[oid].subscribe(ITickerSink, lambda n, date: self.events.append([n, date]))
        await subscription.__aenter__()
        self.subscriptions.append(subscription)
        return subscription.cookie

    async def subscribe_many(self, oid: int, count: int) -> int:
        """So many sinks, each of which notes its last tick, and whether one was missed or out of order."""
        from oxid.samples.ticker import ITickerSink

        def sink(cell: list[int]) -> Any:
            def on_tick(n: int, date: float) -> None:
                if n != cell[0] + 1 and cell[0]:
                    cell[1] += 1
                cell[0] = n
                cell[2] += 1

            return on_tick

        for _ in range(count):
            cell = [0, 0, 0]
            self.sinks.append(cell)
            subscription = self.proxies[oid].subscribe(ITickerSink, sink(cell))
            await subscription.__aenter__()
            self.subscriptions.append(subscription)
        return len(self.subscriptions)

    async def sinks_heard(self) -> dict[str, int]:
        return {
            "least": min(cell[2] for cell in self.sinks),
            "most": max(cell[2] for cell in self.sinks),
            "out_of_order": sum(cell[1] for cell in self.sinks),
            "memory": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
        }

    async def unsubscribe(self) -> None:
        while self.subscriptions:
            await self.subscriptions.pop().__aexit__(None, None, None)

    async def heard(self) -> list[list[Any]]:
        return self.events

    async def pinged_by(self) -> str:
        return repr(self.machine.lifelines.agent)

    async def handed_over(self) -> bool:
        """Whether the machine's agent alone pings for what is held, and every resolver knows that."""
        agent = self.machine.lifelines.agent
        return agent._channel is not None and not agent._held_here and agent._own.idle

    async def fork_and_leave(self) -> int:
        """Leave a child that lives on without a word, as a daemon does; the parent ends."""
        child = os.fork()
        if child:
            return child
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        signal.alarm(60)
        signal.pause()
        os._exit(0)

    async def use_in_a_child(self, oid: int) -> dict[str, str]:
        """What a child of a fork meets, which uses the proxies of its parent on a loop of its own."""
        heard, told = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.write(told, json.dumps(self._use_here(oid)).encode())
            os._exit(0)
        os.close(told)
        with os.fdopen(heard) as pipe:
            text = await asyncio.to_thread(pipe.read)
        await asyncio.to_thread(os.waitpid, child, 0)
        return json.loads(text)

    def _use_here(self, oid: int) -> dict[str, str]:
        from tests.support.lifetimes import CLSID_PROBE, IProbe

        proxy, said = self.proxies[oid], {}
        uses = {
            "call": proxy.whoami,
            "activate": lambda: self.machine.activate(CLSID_PROBE, IProbe),
            "release": proxy.release,
        }
        for name, use in uses.items():

            async def tried(use: Any = use) -> Any:
                async with asyncio.timeout(3):
                    return await use()

            try:
                said[name] = f"worked: {asyncio.run(tried())}"
            except Exception as error:
                kind = "OxidError" if isinstance(error, self.oxid.OxidError) else type(error).__name__
                said[name] = f"{kind}: {error}"
        return said

    async def live(
        self,
        clsid: str,
        hold: float,
        interface: str = "tests.support.lifetimes:IProbe",
        call: str = "whoami",
        arguments: tuple[Any, ...] = (),
    ) -> None:
        """Begin a life that goes on whatever happens to others: activate, call, query, hold, release, and again."""

        async def once() -> None:
            async with AsyncExitStack() as held:
                made = await held.enter_async_context(
                    self.machine.activate(clsid, self._interface(interface))
                )
                await getattr(made, call)(*arguments)
                again = await self.machine.query(made, self.oxid.IUnknown)
                held.push_async_callback(again.release)
                copy = made.copy()
                held.push_async_callback(copy.release)
                await asyncio.sleep(hold)
                await getattr(copy, call)(*arguments)

        self.living = asyncio.create_task(self._live(once))

    async def _live(self, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await once()
                self.cycles += 1
            except self.oxid.OxidError as error:
                self.troubles[f"{type(error).__name__}: {error}"] += 1
                await asyncio.sleep(0.02)
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.02)

    async def lived(self, end: bool = True) -> dict[str, Any]:
        """What has become of the life, which ends here unless it is only looked at."""
        if end and self.living is not None:
            self.living.cancel()
            await asyncio.gather(self.living, return_exceptions=True)
            self.living = None
        return {"cycles": self.cycles, "troubles": self.troubles, "faults": self.faults}

    async def exit_at_once(self) -> None:
        os._exit(7)


async def _main(setup: dict[str, Any]) -> None:
    import dataclasses

    import oxid

    changes = dict(setup["options"])
    accounts = changes.pop("accounts", None)
    options = dataclasses.replace(oxid.ClientOptions.from_environment(), port=setup["port"], **changes)
    if accounts is not None:
        callbacks = oxid.CallbackOptions(accounts=oxid.MemoryAccountStore(accounts))
        options = dataclasses.replace(options, callbacks=callbacks)
    credentials = oxid.Password(setup["user"], setup["password"]) if setup["user"] else None
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with oxid.connect("127.0.0.1", credentials, options=options) as machine:
        script = _Script(machine)
        while line := await reader.readline():
            wanted = json.loads(line)
            what = wanted.pop("do")
            if what == "end":
                await script.unsubscribe()
                break
            try:
                answer = {"ok": await getattr(script, what)(**wanted)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
