"""impacket's DCOM client through the Calculator's whole life; prints what it saw as one JSON object.

A process of its own: impacket keeps its connections in class variables, and warns at import.
Every reference that an OBJREF carried is given back, so that the host is at rest when we hang up.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

from impacket.dcerpc.v5 import dcomrt, rpcrt  # noqa: E402
from impacket.dcerpc.v5.dcomrt import (  # noqa: E402
    DCOMANSWER,
    DCOMCALL,
    INTERFACE,
    DCOMConnection,
    PMInterfacePointer,
)
from impacket.dcerpc.v5.dtypes import DOUBLE, GUID, LONG, LONGLONG, LPWSTR, NULL, ULONG, WSTR  # noqa: E402
from impacket.dcerpc.v5.ndr import NDRUniConformantArray  # noqa: E402
from impacket.dcerpc.v5.rpcrt import DCERPCException  # noqa: E402
from impacket.uuid import string_to_bin, uuidtup_to_bin  # noqa: E402

CLSID_CALCULATOR = "B81BB948-688D-436A-9EBA-5F37813E2375"
ICALCULATOR = "5859270E-BE58-4CA6-8157-B4CB6B24051B"
IUNKNOWN = "00000000-0000-0000-C000-000000000046"
ICLASS_FACTORY = "00000001-0000-0000-C000-000000000046"
LEVELS = {
    "none": rpcrt.RPC_C_AUTHN_LEVEL_NONE,
    "integrity": rpcrt.RPC_C_AUTHN_LEVEL_PKT_INTEGRITY,
    "privacy": rpcrt.RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
}

# -- CONTRACT section 6 in impacket's words; request() looks the answers up by name in this module ------


class DCERPCSessionError(DCERPCException):
    """impacket raises the class of this name of the module that declares the request."""


class BYTES(NDRUniConformantArray):
    item = "c"


class LONGS(NDRUniConformantArray):
    item = "<l"


class Add(DCOMCALL):
    opnum = 3
    structure = (("a", LONG), ("b", LONG))


class AddResponse(DCOMANSWER):
    structure = (("sum", LONG), ("ErrorCode", ULONG))


class Divide(DCOMCALL):
    opnum = 4
    structure = (("dividend", DOUBLE), ("divisor", DOUBLE))


class DivideResponse(DCOMANSWER):
    structure = (("quotient", DOUBLE), ("ErrorCode", ULONG))


class Echo(DCOMCALL):
    opnum = 5
    structure = (("size", ULONG), ("data", BYTES))


class EchoResponse(DCOMANSWER):
    structure = (("echoed", BYTES), ("ErrorCode", ULONG))


class Sum(DCOMCALL):
    opnum = 6
    structure = (("count", ULONG), ("values", LONGS))


class SumResponse(DCOMANSWER):
    structure = (("sum", LONGLONG), ("ErrorCode", ULONG))


class Greet(DCOMCALL):
    opnum = 7
    structure = (("name", WSTR),)


class GreetResponse(DCOMANSWER):
    structure = (("greeting", LPWSTR), ("ErrorCode", ULONG))


class Clone(DCOMCALL):
    opnum = 8
    structure = ()


class CloneResponse(DCOMANSWER):
    structure = (("copy", PMInterfacePointer), ("ErrorCode", ULONG))


class Sleep(DCOMCALL):
    opnum = 9
    structure = (("milliseconds", ULONG),)


class SleepResponse(DCOMANSWER):
    structure = (("ErrorCode", ULONG),)


# IClassFactory, as it is on the wire


class RemoteCreateInstance(DCOMCALL):
    opnum = 3
    structure = (("riid", GUID),)


class RemoteCreateInstanceResponse(DCOMANSWER):
    structure = (("ppv", PMInterfacePointer), ("ErrorCode", ULONG))


# tests/interop/apps/referee.py

CLSID_REFEREE = "0B59CBA5-7E71-45A8-A1F3-9C3C6C3E4D10"
IREFEREE = "7C1FB2D4-30D7-4F07-8E0C-5F1E0D9C2A61"


class AddThrough(DCOMCALL):
    opnum = 3
    structure = (("calculator", PMInterfacePointer), ("a", LONG), ("b", LONG))


class AddThroughResponse(DCOMANSWER):
    structure = (("sum", LONG), ("ErrorCode", ULONG))


class Keep(DCOMCALL):
    opnum = 4
    structure = (("calculator", PMInterfacePointer),)


class KeepResponse(DCOMANSWER):
    structure = (("ErrorCode", ULONG),)


class Kept(DCOMCALL):
    opnum = 5
    structure = ()


class KeptResponse(DCOMANSWER):
    structure = (("calculator", PMInterfacePointer), ("ErrorCode", ULONG))


# -- the story ---------------------------------------------------------------------------------------------


def iid_of(text: str) -> bytes:
    return bytes(uuidtup_to_bin((text, "0.0")))


def references_of(each: INTERFACE) -> int:
    """How many references its OBJREF carried."""
    return int(dcomrt.OBJREF_STANDARD(each.get_objRef())["std"]["cPublicRefs"])


class Session:
    """One DCOMConnection, and the references it owes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.connection = DCOMConnection(
            options.target,
            options.user,
            options.password,
            options.domain,
            authLevel=LEVELS[options.level],
            oxidResolver=False,
            doKerberos=options.kerberos,
            kdcHost=options.kdc,
            remoteHost=options.remote_host,
        )

    def activate(self, clsid: str, iid: str) -> INTERFACE:
        """An object through the activation path that was asked for."""
        if self.options.activation == "scm":
            found = self.connection.CoCreateInstanceEx(string_to_bin(clsid), string_to_bin(iid))
        elif self.options.activation == "remact":
            activation = dcomrt.IActivation(self.connection.get_dce_rpc())
            found = activation.RemoteActivation(string_to_bin(clsid), string_to_bin(iid))
        else:
            scm = dcomrt.IRemoteSCMActivator(self.connection.get_dce_rpc())
            found = scm.RemoteGetClassObject(string_to_bin(clsid), string_to_bin(ICLASS_FACTORY))
            factory = self.at_level(found)
            request = RemoteCreateInstance()
            request["riid"] = string_to_bin(iid)
            answer = self.call(factory, request, ICLASS_FACTORY)
            found = self.object_of(factory, answer["ppv"])
            self.release(factory)
        return self.at_level(found)

    def at_level(self, found: INTERFACE) -> INTERFACE:
        found.get_cinstance().set_auth_level(LEVELS[self.options.level])
        return found

    def call(self, on: INTERFACE, request: DCOMCALL, iid: str = ICALCULATOR) -> Any:
        return on.request(request, iid_of(iid), on.get_iPid())

    def object_of(self, near: INTERFACE, pointer: Any) -> INTERFACE:
        """The object behind an interface pointer that a call returned."""
        return INTERFACE(
            near.get_cinstance(),
            b"".join(pointer["abData"]),
            near.get_ipidRemUnknown(),
            target=near.get_target(),
        )

    def release(self, *interfaces: INTERFACE) -> None:
        """Give back every reference that the OBJREFs of these carried."""
        for each in interfaces:
            self.release_ipid(each, each.get_iPid(), references_of(each))

    def release_ipid(self, through: INTERFACE, ipid: bytes, references: int) -> None:
        request = dcomrt.RemRelease()
        request["cInterfaceRefs"] = 1
        element = dcomrt.REMINTERFACEREF()
        element["ipid"] = ipid
        element["cPublicRefs"] = references
        request["InterfaceRefs"].append(element)
        through.request(request, dcomrt.IID_IRemUnknown, through.get_ipidRemUnknown())


