"""An impacket program that holds Calculators and has impacket ping for them; does as its standard input says.

    activate         -> the OID of one more object        add            -> 42, by a call to the first object
    release_one      RemRelease of the first object       release_all    of the last one, once per reference
    query            -> whether another interface of the first object, released again, has an OXID for OID
    steal SET OID    -> what a SimplePing and a ComplexPing of somebody else's set are answered
    troubles         -> what impacket said of pings that failed

One JSON value per line. impacket pings with a timer of 120 s: here those are one `--period`. One process per
client: its connections, sets and timer are class variables.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

warnings.simplefilter("ignore")

from impacket import LOG  # noqa: E402
from impacket.dcerpc.v5 import dcomrt, rpcrt  # noqa: E402
from impacket.dcerpc.v5.dcomrt import INTERFACE, DCOMConnection  # noqa: E402
from impacket.dcerpc.v5.transport import DCERPCTransportFactory  # noqa: E402
from impacket.uuid import string_to_bin  # noqa: E402
from impacket_dcom import CLSID_CALCULATOR, ICALCULATOR, IUNKNOWN, Add, iid_of, references_of  # noqa: E402

PERIOD_S = 120


class Troubles(logging.Handler):
    """Keeps what impacket says of pings that failed: it goes on as if nothing were."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Program:
    """What can be asked of it, by name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._objects: list[INTERFACE] = []
        self._troubles = Troubles()
        LOG.addHandler(self._troubles)

    def activate(self) -> int:
        """impacket can activate once per DCOMConnection; its set and its timer are for all of them."""
        options = self._options
        connection = DCOMConnection(
            options.target, options.user, options.password, oxidResolver=options.pings == "on"
        )
        made = connection.CoCreateInstanceEx(string_to_bin(CLSID_CALCULATOR), string_to_bin(ICALCULATOR))
        self._objects.append(made)
        return int(made.get_oid())

    def add(self) -> int:
        request = Add()
        request["a"], request["b"] = 40, 2
        first = self._objects[0]
        return int(first.request(request, iid_of(ICALCULATOR), first.get_iPid())["sum"])

    def release_one(self) -> None:
        dcomrt.IRemUnknown(self._objects.pop(0)).RemRelease()

    def release_all(self) -> None:
        last = self._objects.pop()
        for _ in range(references_of(last)):
            dcomrt.IRemUnknown(last).RemRelease()

    def query(self) -> bool:
        queried = dcomrt.IRemUnknown(self._objects[0]).RemQueryInterface(1, (string_to_bin(IUNKNOWN),))
        queried.RemRelease()
        return bool(queried.get_oid() == queried.get_oxid())

    def steal(self, set_id: str, oid: str) -> list[str]:
        options = self._options
        transport = DCERPCTransportFactory(f"ncacn_ip_tcp:{options.target}")
        transport.set_credentials(options.user, options.password)
        link = transport.get_dce_rpc()
        link.set_auth_level(rpcrt.RPC_C_AUTHN_LEVEL_PKT_PRIVACY)
        exporter = dcomrt.IObjectExporter(link)
        pings = (
            lambda: exporter.SimplePing(int(set_id)),
            lambda: exporter.ComplexPing(int(set_id), 0, [], [int(oid)]),
        )
        answers = []
        for ping in pings:
            try:
                answers.append(f"status {ping()['ErrorCode']}")
            except rpcrt.DCERPCException as error:
                answers.append(str(error))
        link.disconnect()
        return answers

    def troubles(self) -> list[str]:
        return self._troubles.said


def scaled(period: float) -> Callable[[float, Callable[[], Any]], threading.Timer]:
    """Timers whose 120 s are one period."""

    def timer(seconds: float, function: Callable[[], Any]) -> threading.Timer:
        assert seconds == PERIOD_S
        return threading.Timer(period, function)

    return timer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1")
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--period", type=float, required=True)
    parser.add_argument("--pings", choices=["on", "off"], default="on")
    options = parser.parse_args()
    dcomrt.Timer = scaled(options.period)
    program = Program(options)
    for line in sys.stdin:
        what, *words = line.split()
        try:
            answer = {"ok": getattr(program, what)(*words)}
        except Exception as error:  # impacket's timer would keep the process
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
