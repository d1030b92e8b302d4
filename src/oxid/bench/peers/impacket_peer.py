"""impacket: its DCE/RPC client against its DCERPCServer, with the interface of `oxid.bench.interfaces`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from oxid.bench.meter import threaded

INTERFACE: Final = ("deadbeef-1234-5678-9abc-def012345678", "1.0")


def _calls() -> dict[str, Any]:
    """The four structures of null and echo."""
    ndr: Any = importlib.import_module("impacket.dcerpc.v5.ndr")
    dword: Any = importlib.import_module("impacket.dcerpc.v5.dtypes").DWORD

    def made(name: str, base: Any, **members: Any) -> Any:
        kind = type(name, (base,), members)
        globals()[name] = kind  # where impacket looks for the reply of a request
        return kind

    octets = made("Octets", ndr.NDRUniConformantArray, item="c")
    data = (("n", dword), ("data", octets))
    status = (("ErrorCode", dword),)
    return {
        "Null": made("Null", ndr.NDRCALL, opnum=0, structure=()),
        "NullResponse": made("NullResponse", ndr.NDRCALL, structure=status),
        "Echo": made("Echo", ndr.NDRCALL, opnum=1, structure=data),
        "EchoResponse": made("EchoResponse", ndr.NDRCALL, structure=data + status),
    }


def serve(say_port: Callable[[int], None]) -> None:
    rpc: Any = importlib.import_module("impacket.dcerpc.v5.rpcrt")
    kinds = _calls()

    def null(_stub: bytes) -> Any:
        reply = kinds["NullResponse"]()
        reply["ErrorCode"] = 0
        return reply

    def echo(stub: bytes) -> Any:
        request, reply = kinds["Echo"](stub), kinds["EchoResponse"]()
        reply["n"], reply["data"], reply["ErrorCode"] = request["n"], request["data"], 0
        return reply

    server = rpc.DCERPCServer()
    server.addCallbacks(INTERFACE, "\\PIPE\\bench", {0: null, 1: echo})
    server._sock.listen(100)  # before anybody is told the port; the server listens once more
    say_port(server.getListenPort())
    server.daemon = False
    server.run()


def load(port: int, seconds: float, *, operation: str, connections: int = 1) -> dict[str, Any]:
    transport: Any = importlib.import_module("impacket.dcerpc.v5.transport")
    interface = importlib.import_module("impacket.uuid").uuidtup_to_bin(INTERFACE)
    kinds = _calls()
    data = bytes(100)

    def connect() -> Any:
        made = transport.DCERPCTransportFactory(f"ncacn_ip_tcp:127.0.0.1[{port}]").get_dce_rpc()
        made.connect()
        made.bind(interface)
        return made

    def make_call() -> Callable[[], object]:
        if operation == "bind":
            return lambda: connect().disconnect()
        connection = connect()
        if operation == "null":
            return lambda: connection.request(kinds["Null"]())

        def echo() -> None:
            request = kinds["Echo"]()
            request["n"], request["data"] = len(data), data
            connection.request(request)

        return echo

    return threaded(make_call, connections, seconds)
