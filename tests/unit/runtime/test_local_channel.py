"""Messages between processes of one machine: answers, order, rundown, and peers that misbehave."""

import asyncio
import json
import os
import socket
import struct

import pytest

from oxid.errors import ConfigurationError, LocalProtocolError, ObjectGone, TransportError, hresult
from oxid.ledger import Ledger
from oxid.runtime.local_channel import MAX_MESSAGE, MAX_UNREAD, LocalChannel, dial, open_listener
from oxid.values.status import RPC_E_DISCONNECTED


def play(tmp_path, story, handlers=None):
    """`story(path, accepted)`: a listener whose channels have `handlers`; `accepted` lists them."""

    async def run():
        ledger = Ledger()
        accepted = []

        def accept():
            channel = LocalChannel(ledger.rpc_connection)
            channel.handlers = handlers or {}
            channel.gone = asyncio.Event()
            channel.on_lost = channel.gone.set
            accepted.append(channel)
            return channel

        path = tmp_path / "socket"
        async with open_listener(path, accept):
            await story(path, accepted)
            for channel in accepted:
                await channel.aclose()
        assert ledger.live()["rpc_connection"] == 0
        assert not path.exists()

    asyncio.run(asyncio.wait_for(run(), 30))


def frame(body):
    return struct.pack(">I", len(body)) + body


def test_both_ends_ask_answer_and_tell_in_order(tmp_path):
    told = []

    async def slow(x):
        await asyncio.sleep(0.05)
        return {"twice": 2 * x}

    async def story(path, accepted):
        mine = await dial(path, {"name": lambda: {"name": "client"}}, lambda: None, of_user=os.getuid())
        for number in range(100):
            mine.tell("note", number=number)
        answers = await asyncio.gather(*[mine.ask("double", x=x) for x in range(20)])
        assert [answer["twice"] for answer in answers] == [2 * x for x in range(20)]
        assert told == list(range(100))
        assert (mine.peer.pid, mine.peer.uid) == (os.getpid(), os.getuid())
        assert await accepted[0].ask("name") == {"name": "client"}
        await mine.aclose()
        await mine.aclose()
        await accepted[0].gone.wait()
        with pytest.raises(TransportError, match="gone"):
            await mine.ask("double", x=1)
        mine.tell("note", number=-1)  # for nobody
        assert told[-1] == 99

    play(tmp_path, story, {"note": lambda number: told.append(number), "double": slow})


def test_errors_travel_as_what_they_are(tmp_path):
    def gone():
        raise hresult(RPC_E_DISCONNECTED, "it died")

    def wrong():
        raise ConfigurationError("no such thing")

    async def late():
        await asyncio.sleep(0)
        raise hresult(RPC_E_DISCONNECTED, "it died later")

    def broken():
        return {}["missing"]

    async def story(path, accepted):
        mine = await dial(path, {}, lambda: None)
        with pytest.raises(ObjectGone):
            await mine.ask("gone")
        with pytest.raises(ObjectGone):
            await mine.ask("late")
        with pytest.raises(ConfigurationError, match="no such thing"):
            await mine.ask("wrong")
        with pytest.raises(LocalProtocolError, match="missing"):
            await mine.ask("broken")
        with pytest.raises(LocalProtocolError, match="unknown message 'nothing'"):
            await mine.ask("nothing")
        with pytest.raises(LocalProtocolError):
            await mine.ask("gone", more="arguments than it takes")
        assert not mine.lost
        await mine.aclose()

    play(tmp_path, story, {"gone": gone, "late": late, "wrong": wrong, "broken": broken})


@pytest.mark.req("dcom§6.4")
def test_whoever_waits_for_a_process_that_ends_is_told_at_once(tmp_path):
    async def never():
        await asyncio.Event().wait()

    async def story(path, accepted):
        mine = await dial(path, {}, lambda: None)
        waiting = [asyncio.create_task(mine.ask("never")) for _ in range(3)]
        await asyncio.sleep(0.05)
        accepted[0].cut()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, TransportError)
        assert mine.lost
        await mine.aclose()

    play(tmp_path, story, {"never": never})


