"""Servers as they were: without ServerAlive2, without IRemoteSCMActivator, or with a resolver somewhere else."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from tests.support.inprocess import served

import oxid
from oxid.interfaces.activation import IActivation
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.object_exporter import IObjectExporter, ResolveOxidReply
from oxid.rpcss.endpoint_mapper import EndpointMapper, Registration
from oxid.rpcss.service import EndpointMapService
from oxid.runtime.server import RpcServer
from oxid.samples.calculator import CLSID_CALCULATOR, Calculator, ICalculator


class Resolver51:
    """IObjectExporter of Windows NT 4: operations 0 to 3."""

    def __init__(self, modern):
        self._modern = modern
        self.resolved = 0

    def resolve_oxid(self, oxid, protseqs):
        self.resolved += 1
        return ResolveOxidReply(*self._modern.resolve_oxid(oxid, protseqs))

    def server_alive(self):
        return 0

    def simple_ping(self, set_id):
        return self._modern.simple_ping(set_id)

    def complex_ping(self, set_id, sequence, add, remove):
        return self._modern.complex_ping(set_id, sequence, add, remove)


@asynccontextmanager
async def old_server(there, resolver):
    server = RpcServer(there.world, authenticator=there.host.authenticator)
    server.register(IActivation, there.host.activation, ndr64=False)
    if resolver is not None:
        server.register(IObjectExporter, resolver, ndr64=False)
    endpoint = await server.listen("127.0.0.1", 0)
    try:
        yield server, endpoint.port
    finally:
        await server.aclose()


@pytest.mark.req("dcom§4.discovery", "VER-1", "ACT-1")
def test_a_resolver_without_serveralive2_is_dcom_5_1_and_everything_works(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            resolver = Resolver51(there.host.service.object_exporter)
            async with old_server(there, resolver) as (_, port), there.connect(port=port) as machine:
                assert machine.version == (5, 1)
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(2, 3) == 5
                    address = await machine.resolve(calculator.oxid)
                    assert resolver.resolved == 1
                    assert address.bindings.strings[0].host == "127.0.0.1"
                with pytest.raises(oxid.ObjectGone, match="OR_INVALID_OXID"):
                    await machine.resolve(99)

    asyncio.run(run())


@pytest.mark.req("dcom§4.discovery")
def test_a_resolver_that_is_not_on_its_port_is_found_through_the_endpoint_mapper(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there, old_server(there, None) as (server, port):
            mapper = EndpointMapper(there.world.ledger)
            spec = oxid.spec_of(IObjectExporter)
            row = Registration(spec.uuid, spec.version, "ncacn_ip_tcp", str(there.port))
            with_lease = mapper.register(row, owner=1)
            server.register(IEndpointMap, EndpointMapService(mapper, lambda: None, lambda: "127.0.0.1"))
            async with there.connect(port=port) as machine:
                assert machine.version == (5, 7)
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(2, 3) == 5
            with_lease.close()

    asyncio.run(run())
