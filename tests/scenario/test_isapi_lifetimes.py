"""Every way in which a request of an extension can end, S1 to S20, over real connections: Python and C, in process
and isolated. Each leaves nothing behind. isapi.md §6; SC-20 to SC-31"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.support.isapi import EXTENSIONS, Client, Place, compile_extension, serving

from oxid.iis.isapi.application import ApplicationSettings

Serve = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture(scope="session")
def native_story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_extension("story.c", tmp_path_factory.mktemp("story"))


@pytest.fixture(
    params=[
        pytest.param(("python", 0), id="python"),
        pytest.param(("inline", 0), id="python-non-blocking"),
        pytest.param(("python", 1), id="python-own-process"),
        pytest.param(("native", 0), id="native", marks=pytest.mark.peer("gcc")),
        pytest.param(("native", 1), id="native-own-process", marks=pytest.mark.peer("gcc")),
    ]
)
def serve(request: pytest.FixtureRequest) -> Serve:
    language, isolated = request.param
    if language == "native":
        source = request.getfixturevalue("native_story")
    elif language == "inline":
        source = request.getfixturevalue("tmp_path") / "story_inline.py"
        shutil.copy(EXTENSIONS / "story.py", source)
    else:
        source = EXTENSIONS / "story.py"
    return lambda **how: serving(source, isolated=isolated, **how)


def story(serve: Serve, told: Callable[[Place, Client], Awaitable[None]], **how: object) -> None:
    """Tell a story with one client; nothing of it may be left behind it."""

    async def tell() -> None:
        async with serve(**how) as place:
            async with asyncio.timeout(30), place.client() as client:
                await told(place, client)
            await place.rest()

    asyncio.run(tell())


def reset(client: Client) -> None:
    """Let the client's end go without a farewell."""
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


