"""A host as an operator sees it: addresses, names, ports, the control socket, and the end."""

import asyncio
import socket

import pytest
from tests.support.inprocess import served

import oxid
from oxid.com.endpoints import list_endpoints, map_interface
from oxid.config import PortRange
from oxid.interfaces.endpoint_map import IEndpointMap
from oxid.interfaces.management import IManagement
from oxid.runtime.control import ask
from oxid.samples.calculator import CLSID_CALCULATOR, Calculator, ICalculator


def free_range(size):
    """A range of ports that were free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        low = probe.getsockname()[1]
    return PortRange(low, low + size - 1)


def test_the_exporter_takes_the_first_free_port_of_its_range(tmp_path):
    async def run():
        ports = free_range(20)
        async with served(tmp_path, [Calculator], exporter_ports=ports) as there:
            (endpoint,) = there.host.object_server.endpoints
            assert ports.low <= endpoint.port <= ports.high
            async with there.connect() as machine:
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(2, 3) == 5

    asyncio.run(run())


@pytest.mark.req("dcom§3.order")
def test_a_name_that_nobody_can_reach_is_passed_over_for_the_address_that_was_used(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator], advertise=("plant7.invalid", "127.0.0.1")) as there:
            async with there.connect() as machine:
                _, bindings = await machine.server_alive()
                hosts = [binding.host for binding in bindings.strings]
                assert hosts == ["plant7.invalid", "127.0.0.1"]
                assert {binding.endpoint for binding in bindings.strings} == {str(there.port)}
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(2, 3) == 5

    asyncio.run(run())


@pytest.mark.req("dcom§3.order")
def test_behind_nat_the_address_that_was_used_is_tried_with_the_exporters_port(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator], advertise=("plant7.invalid",)) as there:
            async with there.connect() as machine:
                async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                    assert await calculator.add(2, 3) == 5

    asyncio.run(run())


def test_several_listeners_serve_the_same_objects(tmp_path):
    async def run():
        options = oxid.HostOptions(
            state=tmp_path, rpc=(oxid.Address("127.0.0.1", 0), oxid.Address("127.0.0.2", 0))
        )
        host = oxid.Host(options, oxid.World.real(), classes=[oxid.coclass_of(Calculator)])
        host.accounts.add("admin", "secret")
        async with host:
            assert [name for name, _ in host.ready] == ["rpc", "rpc", "state"]
            for endpoint in host.rpc_server.endpoints:
                client = oxid.ClientOptions(port=endpoint.port)
                user = oxid.Password("admin", "secret")
                async with oxid.connect(endpoint.host, user, options=client) as machine:
                    async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                        assert await calculator.add(2, 3) == 5

    asyncio.run(run())


def test_an_address_that_is_taken_is_said_and_nothing_is_left(tmp_path):
    async def run():
        async with served(tmp_path / "one", [Calculator]) as there:
            options = oxid.HostOptions(state=tmp_path, rpc=(oxid.Address("127.0.0.1", there.port),))
            world = oxid.World.real()
            with pytest.raises(oxid.ConfigurationError, match=f"cannot listen on 127.0.0.1:{there.port}"):
                await oxid.Host(options, world, classes=[oxid.coclass_of(Calculator)]).__aenter__()
            assert not any(world.ledger.live().values())

    asyncio.run(run())


def test_two_hosts_do_not_share_a_state_directory(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]):
            with pytest.raises(oxid.ConfigurationError, match="another host serves"):
                async with served(tmp_path, [Calculator]):
                    pass

    asyncio.run(run())


def test_a_control_socket_of_a_host_that_died_is_replaced(tmp_path):
    async def run():
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "control"))
        async with served(tmp_path, [Calculator]) as there:
            loop = asyncio.get_running_loop()
            path = there.host.options.control_socket
            answer = await loop.run_in_executor(None, ask, path, "status")
            assert answer["live"]["exporter"] == 1
            with pytest.raises(oxid.ConfigurationError, match="unknown command"):
                await loop.run_in_executor(None, ask, path, "dance")
            await loop.shutdown_default_executor()
        assert not there.host.options.control_socket.exists()

    asyncio.run(run())


def test_peers_that_break_the_rules_are_counted_and_disturb_nobody(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there, there.connect() as machine:
            async with machine.activate(CLSID_CALCULATOR, ICalculator) as calculator:
                for _ in range(3):
                    reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
                    writer.write(b"GET / HTTP/1.0\r\n\r\n" + bytes(16))
                    assert await reader.read() is not None  # closed, with or without a word
                    writer.close()
                    await writer.wait_closed()
                assert await calculator.add(2, 3) == 5
                status = await there.host._status({})
                assert status["refused"] == {"protocol_errors": 3, "callers": 0, "activations": 0}

    asyncio.run(run())


def test_a_wrong_password_is_a_refused_caller_and_no_protocol_error(tmp_path, caplog):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect(oxid.Password("admin", "wrong")) as machine:
                with pytest.raises(oxid.AccessDenied):
                    await machine.activate(CLSID_CALCULATOR, ICalculator)
            status = await there.host._status({})
            assert status["refused"] == {"protocol_errors": 0, "callers": 1, "activations": 0}

    asyncio.run(run())
    assert "unknown user name or wrong password" in caplog.text
    assert "protocol error" not in caplog.text


@pytest.mark.req("EPM-3")
def test_the_mapper_knows_interfaces_and_management_but_no_objects(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            async with there.connect(None) as machine:
                found = await list_endpoints(machine)
                interfaces = {endpoint.interface for endpoint in found}
                mapper, management = oxid.spec_of(IEndpointMap), oxid.spec_of(IManagement)
                assert interfaces == {mapper.uuid, management.uuid}
                (binding,) = await map_interface(machine, mapper.uuid, mapper.version)
                assert binding.endpoint == str(there.port)
                assert await map_interface(machine, oxid.spec_of(ICalculator).uuid, (0, 0)) == []

    asyncio.run(run())


def test_stopping_cuts_calls_that_still_run_and_leaves_nothing(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator]) as there:
            world = there.world
            async with oxid.connect(
                "127.0.0.1", oxid.Password("admin", "secret"), options=there.options, world=there.client_world
            ) as machine:
                calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
                calls = [asyncio.create_task(calculator.sleep(60_000)) for _ in range(10)]
                await calculator.add(1, 1)
                await there.host.__aexit__(None, None, None)
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(result) for result in results} <= {oxid.TransportError, oxid.ServerUnavailable}
                assert not any(world.ledger.live().values())
                with pytest.raises((oxid.TransportError, oxid.ServerUnavailable)):
                    await calculator.add(1, 1)
                await calculator.release()

    asyncio.run(run())


def test_clients_that_vanish_in_mid_call_leave_nothing_but_a_lease(tmp_path):
    async def run():
        async with served(tmp_path, [Calculator], ping_period=0.05) as there:
            rest = there.live()
            async with there.connect() as machine:
                calculator = await machine.activate(CLSID_CALCULATOR, ICalculator)
                call = asyncio.create_task(calculator.sleep(60_000))
                await calculator.add(1, 1)
                connection = calculator._connection
                machine.lifelines.let_go(calculator._pointer.object)
                connection.transport.abort()
                with pytest.raises(oxid.TransportError):
                    await call
                kinds = ("object", "interface_pointer", "ping_set", "pinged_oid", "rpc_call")
                for _ in range(1000):
                    if there.live(*kinds) == {kind: rest[kind] for kind in kinds}:
                        break
                    await asyncio.sleep(0.001)
                assert there.live(*kinds) == {kind: rest[kind] for kind in kinds}
                await calculator.release()

    asyncio.run(run())
