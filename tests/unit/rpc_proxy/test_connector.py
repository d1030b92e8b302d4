"""A server's name is looked up once, and only what was found is connected to. AB-16"""

import asyncio

import pytest

from oxid.iis.rpc_proxy.connector import connect_to


class Names:
    """A name server that says something else each time."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host, port, **_):
        self.asked += 1
        return [(2, 1, 6, "", (address, 0)) for address in self.answers.pop(0)]


async def listening():
    loop = asyncio.get_running_loop()
    return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


@pytest.mark.req("AB-16", "RH-30")
def test_a_name_that_changes_its_address_between_look_up_and_connection_changes_nothing(monkeypatch):
    async def run():
        server = await listening()
        port = server.sockets[0].getsockname()[1]
        names = Names(["127.0.0.1", "127.0.0.1"], ["203.0.113.9"])
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names, raising=False)
        link = await connect_to("server.lab.example", port, 5.0)
        assert link.transport.get_extra_info("peername") == ("127.0.0.1", port)
        assert names.asked == 1
        link.abort()
        await link.closed_waiter
        server.close()
        await server.wait_closed()

    asyncio.run(run())


@pytest.mark.req("T7")
def test_every_address_of_a_name_is_tried_and_the_last_failure_is_told(monkeypatch):
    async def run():
        server = await listening()
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(
            asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.9", "127.0.0.1"]), raising=False
        )
        link = await connect_to("server", port, 5.0)
        link.abort()
        await link.closed_waiter
        server.close()
        await server.wait_closed()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.1"]), raising=False)
        with pytest.raises(ConnectionRefusedError):
            await connect_to("server", port, 5.0)

    asyncio.run(run())


def test_an_address_is_not_looked_up(monkeypatch):
    async def run():
        names = Names()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names, raising=False)
        with pytest.raises(OSError, match=r"refused|failed"):
            await connect_to("127.0.0.1", 1, 5.0)
        assert not names.asked

    asyncio.run(run())