@pytest.mark.req("S1", "IS-10")
def test_success_ends_the_connection(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("success")
        assert (response.status, response.body) == (200, b"hello")
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("S2", "SC-20")
@pytest.mark.parametrize("count", [1, 2, 50])
def test_requests_that_keep_the_connection_leave_nothing_when_the_last_one_ends_it(
    serve: Serve, count: int
) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(count - 1):
            assert (await client.ask("keep")).body == b"hello"
            await place.idle()
            assert place.live()["http_connection"] == 1
        assert (await client.ask("success")).body == b"hello"
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("S3", "SC-21")
def test_a_kept_connection_that_the_client_closes_is_freed(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        assert (await client.ask("keep")).body == b"hello"

    story(serve, told)


@pytest.mark.req("S4", "SC-23", "IS-10")
@pytest.mark.parametrize(("mode", "complete"), [("nolength", True), ("short", False), ("nokeep", True)])
def test_a_response_that_does_not_say_where_it_ends_closes_the_connection(
    serve: Serve, mode: str, complete: bool
) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask(mode)
        assert (response.body, response.complete) == (b"hello", complete)
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("S5", "SC-22")
def test_pending_requests_end_with_done_and_do_to_the_connection_what_it_says(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for mode in ("pending2", "keep", "pending2", "pending1"):
            assert (await client.ask(mode)).body == b"hello"
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("S6", "IS-25")
def test_done_before_the_return_frees_at_the_return(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(3):
            assert (await client.ask("donefirst")).body == b"hello"
        assert await client.all_noted(3) == ["WriteClient 6"] * 3

    story(serve, told)


@pytest.mark.req("S7")
def test_done_and_then_success_is_one_end(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(3):
            assert (await client.ask("donesuccess")).body == b"hello"

    story(serve, told)


@pytest.mark.req("S8", "IS-21", "IS-23")
@pytest.mark.parametrize("mode", ["transmit", "transmitonly"])
def test_a_transmission_outlives_the_return(serve: Serve, mode: str) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask(mode)
        assert (response.status, len(response.body), response.complete) == (200, 5, True)
        await client.noted("sent 5 0")
        if mode == "transmit":  # done with KEEP in the callback
            assert (await client.ask("keep")).body == b"hello"
        else:
            assert await client.closed()

    story(serve, told)


BIG = 256 * 1024 * 1024


def peak_memory() -> int:
    """The most kilobytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.req("IS-26", "SC-32", "S8")
@pytest.mark.parametrize("isolated", [0, 1], ids=["in process", "own process"])
def test_a_big_file_takes_no_memory_and_is_closed_when_its_reader_goes(isolated: int) -> None:
    async def told(place: Place, client: Client) -> None:
        Path(f"{client.file}.big").touch()
        os.truncate(f"{client.file}.big", BIG)
        before = peak_memory()
        client.send("big")
        assert len(await client.reader.readexactly(1_000_000)) == 1_000_000
        reset(client)
        await client.noted("sent 0 995")
        assert client.notes() == ["refused 10022", "refused 10022", "sent 0 995"]
        assert peak_memory() - before < 64 * 1024

    story(lambda **how: serving(EXTENSIONS / "story.py", isolated=isolated, **how), told)


@pytest.mark.req("IS-26", "S8")
@pytest.mark.parametrize("isolated", [0, 1], ids=["in process", "own process"])
def test_a_file_arrives_whole_and_the_connection_goes_on(isolated: int) -> None:
    content = bytes(range(256)) * 20_000

    async def told(place: Place, client: Client) -> None:
        Path(f"{client.file}.big").write_bytes(content)
        for _ in range(2):
            assert (await client.ask("big")).body == content
        await client.noted(f"sent {len(content)} 0")

    story(lambda **how: serving(EXTENSIONS / "story.py", isolated=isolated, **how), told)


@pytest.mark.req("S9", "SC-28")
def test_a_second_done_is_refused_and_harms_nobody(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(20):
            assert (await client.ask("double")).body == b"hello"
        assert set(await client.all_noted(20)) <= {"DoneWithSession 87", "DoneWithSession 6"}

    story(serve, told)


@pytest.mark.req("S10", "S15", "S19", "SC-30", "S20")
def test_requests_that_are_never_done_are_ended_when_their_application_is_unloaded(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        async with place.client() as second:
            client.send("never")
            second.send("never")
            await client.noted("pending")
            await second.noted("pending")
            while len(place.application.pending()) < 2:
                await asyncio.sleep(0.001)
            assert [one.outstanding for one in place.application.pending()] == [0, 0]
            assert place.live()["ecb"] == 2
            await place.host.aclose()
            assert place.live()["ecb"] == 0
            assert (await client.receive()).status in (0, 500)

    story(serve, told, settings=ApplicationSettings(shutdown_limit=0.1))


@pytest.mark.req("S19")
def test_a_proc_that_waits_for_its_client_is_let_go_at_unload(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("echo", method="POST", headers="Content-Length: 10\r\n")
        while not place.world.ledger.ecb.total:
            await asyncio.sleep(0.001)
        await place.host.aclose()
        assert place.live()["ecb"] == 0
        assert (await client.receive()).status in (0, 500)

    story(serve, told, settings=ApplicationSettings(shutdown_limit=0.1))


@pytest.mark.req("S10")
def test_a_pending_request_is_ended_after_its_time_where_one_is_set(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("never")
        assert response.status in (0, 500)

    story(serve, told, settings=ApplicationSettings(pending_timeout=0.05, shutdown_limit=0.5))


@pytest.mark.req("S11", "SC-29", "IS-22")
def test_a_read_that_waits_for_a_client_that_goes_ends_with_995(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("lostread", method="POST", headers="Content-Length: 10\r\n")
        await client.noted("waiting")
        reset(client)
        await client.noted("done")
        assert client.notes() == ["waiting", "read 0 995", "done"]

    story(serve, told)


@pytest.mark.req("S12")
def test_the_next_write_to_a_client_that_went_fails(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("lost")
        await client.noted("waiting")
        reset(client)
        await client.noted("done")
        assert client.notes() == ["waiting", "WriteClient 10054", "done"]

    story(serve, told)


@pytest.mark.req("S13", "SC-31", "IS-60")
@pytest.mark.parametrize("mode", ["fault", "exit", "badstatus", "errorstatus", "nosuchmode"])
def test_a_proc_that_fails_is_500_and_tells_nothing(serve: Serve, mode: str) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask(mode)
        assert response.status == 500
        assert b"Traceback" not in response.body
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("S13", "SC-31")
def test_a_proc_that_fails_after_it_began_to_answer_cuts_the_response(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("faultlate")
        assert (response.status, response.body, response.complete) == (200, b"hello", False)

    story(serve, told)


@pytest.mark.req("S14", "SC-31")
@pytest.mark.parametrize("isolated", [0, 1])
def test_a_callback_that_raises_ends_its_request(isolated: int) -> None:
    async def told(place: Place, client: Client) -> None:
        response = await client.ask("callbackfault")
        assert (response.status, response.body, response.complete) == (200, b"hello", False)

    story(lambda **how: serving(EXTENSIONS / "story.py", isolated=isolated, **how), told)


@pytest.mark.req("S16", "IS-22")
def test_closing_the_connection_ends_the_read_with_64_and_still_waits_for_done(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("closeread", method="POST", headers="Content-Length: 10\r\n")
        assert (await client.receive()).status == 0
        await client.noted("done")
        assert client.notes() == ["read 0 64", "done"]

    story(serve, told)


@pytest.mark.req("S17")
def test_done_while_a_write_is_outstanding_waits_for_its_callback(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(5):
            assert (await client.ask("writedone")).body == b"hello"
        assert await client.all_noted(5) == ["written 5 0"] * 5

    story(serve, told)


@pytest.mark.req("S18", "SC-25")
def test_pipelined_requests_are_answered_in_order_and_dropped_behind_the_last(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for mode in ("pending2", "keep", "chain", "pending2", "success", "keep", "keep"):
            client.send(mode)
        for _ in range(5):
            assert (await client.receive()).body == b"hello"
        assert await client.closed()

    story(serve, told)


@pytest.mark.req("IS-20", "IS-21")
def test_a_second_operation_is_refused_while_one_is_outstanding(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("secondio", method="POST", headers="Content-Length: 5\r\n")
        await client.noted("waiting")
        client.writer.write(b"12345")
        assert (await client.receive()).body == b"hello"
        assert client.notes() == ["WriteClient 87", "waiting", "read 5 0"]

    story(serve, told)


@pytest.mark.req("IS-21")
def test_an_operation_that_is_cancelled_ends_with_995(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        client.send("cancel", method="POST", headers="Content-Length: 5\r\n")
        assert (await client.receive()).body == b"hello"
        assert client.notes() == ["read 0 995"]

    story(serve, told)


@pytest.mark.req("IS-24", "IS-27")
@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_a_body_comes_whole_and_once(serve: Serve, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def told(place: Place, client: Client) -> None:
        for _ in range(2):
            response = await client.ask("echo", method="POST", body=body)
            if size > 65536 and getattr(place.application, "inline", False):
                assert response.status == 500  # it may not wait for the rest: ReadClient fails with 997
                return
            assert response.body == body

    story(serve, told)


@pytest.mark.req("SC-27")
def test_done_at_the_moment_of_the_return_frees_once(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(200):
            assert (await client.ask("race")).body == b"hello"
        await place.idle()
        assert place.world.ledger.ecb.total == 200

    story(serve, told)


@pytest.mark.req("IS-30")
def test_nothing_waits_for_the_garbage_collector(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for mode in ("keep", "pending2", "transmit", "donefirst", "chain", "writedone"):
            assert len((await client.ask(mode)).body) == 5

    gc.collect()
    gc.disable()
    try:
        story(serve, told)
    finally:
        gc.enable()


@pytest.mark.req("SC-28")
def test_handles_of_requests_are_not_given_twice(serve: Serve) -> None:
    async def told(place: Place, client: Client) -> None:
        for _ in range(50):
            assert (await client.ask("connid")).body == b"hello"
        assert len(set(client.notes())) == 50

    story(serve, told)