def divide(session: Session, calculator: INTERFACE, dividend: float, divisor: float) -> Any:
    request = Divide()
    request["dividend"] = dividend
    request["divisor"] = divisor
    return session.call(calculator, request)


def add(session: Session, calculator: INTERFACE, a: int, b: int) -> int:
    request = Add()
    request["a"] = a
    request["b"] = b
    return int(session.call(calculator, request)["sum"])


def query_result(on: INTERFACE, iid: str) -> int:
    """The HRESULT that RemQueryInterface gives for one interface."""
    request = dcomrt.RemQueryInterface()
    request["ripid"] = on.get_iPid()
    request["cRefs"] = 1
    request["cIids"] = 1
    wanted = dcomrt.IID()
    wanted["Data"] = string_to_bin(iid)
    request["iids"].append(wanted)
    answer = on.request(request, dcomrt.IID_IRemUnknown, on.get_ipidRemUnknown())
    return int(answer["ppQIResults"]["hResult"]) & 0xFFFF_FFFF


def methods(session: Session, calculator: INTERFACE) -> dict[str, Any]:
    """Every method of the Calculator once, and what it does when it fails."""
    seen: dict[str, Any] = {"add": add(session, calculator, 40, 2)}
    seen["divide"] = divide(session, calculator, 1.0, 8.0)["quotient"]
    try:
        divide(session, calculator, 1.0, 0.0)
        seen["divide_by_zero"] = None
    except DCERPCSessionError as error:
        seen["divide_by_zero"] = error.get_error_code()
        extents = error.get_packet()["ORPCthat"]["extensions"]["extent"]
        data = b"".join(b"".join(each["data"]) for each in extents if each.fields["ReferentID"])
        seen["error_info_says_source"] = data.find("Oxid.Calculator".encode("utf-16le"))
    try:
        seen["overflow"] = add(session, calculator, 0x7FFF_FFFF, 1)
    except DCERPCSessionError as error:
        seen["overflow"] = error.get_error_code()
    request = Echo()
    data = bytes(range(256)) * 100 + b"odd"
    request["size"] = len(data)
    request["data"] = [bytes([each]) for each in data]
    seen["echo"] = b"".join(session.call(calculator, request)["echoed"]) == data
    request = Echo()
    request["size"] = 0
    request["data"] = []
    seen["echo_nothing"] = len(session.call(calculator, request)["echoed"])
    request = Sum()
    request["count"] = 3
    request["values"] = [-5, 2**31 - 1, 2**31 - 1]
    seen["sum"] = session.call(calculator, request)["sum"]
    request = Greet()
    request["name"] = "Grüße, 世界\0"
    seen["greet"] = session.call(calculator, request)["greeting"]
    request = Sleep()
    request["milliseconds"] = 20
    seen["sleep"] = session.call(calculator, request)["ErrorCode"]
    request = Echo()
    request["size"] = 7
    request["data"] = [b"x", b"y"]
    try:
        session.call(calculator, request)
        seen["size_unlike_array"] = None
    except DCERPCException as error:
        seen["size_unlike_array"] = str(error)
    return seen