def test_what_was_told_before_the_end_still_arrives(tmp_path):
    told = []

    async def story(path, accepted):
        mine = await dial(path, {}, lambda: None)
        while not accepted:
            await asyncio.sleep(0)
        mine.tell("note", number=1)
        mine.cut()
        await accepted[0].gone.wait()
        assert told == [1]

    play(tmp_path, story, {"note": lambda number: told.append(number)})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_MESSAGE + 1),
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(b"not json"),
        frame(b"[1, 2]"),
        frame(b"\xff\xfe"),
        frame(b"[" * 100_000),
        frame(b'"text"'),
    ],
)
def test_nonsense_ends_the_connection_and_nothing_else(tmp_path, data):
    async def story(path, accepted):
        good = await dial(path, {}, lambda: None)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        assert await reader.read() == b""
        writer.close()
        assert await good.ask("echo", x=1) == {"x": 1}
        await good.aclose()

    play(tmp_path, story, {"echo": lambda x: {"x": x}})


@pytest.mark.parametrize(
    "message",
    [
        {"do": "echo", "no": 1},
        {"do": "echo", "no": 1, "y": 2},
        {"do": 7, "no": 1},
        {"do": "missing", "no": 1},
    ],
)
def test_a_message_that_cannot_be_done_is_answered_and_the_connection_stays(tmp_path, message):
    async def story(path, accepted):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(frame(json.dumps(message).encode()))
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        answer = json.loads(await reader.readexactly(length))
        assert answer["no"] == 1
        assert "error" in answer
        writer.write(frame(b'{"no": 99, "ok": {}}'))  # an answer to nothing
        writer.write(frame(b'{"do": "echo", "no": 2, "x": 5}'))
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        assert json.loads(await reader.readexactly(length)) == {"no": 2, "ok": {"x": 5}}
        writer.close()

    play(tmp_path, story, {"echo": lambda x: {"x": x}})


def test_a_message_that_comes_byte_by_byte_is_a_message(tmp_path):
    async def story(path, accepted):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for byte in frame(b'{"do": "echo", "no": 2, "x": 5}'):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        assert json.loads(await reader.readexactly(length)) == {"no": 2, "ok": {"x": 5}}
        writer.close()

    play(tmp_path, story, {"echo": lambda x: {"x": x}})


def test_a_peer_that_does_not_read_is_cut_off_before_it_costs_memory(tmp_path):
    async def story(path, accepted):
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(path))
        await asyncio.sleep(0.05)
        (channel,) = accepted
        piece = "x" * (1 << 20)
        for _ in range(2 * MAX_UNREAD // len(piece)):
            channel.tell("note", text=piece)
            await asyncio.sleep(0)
            if channel.lost:
                break
        await asyncio.wait_for(channel.gone.wait(), 10)
        link.close()

    play(tmp_path, story)


def test_a_message_beyond_the_bound_is_the_senders_fault(tmp_path):
    async def story(path, accepted):
        mine = await dial(path, {}, lambda: None)
        with pytest.raises(LocalProtocolError, match="at most"):
            mine.tell("note", text="x" * MAX_MESSAGE)
        assert await mine.ask("echo", x=1) == {"x": 1}
        await mine.aclose()

    play(tmp_path, story, {"echo": lambda x: {"x": x}})


def test_a_socket_that_somebody_serves_is_not_taken_and_one_that_was_left_behind_is(tmp_path):
    async def story(path, accepted):
        with pytest.raises(ConfigurationError, match="another process serves"):
            async with open_listener(path, LocalChannel):
                pass
        left = tmp_path / "left"
        with socket.socket(socket.AF_UNIX) as link:
            link.bind(str(left))
        async with open_listener(left, LocalChannel):
            assert left.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ConfigurationError, match="are allowed"):
            async with open_listener(tmp_path / ("x" * 120), LocalChannel):
                pass
        with pytest.raises(ConfigurationError, match="cannot listen"):
            async with open_listener(tmp_path / "no" / "such" / "place", LocalChannel):
                pass

    play(tmp_path, story)


def test_a_process_trusts_a_socket_of_its_own_user_only(tmp_path):
    async def story(path, accepted):
        if os.getuid() == 0:
            with pytest.raises(TransportError, match="nobody serves"):
                await dial(tmp_path / "nothing", {}, lambda: None, of_user=0)
        mine = await dial(path, {}, lambda: None, of_user=os.getuid())
        await mine.aclose()

    play(tmp_path, story)
