"""The chain of filters by hand: order, verdicts, contexts, and the views that Python filters get. isapi.md §9"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from oxid.http.heads import RequestHead
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.filters import FilterChain, LogRecord, PreprocHeaders, Session, UrlMap, Verdict
from oxid.iis.isapi.python_filters import PythonFilter

EVERYTHING = 0x0400_FFC0 | c.SF_NOTIFY_SECURE_PORT | c.SF_NOTIFY_NONSECURE_PORT


class Connection:
    """As much of a connection as the chain looks at."""

    def __init__(self, tls: object = None) -> None:
        self.state: dict[str, Any] = {}
        self.tls = tls
        self.exchange = None


class Exchange:
    """As much of a request."""

    def __init__(self, connection: Connection, target: bytes = b"/x") -> None:
        self.connection = connection
        self.head = RequestHead("GET", target, (1, 1), [(b"host", b"h"), (b"x-one", b"1")])
        self.path = "/x"
        self.physical = None


class Marker:
    """A filter that notes what it hears and answers what it is told."""

    def __init__(
        self,
        name: str,
        heard: list[tuple[str, int]],
        flags: int = EVERYTHING,
        answer: int = c.SF_STATUS_REQ_NEXT_NOTIFICATION,
        act: Callable[[Session, Any], None] | None = None,
    ) -> None:
        self.name, self.heard, self.flags, self.answer, self.act = name, heard, flags, answer, act
        self.ended: list[object] = []

    def notify(self, session: Session, connection: Any, exchange: Any, kind: int, data: Any) -> int:
        self.heard.append((self.name, kind))
        if self.act is not None:
            self.act(session, data)
        return self.answer

    def session_ended(self, context: Any) -> None:
        self.ended.append(context)


@pytest.fixture
def heard() -> list[tuple[str, int]]:
    return []


@pytest.mark.req("IS-51")
def test_priority_goes_before_the_order_of_loading(heard: list[tuple[str, int]]) -> None:
    orders = [
        ("first low", c.SF_NOTIFY_ORDER_LOW), ("none", 0), ("high", c.SF_NOTIFY_ORDER_HIGH),
        ("medium", c.SF_NOTIFY_ORDER_MEDIUM), ("second high", c.SF_NOTIFY_ORDER_HIGH),
    ]  # fmt: skip
    chain = FilterChain([Marker(name, heard, EVERYTHING | order) for name, order in orders])
    exchange: Any = Exchange(Connection())
    assert chain.on_url_map(exchange, "/x", "/srv/x") == (Verdict.PROCEED, "/srv/x")
    assert [name for name, _ in heard] == ["high", "second high", "medium", "first low", "none"]


@pytest.mark.parametrize(
    ("answer", "verdict", "others"),
    [
        (c.SF_STATUS_REQ_NEXT_NOTIFICATION, Verdict.PROCEED, True),
        (c.SF_STATUS_REQ_HANDLED_NOTIFICATION, Verdict.PROCEED, False),
        (c.SF_STATUS_REQ_FINISHED, Verdict.FINISHED, False),
        (c.SF_STATUS_REQ_FINISHED_KEEP_CONN, Verdict.FINISHED_KEEP, False),
        (c.SF_STATUS_REQ_ERROR, Verdict.ERROR, False),
        (c.SF_STATUS_REQ_READ_NEXT, Verdict.READ_NEXT, False),
        (0, Verdict.ERROR, False),
    ],
)
def test_what_a_filter_returns_decides_about_those_behind_it(
    heard: list[tuple[str, int]], answer: int, verdict: Verdict, others: bool
) -> None:
    chain = FilterChain([Marker("a", heard, answer=answer), Marker("b", heard)])
    connection: Any = Connection()
    assert chain.on_read_raw_data(connection, b"x") == (verdict, b"x")
    assert [name for name, _ in heard] == (["a", "b"] if others else ["a"])


def test_what_a_filter_raises_is_an_error_and_stays_here(
    heard: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "oxid.iis.isapi.filters")

    def act(session: Session, data: Any) -> None:
        raise RuntimeError("on purpose")

    chain = FilterChain([Marker("a", heard, act=act)])
    connection: Any = Connection()
    assert chain.on_send_raw_data(connection, b"x")[0] is Verdict.ERROR


@pytest.mark.parametrize(("tls", "names"), [(None, ["both", "plain"]), (object(), ["both", "secure"])])
def test_ports_choose_filters(heard: list[tuple[str, int]], tls: object, names: list[str]) -> None:
    kind = c.SF_NOTIFY_URL_MAP
    chain = FilterChain(
        [
            Marker("both", heard, kind),
            Marker("plain", heard, kind | c.SF_NOTIFY_NONSECURE_PORT),
            Marker("secure", heard, kind | c.SF_NOTIFY_SECURE_PORT),
            Marker("other", heard, c.SF_NOTIFY_LOG),
        ]
    )
    exchange: Any = Exchange(Connection(tls))
    chain.on_url_map(exchange, "/x", "")
    assert [name for name, _ in heard] == names


@pytest.mark.req("IS-50")
def test_contexts_end_with_the_connection_once(heard: list[tuple[str, int]]) -> None:
    def act(session: Session, data: Any) -> None:
        session.contexts.setdefault("a", "context")

    first = Marker("a", heard, act=act)
    chain = FilterChain([first, Marker("b", heard)])
    connection: Any = Connection()
    chain.on_end_of_net_session(connection)
    chain.on_end_of_net_session(connection)
    assert first.ended == ["context"]
    assert heard == [("a", c.SF_NOTIFY_END_OF_NET_SESSION), ("b", c.SF_NOTIFY_END_OF_NET_SESSION)]


def test_a_filter_that_wants_no_more_hears_no_more_of_this_request(heard: list[tuple[str, int]]) -> None:
    def act(session: Session, data: Any) -> None:
        session.disabled["a"] = c.SF_NOTIFY_LOG

    chain = FilterChain([Marker("a", heard, act=act)])
    exchange: Any = Exchange(Connection())
    record = LogRecord("c", "u", "s", "GET", "/x", "", 200, 0)
    chain.on_url_map(exchange, "/x", "")
    chain.on_log(exchange, record)
    chain.on_end_of_request(exchange)
    chain.on_log(exchange, record)
    kinds = [kind for _, kind in heard]
    assert kinds == [c.SF_NOTIFY_URL_MAP, c.SF_NOTIFY_END_OF_REQUEST, c.SF_NOTIFY_LOG]


def test_a_changed_head_is_another_head(heard: list[tuple[str, int]]) -> None:
    def change(session: Session, data: PreprocHeaders) -> None:
        assert data.set("url", b"/y?q")
        assert data.set("X-One:", b"2")
        assert data.add("X-Two:", b"3")

    exchange: Any = Exchange(Connection())
    verdict, head = FilterChain([Marker("a", heard, act=change)]).on_preproc_headers(exchange)
    assert verdict is Verdict.PROCEED
    assert head is not None
    assert (head.target, head.header(b"x-one"), head.header(b"x-two")) == (b"/y?q", b"2", b"3")


@pytest.mark.req("IS-51")
def test_names_of_headers_have_their_colon_and_the_special_ones_have_none() -> None:
    data = PreprocHeaders("GET", b"/x", (1, 1), [(b"host", b"h"), (b"x", b"1"), (b"x", b"2")])
    assert (data.get("Host:"), data.get("Host"), data.get("x:")) == (b"h", None, b"1, 2")
    assert (data.get("url"), data.get("method"), data.get("version")) == (b"/x", b"GET", b"HTTP/1.1")
    assert data.get("url:") is None
    for name, value in (
        ("Host", b"x"),
        ("Host:", b"a\r\nb"),
        ("version", b"HTTP/9"),
        ("url", b"/a b"),
        ("url", b""),
    ):
        assert not data.set(name, value)
    assert not data.add("Transfer-Encoding:", b"chunked")
    assert data.set("x:", b"")
    assert data.get("x:") is None


class Module:
    """A module with one filter, as PythonFilter sees it."""

    reload_exception = KeyError

    class filter_error(Exception):
        def __init__(self, errno: int, text: object, function: str) -> None:
            self.errno = errno

    def __init__(self, proc: Callable[[Any], Any]) -> None:
        self.proc = proc
        self.reloads = 0
        self.terminated: list[int] = []

    def reload(self) -> None:
        self.reloads += 1

    def make(self, factory: str) -> Any:
        module = self

        class Filter:
            def GetFilterVersion(self, version: Any) -> None:
                if version is not None:
                    version.Flags = EVERYTHING & ~c.SF_NOTIFY_END_OF_NET_SESSION
                    version.FilterDesc = "text"

            def HttpFilterProc(self, context: Any) -> Any:
                return module.proc(context)

            def TerminateFilter(self, status: int) -> None:
                module.terminated.append(status)

        return Filter()


def python_filter(proc: Callable[[Any], Any]) -> tuple[PythonFilter, Module]:
    module: Any = Module(proc)
    return PythonFilter(module, "python").load(), module


@pytest.mark.req("IS-60")
@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(None, Verdict.PROCEED), ("text", Verdict.ERROR), (c.SF_STATUS_REQ_FINISHED, Verdict.FINISHED)],
)
def test_a_python_filter_returns_none_or_a_status(
    answer: Any, verdict: Verdict, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "oxid.iis.isapi.filters")
    loaded, _ = python_filter(lambda context: answer)
    assert loaded.flags & c.SF_NOTIFY_END_OF_NET_SESSION  # it is always told, so that its context ends
    connection: Any = Connection()
    assert FilterChain([loaded]).on_read_raw_data(connection, b"x")[0] is verdict


def test_a_python_filter_sets_bytes_and_gets_bytes() -> None:
    def proc(context: Any) -> None:
        data = context.GetData()
        if context.NotificationType == c.SF_NOTIFY_URL_MAP:
            assert (data.URL, data.PhysicalPath) == (b"/x", b"/srv/x")
            with pytest.raises(TypeError):
                data.PhysicalPath = "/text"
            data.PhysicalPath = b"/srv/y"
        elif context.NotificationType == c.SF_NOTIFY_AUTHENTICATION:
            data.User, data.Password = b"ann", data.Password + b"!"
        elif context.NotificationType == c.SF_NOTIFY_LOG:
            assert data.HttpStatus == 200
            data.Target, data.HttpStatus = b"/other", 201

    loaded, module = python_filter(proc)
    chain = FilterChain([loaded])
    exchange: Any = Exchange(Connection())
    assert chain.on_url_map(exchange, "/x", "/srv/x") == (Verdict.PROCEED, "/srv/y")
    assert chain.on_authentication(exchange, "bob", "pw") == (Verdict.PROCEED, "ann", "pw!")
    record = LogRecord("c", "u", "s", "GET", "/x", "", 200, 0)
    chain.on_log(exchange, record)
    assert (record.target, record.status) == ("/other", 201)
    loaded.terminate()
    loaded.terminate()
    assert module.terminated == [c.TERM_MUST_UNLOAD]


def test_what_a_python_filter_keeps_of_a_notification_holds_nothing() -> None:
    kept: list[Any] = []

    def proc(context: Any) -> None:
        context.FilterContext = (context.FilterContext or 0) + 1
        kept.extend([context, context.GetData()])

    loaded, _ = python_filter(proc)
    chain = FilterChain([loaded])
    exchange: Any = Exchange(Connection())
    chain.on_url_map(exchange, "/x", "")
    context, data = kept
    with pytest.raises(RuntimeError):
        context.GetServerVariable("URL")
    with pytest.raises(RuntimeError):
        data.URL  # noqa: B018
    assert chain.session_of(exchange.connection).contexts == {"python": 1}


def test_a_python_filter_is_loaded_anew_when_it_says_so() -> None:
    calls: list[int] = []

    def proc(context: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError

    loaded, module = python_filter(proc)
    connection: Any = Connection()
    assert FilterChain([loaded]).on_read_raw_data(connection, b"x")[0] is Verdict.PROCEED
    assert (len(calls), module.reloads, module.terminated) == (2, 1, [c.TERM_ADVISORY_UNLOAD])


def test_a_url_map_is_plain_data() -> None:
    assert UrlMap("/x", "/srv").physical == "/srv"
