"""The parent of all clients: `python -m oxid.soak.nursery JSON`. Forks them, signals them, and says how they end.

Orders come as lines of JSON on its standard input:
    {"do": "start", "number": 7, "generation": 1, "role": "life"}
    {"do": "signal", "number": 7, "signal": 9}
It prints what it and its clients report. Clients are forks of it, which has imported everything; a number
of a process is theirs until it has waited for them, so no signal meets anybody else. When its input ends, all end.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import traceback
from time import monotonic
from typing import Any, NoReturn

from oxid.bench.process import run
from oxid.soak.leash import tie
from oxid.soak.life import Life, Part
from oxid.soak.stage import HERE, machine_of


class Nursery:
    """Runs in a process without a loop and without threads: it forks."""

    def __init__(self, told: dict[str, Any]) -> None:
        """`told`: seed, clients, port, period, directory, relayed; and the agents' sockets by machine."""
        self._told = told
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, tuple[int, int, int]] = {}
        """number -> (generation, process, pidfd)"""

    def work(self) -> None:
        """Until the input ends."""
        self._selector.register(0, selectors.EVENT_READ)
        orders = b""
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fd != 0:
                        self._reap(key.data)
                        continue
                    more = os.read(0, 1 << 16)
                    if not more:
                        return
                    orders += more
                    *lines, orders = orders.split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))
        finally:
            for _, process, _ in self._clients.values():
                os.kill(process, signal.SIGKILL)
            for number in list(self._clients):
                self._reap(number)

    def _obey(self, order: dict[str, Any]) -> None:
        number = order["number"]
        if order["do"] == "start":
            self._start(number, order["generation"], order["role"])
        elif number in self._clients:
            os.kill(self._clients[number][1], order["signal"])

    def _start(self, number: int, generation: int, role: str) -> None:
        told, parent = self._told, os.getpid()
        # The relay does not carry the static endpoint.
        far = role == "life" and machine_of(number) == "far"
        part = Part(
            number,
            generation,
            role,
            told["seed"],
            told["clients"],
            told["relayed"] if far else HERE,
            told["port"],
            told["period"],
            told["directory"],
        )
        child = os.fork()
        if not child:
            self._become_client(part, parent)
        descriptor = os.pidfd_open(child)
        self._clients[number] = generation, child, descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, number)
        self._say(number, generation, "born", process=child)

    def _become_client(self, part: Part, parent: int) -> NoReturn:
        code = 1
        try:
            tie(parent)
            for _, _, descriptor in self._clients.values():
                os.close(descriptor)
            self._selector.close()
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            os.environ["OXID_AGENT_SOCKET"] = self._told["agents"][machine_of(part.number)]
            run(Life(part).run())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self, number: int) -> None:
        generation, process, descriptor = self._clients.pop(number)
        _, status = os.waitpid(process, 0)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._say(number, generation, "died", code=os.waitstatus_to_exitcode(status))

    def _say(self, number: int, generation: int, what: str, **fields: Any) -> None:
        line = json.dumps({"n": number, "g": generation, "at": monotonic(), "what": what, **fields})
        os.write(1, line.encode() + b"\n")


def main(words: list[str]) -> None:
    """Fork clients until standard input ends."""
    told = json.loads(words[0])
    os.setsid()
    tie(told["parent"])
    Nursery(told).work()


if __name__ == "__main__":
    main(sys.argv[1:])
