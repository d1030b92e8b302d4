"""The small parts of the host by themselves: URLs, heads that wait for their body, frames, threads, modules."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oxid.errors import ConfigurationError, RemoteProtocolError
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.host import settings_for
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.isapi.services import ChildRequest, PlainServices, normalize
from oxid.iis.isapi.shims import remove_shims
from oxid.iis.isapi.threads import WorkerThreads
from oxid.iis.isapi.whole_heads import whole_head
from oxid.iis.isapi.worker_wire import (
    MAX_FRAME,
    FrameReader,
    Kind,
    child_from_json,
    child_to_json,
    pack_response,
    unpack_response,
)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("/", "/"), ("/a/b", "/a/b"), ("/a//b/", "/a/b/"), ("/a/./b/../c", "/a/c"), ("/%41?x=/../..", "/A"),
        ("http://host/a/b", "/a/b"), ("/a\\b", "/a/b"), ("", "/"),
    ],
)  # fmt: skip
def test_urls_are_normalized(url: str, wanted: str) -> None:
    assert normalize(url) == wanted


@pytest.mark.parametrize("url", ["/..", "/a/../../b", "/%2e%2e/x", "/a%00b", "/%ff"])
def test_urls_that_lead_out_are_refused(url: str) -> None:
    with pytest.raises(IsapiError) as raised:
        normalize(url)
    assert raised.value.errno == c.ERROR_INVALID_DATA


def test_a_url_is_mapped_by_the_longest_directory() -> None:
    site = SimpleNamespace(
        directories=[
            SimpleNamespace(path="/", physical=Path("/srv"), access=1),
            SimpleNamespace(path="/app", physical=Path("/opt/app"), access=0x201),
            SimpleNamespace(path="/none", physical=None, access=0),
        ]
    )
    exchange: Any = SimpleNamespace(site=site)
    services = PlainServices()
    assert services.map_url(exchange, "/a/b").physical == "/srv/a/b"
    mapped = services.map_url(exchange, "/APP/x")
    assert (mapped.physical, mapped.flags, mapped.matching_path, mapped.matching_url) == (
        "/opt/app/x",
        0x201,
        8,
        4,
    )
    assert services.map_url(exchange, "/apple").physical == "/srv/apple"
    assert services.map_url(exchange, "/app").physical == "/opt/app"
    with pytest.raises(IsapiError) as raised:
        services.map_url(exchange, "/none/x")
    assert raised.value.errno == c.ERROR_PATH_NOT_FOUND


def test_a_head_with_a_length_waits_for_its_body() -> None:
    found = whole_head(b"200 OK", b"Content-Type: a/b\r\ncontent-LENGTH: 12\r\nX: y\r\n\r\n")
    assert found == (200, 12, b"Content-Type: a/b\r\nX: y\r\n")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (b"200 Fine", b"Content-Length: 1\r\n\r\n"),
        (b"204 No Content", b"Content-Length: 0\r\n\r\n"),
        (b"200 OK", b"Content-Length: 1\r\n\r\nx"),
        (b"200 OK", b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (b"200 OK", b"Content-Length: x\r\n\r\n"),
        (b"200 OK", b"Content-Length: 999999\r\n\r\n"),
        (b"200 OK", b"X: 1\r\n\r\n"),
        (b"200 OK", b"Content-Length: 1\r\nConnection: close\r\n\r\n"),
        (b"200 OK", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"200 OK", b"Content-Length: 1\r\nServer: mine\r\n\r\n"),
        (b"200 OK", b"Content-Length: 1\nX: 2\r\n\r\n"),
        (b"200 OK", b"\r\n"),
    ],
)
def test_any_other_head_goes_out_as_it_is(status: bytes, headers: bytes) -> None:
    assert whole_head(status, headers) is None
    assert whole_head(status, headers) is None  # remembered


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_frames_are_found_however_the_bytes_arrive(piece: int) -> None:
    frames = [(int(Kind.OPEN), 1, b"{}"), (int(Kind.DATA), 2**32 - 1, b"x" * 5000), (int(Kind.LOST), 7, b"")]
    data = b"".join(struct.pack("<B3xII", kind, stream, len(body)) + body for kind, stream, body in frames)
    reader = FrameReader()
    found = [frame for at in range(0, len(data), piece) for frame in reader.feed(data[at : at + piece])]
    assert found == frames


def test_a_frame_that_claims_too_much_is_refused_at_its_header() -> None:
    with pytest.raises(RemoteProtocolError):
        list(FrameReader().feed(struct.pack("<B3xII", 1, 1, MAX_FRAME + 1)))


def test_responses_and_child_requests_survive_the_wire() -> None:
    assert unpack_response(pack_response(404, True, b"A: b\r\n", b"body")) == (
        404,
        True,
        b"A: b\r\n",
        b"body",
    )
    child = ChildRequest("/x", "POST", b"A: \xe4\r\n", b"\0\xff", 4)
    assert child_from_json(child_to_json(child)) == child
    assert child_from_json(child_to_json(ChildRequest())) == ChildRequest()
    with pytest.raises(TypeError):
        child_from_json({**child_to_json(ChildRequest()), "url": 7})


def test_threads_are_made_when_needed_and_end() -> None:
    pool = WorkerThreads(3, "test-isapi")
    assert "0 of 3" in repr(pool)
    go = threading.Event()
    done: list[int] = []

    def job(number: int) -> None:
        go.wait()
        done.append(number)

    for number in range(10):
        pool.run(job, number)
    assert "3 of 3" in repr(pool)
    go.set()
    assert pool.close(10.0) == 0
    assert sorted(done) == list(range(10))


def test_a_thread_that_does_not_end_is_counted_and_not_waited_for() -> None:
    pool = WorkerThreads(1, "test-isapi")
    go, running = threading.Event(), threading.Event()

    def job() -> None:
        running.set()
        go.wait()

    pool.run(job)
    running.wait()
    assert pool.close(0.0) == 1
    go.set()
    assert pool.close(10.0) == 0


@pytest.fixture
def module(tmp_path: Path) -> Iterator[PythonModule]:
    file = tmp_path / "some_extension.py"
    file.write_text(
        "try:\n    count += 1\nexcept NameError:\n    count = 0\ndef __ExtensionFactory__():\n    return count\n"
    )
    made = PythonModule(str(file))
    yield made
    made.forget()
    remove_shims()


def test_a_module_is_loaded_once_and_reloaded_into_its_own_names(module: PythonModule) -> None:
    assert module.make("__ExtensionFactory__") == 0
    assert module.make("__ExtensionFactory__") == 0
    module.reload()
    assert module.make("__ExtensionFactory__") == 1
    assert module.has("__ExtensionFactory__")
    assert not module.has("__FilterFactory__")
    with pytest.raises(ConfigurationError, match="__FilterFactory__"):
        module.make("__FilterFactory__")
    module.forget()
    assert module.make("__ExtensionFactory__") == 0


def test_an_error_reads_like_one_of_windows() -> None:
    error = IsapiError(c.ERROR_INVALID_PARAMETER, "WriteClient")
    assert str(error) == "WriteClient: The parameter is incorrect. (87)"
    assert IsapiError(4711).strerror == "error 4711"


@pytest.mark.req("IS-2")
def test_extensions_learn_the_version_that_the_server_calls_itself() -> None:
    assert settings_for("Microsoft-IIS/5.1").version == (5, 1)
    assert settings_for("Microsoft-IIS/5.1").software == "Microsoft-IIS/5.1"
    assert settings_for("").version == (6, 0)