def life_cycle(session: Session) -> dict[str, Any]:
    """Activate, query, call, clone, reference, release."""
    calculator = session.activate(CLSID_CALCULATOR, ICALCULATOR)
    seen: dict[str, Any] = {"public_refs": references_of(calculator)}
    seen["methods"] = methods(session, calculator)
    unknown = dcomrt.IRemUnknown(calculator)
    queried = unknown.RemQueryInterface(3, (string_to_bin(IUNKNOWN),))
    seen["queried_another_ipid"] = queried.get_iPid() != calculator.get_iPid()
    again = unknown.RemQueryInterface(1, (string_to_bin(ICALCULATOR),))
    seen["queried_same_ipid"] = again.get_iPid() == calculator.get_iPid()
    seen["no_such_interface"] = query_result(calculator, "00020400-0000-0000-C000-00000000004F")
    seen["add_ref"] = [each["Data"] for each in unknown.RemAddRef()["pResults"]]
    answer = session.call(calculator, Clone())
    copy = session.object_of(calculator, answer["copy"])
    seen["clone_is_another_object"] = copy.get_oid() != calculator.get_oid()
    seen["clone_adds"] = add(session, copy, 20, 3)
    session.release(copy)
    try:
        add(session, copy, 1, 1)
        seen["clone_is_gone"] = None
    except DCERPCException as error:
        seen["clone_is_gone"] = str(error)
    session.release_ipid(calculator, queried.get_iPid(), 3)
    session.release_ipid(calculator, calculator.get_iPid(), 1)  # from the second query
    unknown.RemRelease()  # from RemAddRef
    seen["still_there"] = add(session, calculator, 1, 1)
    session.release(calculator)
    return seen


