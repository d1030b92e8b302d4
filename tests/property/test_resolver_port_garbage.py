"""Whatever arrives on the resolver's port, each operation answers it, or refuses the stub data."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.com.activation_properties import ActivationIn, ActivationOut, InterfaceResult, encode_activation_in
from oxid.com.orpc import ComVersion
from oxid.errors import BadStubData, StatusError
from oxid.interfaces.activation import IActivation, IRemoteSCMActivator
from oxid.interfaces.dcom_types import ComVersionIdl, OrpcThisIdl
from oxid.interfaces.endpoint_map import IEndpointMap, InterfaceIdIdl, TowerIdl
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.ledger import Ledger
from oxid.ndr import Syntax
from oxid.ndr.types import NULL_HANDLE
from oxid.rpc.interface import spec_of
from oxid.rpc.tower import Tower
from oxid.rpcss.activator import ActivationService
from oxid.rpcss.endpoint_mapper import EndpointMapper, Registration
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.service import EndpointMapService, ObjectExporterService
from oxid.values.bindings import DcomBinding, DualStringArray

U = UUID(int=0x1234_5678)
BINDINGS = DualStringArray((DcomBinding(7, "10.0.0.1", "1"),))
THIS = OrpcThisIdl(ComVersionIdl(), 0, 0, U)
BLOB = encode_activation_in(ActivationIn(U, (U,)))
REQUESTS = {
    (IObjectExporter, 0): (1, [7]),
    (IObjectExporter, 1): (1,),
    (IObjectExporter, 2): (0, 1, [1, 2], [3]),
    (IObjectExporter, 3): (),
    (IObjectExporter, 4): (1, [7, 8]),
    (IObjectExporter, 5): (),
    (IEndpointMap, 0): (),
    (IEndpointMap, 2): (1, U, InterfaceIdIdl(U, 1, 0), 1, NULL_HANDLE, 10),
    (IEndpointMap, 3): (U, TowerIdl(Tower.of(U).encode()), NULL_HANDLE, 4),
    (IEndpointMap, 4): (NULL_HANDLE,),
    (IActivation, 0): (THIS, U, "name", BLOB, 2, 0, [U], [7]),
    (IRemoteSCMActivator, 3): (THIS, BLOB),
    (IRemoteSCMActivator, 4): (THIS, None, BLOB),
}


@dataclass
class Caller:
    principal: str | None = "alice"
    anonymous: bool = False
    level: int = 6
    peer: str = "10.0.0.9"


class Clock:
    def now(self):
        return 0.0

    utc = now


class NoHandles:
    def open(self, value):
        return b"h" * 20

    def find(self, handle):
        return None

    close = find


class AnyClass:
    async def create_instance(self, request):
        results = tuple(InterfaceResult(iid, 0, b"objref") for iid in request.iids)
        return ActivationOut(1, BINDINGS, U, 5, ComVersion(), results)

    get_class_object = create_instance


def services():
    ids = count(1)
    resolver = OxidResolver(lambda: next(ids), ledger=Ledger())
    resolver.add_exporter(BINDINGS, U, oxid=1)
    mapper = EndpointMapper(Ledger())
    mapper.register(Registration(U, (1, 0), "ncacn_ip_tcp", "1"), "a")
    activation = ActivationService(AnyClass(), Caller)
    made = {
        IObjectExporter: ObjectExporterService(resolver, lambda: BINDINGS, Caller, Clock()),
        IEndpointMap: EndpointMapService(mapper, NoHandles, lambda: "10.0.0.1"),
        IActivation: activation,
        IRemoteSCMActivator: activation,
    }
    return made, lambda: (resolver.close(1e9), mapper.close())


def answer(interface, opnum, syntax, stub):
    made, close = services()
    operation = spec_of(interface).operations[opnum]
    codec = operation.codec(syntax)
    try:
        args = codec.decode_request(stub, 0, None)
        result = getattr(made[interface], operation.method)(*args)
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
        out = bytearray(24)
        codec.encode_reply(out, None, args, result)
        return bytes(out[24:])
    finally:
        close()


def request(interface, opnum, syntax):
    out = bytearray(24)
    spec_of(interface).operations[opnum].codec(syntax).encode_request(out, None, *REQUESTS[interface, opnum])
    return bytes(out[24:])


@pytest.mark.parametrize(("interface", "opnum"), REQUESTS, ids=lambda x: getattr(x, "__name__", x))
@pytest.mark.parametrize("syntax", [Syntax.NDR20_LE, Syntax.NDR20_BE], ids=lambda s: s.name)
def test_every_operation_answers_a_good_request_in_both_byte_orders(interface, opnum, syntax):
    if (interface, opnum) == (IEndpointMap, 0):
        with pytest.raises(StatusError):
            answer(interface, opnum, syntax, b"")
    else:
        assert answer(interface, opnum, syntax, request(interface, opnum, syntax))


@st.composite
def hostile_calls(draw):
    interface, opnum = draw(st.sampled_from(list(REQUESTS)))
    syntax = draw(st.sampled_from([Syntax.NDR20_LE, Syntax.NDR20_BE]))
    if draw(st.integers(0, 9)) == 0:
        return interface, opnum, syntax, draw(st.binary(max_size=120))
    data = bytearray(request(interface, opnum, syntax))
    for _ in range(draw(st.integers(1, 3)) if data else 0):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            at &= ~3
        data[at : at + 4] = draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\x7f"]))
    end = draw(st.integers(0, len(data))) if draw(st.booleans()) else len(data)
    return interface, opnum, syntax, bytes(data[:end])


@pytest.mark.req("dcom§3.fuzz", "scenarios-dcom§A.A17", "PNG-13", "ACT-2")
@given(hostile_calls())
def test_hostile_calls_are_answered_or_refused(call):
    try:
        answer(*call)
    except (BadStubData, StatusError):
        pass
