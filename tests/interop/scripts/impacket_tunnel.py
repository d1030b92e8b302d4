"""impacket's RPC over HTTP; prints what it saw as one JSON object.

    impacket_tunnel.py echo  --url https://localhost/rpc/rpcproxy.dll --server localhost --port 49153 …
    impacket_tunnel.py echo  --url direct …                version 1 to the server's own port, without a proxy
    impacket_tunnel.py dcom  --url … --exporter 49152=49153

`dcom` is the life cycle of `impacket_dcom.py`. impacket's DCOM knows TCP only: each of its TCP connections becomes a
tunnel to the port that the same server has for proxies.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import impacket_dcom  # noqa: E402
from impacket.dcerpc.v5 import rpcrt, transport  # noqa: E402
from impacket.dcerpc.v5.dtypes import ULONG  # noqa: E402
from impacket.dcerpc.v5.ndr import NDRCALL, NDRUniConformantArray  # noqa: E402
from impacket.http import AUTH_BASIC, AUTH_NTLM  # noqa: E402
from impacket.uuid import uuidtup_to_bin  # noqa: E402

ECHO = uuidtup_to_bin(("60a15ec5-4de8-11d7-a637-005056a20182", "1.0"))
AUTHENTICATION = {"basic": AUTH_BASIC, "ntlm": AUTH_NTLM}
LEVELS = {
    "none": rpcrt.RPC_C_AUTHN_LEVEL_NONE,
    "connect": rpcrt.RPC_C_AUTHN_LEVEL_CONNECT,
    "integrity": rpcrt.RPC_C_AUTHN_LEVEL_PKT_INTEGRITY,
    "privacy": rpcrt.RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
}
RESOLVER = {135: 593}

usual_factory = transport.DCERPCTransportFactory


class DCERPCSessionError(rpcrt.DCERPCException):
    """impacket raises the class of this name of the module that declares the request."""


class Octets(NDRUniConformantArray):
    item = "c"


class AddOne(NDRCALL):
    opnum = 0
    structure = (("in_data", ULONG),)


class AddOneResponse(NDRCALL):
    structure = (("out_data", ULONG),)


class EchoData(NDRCALL):
    opnum = 1
    structure = (("len", ULONG), ("in_data", Octets))


class EchoDataResponse(NDRCALL):
    structure = (("out_data", Octets),)


def tunnel(options: argparse.Namespace, port: int) -> Any:
    """A transport to one port of the server."""
    made = usual_factory(f"ncacn_http:{options.server}[{port}]")
    if options.url != "direct":
        made.set_rpc_proxy_url(f"{options.url}?{options.server}:{port}")
        made.set_auth_type(AUTHENTICATION[options.http_auth])
    made.set_credentials(options.user, options.password)
    usual = made.get_dce_rpc

    def with_credentials() -> Any:
        """What the proxy was told is not told to the server behind it by itself."""
        dce = usual()
        dce.set_credentials(options.user, options.password)
        return dce

    made.get_dce_rpc = with_credentials
    return made


def echo(options: argparse.Namespace) -> dict[str, Any]:
    """Many calls on one connection."""
    dce = tunnel(options, options.port).get_dce_rpc()
    dce.set_auth_level(LEVELS[options.level])
    dce.connect()
    dce.bind(ECHO)
    sums = []
    for number in range(options.calls):
        request = AddOne()
        request["in_data"] = number
        sums.append(dce.request(request, checkError=False)["out_data"] - number)
    data = bytes(range(256)) * (options.bytes // 256)
    request = EchoData()
    request["len"] = len(data)
    request["in_data"] = [bytes([each]) for each in data]
    same = b"".join(dce.request(request, checkError=False)["out_data"]) == data
    dce.disconnect()
    return {"calls": len(sums), "right": sums.count(1), "same": same}


def dcom(options: argparse.Namespace) -> dict[str, Any]:
    """An object's whole life: activation, calls, references, all through tunnels."""
    tcp, http = map(int, options.exporter.split("="))
    ports = {**RESOLVER, tcp: http}
    made = []

    def redirected(binding: str) -> Any:
        _, _, endpoint = binding.removeprefix("ncacn_ip_tcp:").partition("[")
        made.append(ports[int(endpoint.rstrip("]") or 135)])
        return tunnel(options, made[-1])

    transport.DCERPCTransportFactory = redirected
    session = impacket_dcom.Session(options)
    seen = impacket_dcom.life_cycle(session)
    session.connection.disconnect()
    return {"tunnels": sorted(made), "seen": seen}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("story", choices=("echo", "dcom"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--server", default="localhost")
    parser.add_argument("--port", type=int, default=593)
    parser.add_argument("--exporter", default="")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", required=True)
    parser.add_argument("--http-auth", choices=AUTHENTICATION, default="ntlm")
    parser.add_argument("--level", choices=LEVELS, default="privacy")
    parser.add_argument("--activation", choices=("scm", "classobj", "remact"), default="scm")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--bytes", type=int, default=2560)
    parser.set_defaults(target="127.0.0.1", domain="", kerberos=False, kdc=None, remote_host="")
    options = parser.parse_args()
    story = {"echo": echo, "dcom": dcom}[options.story]
    try:
        print(json.dumps(story(options), default=str))
    except Exception as error:  # what it says is what the test looks at
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}))
        sys.exit(1)


if __name__ == "__main__":
    main()