def pointers(session: Session) -> dict[str, Any]:
    """Interface pointers as parameters, to the server and back."""
    calculator = session.activate(CLSID_CALCULATOR, ICALCULATOR)
    copy = session.object_of(calculator, session.call(calculator, Clone())["copy"])
    # impacket can activate once per DCOMConnection; this one ends with the process.
    referee = Session(session.options).activate(CLSID_REFEREE, IREFEREE)
    seen: dict[str, Any] = {}

    def pointer_to(what: INTERFACE, references: int) -> bytes:
        """An OBJREF that hands over some of our references."""
        objref = dcomrt.OBJREF_STANDARD(what.get_objRef())
        objref["std"]["cPublicRefs"] = references
        return bytes(objref.getData())

    request = AddThrough()
    data = pointer_to(copy, 1)
    request["calculator"]["ulCntData"] = len(data)
    request["calculator"]["abData"] = [bytes([each]) for each in data]
    request["a"] = 100
    request["b"] = 11
    seen["add_through"] = session.call(referee, request, IREFEREE)["sum"]

    request = AddThrough()
    request["calculator"] = NULL
    request["a"] = 1
    request["b"] = 2
    try:
        session.call(referee, request, IREFEREE)
        seen["null_pointer"] = None
    except DCERPCException as error:
        seen["null_pointer"] = error.get_error_code()

    request = Keep()
    data = pointer_to(copy, 1)
    request["calculator"]["ulCntData"] = len(data)
    request["calculator"]["abData"] = [bytes([each]) for each in data]
    seen["keep"] = session.call(referee, request, IREFEREE)["ErrorCode"]
    back = session.object_of(referee, session.call(referee, Kept(), IREFEREE)["calculator"])
    seen["same_object"] = back.get_oid() == copy.get_oid()
    seen["kept_adds"] = add(session, back, 6, 7)
    session.release_ipid(calculator, copy.get_iPid(), references_of(copy) - 2)
    session.release(back, referee, calculator)
    return seen


def pings(session: Session) -> dict[str, Any]:
    """An object that only pings keep alive, and that goes when they stop."""
    calculator = session.activate(CLSID_CALCULATOR, ICALCULATOR)
    scm = session.connection.get_dce_rpc()
    exporter = dcomrt.IObjectExporter(scm)
    set_id = exporter.ComplexPing(0, 1, [calculator.get_oid()], [])["pSetId"]
    seen: dict[str, Any] = {"adds": []}
    until = time.monotonic() + session.options.seconds
    while time.monotonic() < until:
        time.sleep(session.options.ping_period / 2)
        exporter.SimplePing(set_id)
        seen["adds"].append(add(session, calculator, 1, 1))
    return seen


STORIES = {"life": life_cycle, "pointers": pointers, "pings": pings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("story", choices=STORIES)
    parser.add_argument("--target", default="127.0.0.1")
    parser.add_argument("--remote-host")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", default="")
    parser.add_argument("--domain", default="")
    parser.add_argument("--level", choices=LEVELS, default="privacy")
    parser.add_argument("--activation", choices=["scm", "classobj", "remact"], default="scm")
    parser.add_argument("--kerberos", action="store_true")
    parser.add_argument("--kdc")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--ping-period", type=float, default=1.0)
    options = parser.parse_args()
    session = Session(options)
    try:
        seen = STORIES[options.story](session)
    finally:
        session.connection.disconnect()
    print(json.dumps(seen, default=str, ensure_ascii=False))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
