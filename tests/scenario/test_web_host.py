"""The web server of a real host, set up by its configuration file: files, an ISAPI extension, an ASGI application, the
RPC proxy beside them, and connections whose count comes to zero (Q142658)."""

import http.client
import os
import signal
import textwrap

import pytest
from tests.support.endpoints import wait_for
from tests.support.host import ADMIN, OxidHost, run_oxid

EXTENSION = '''
from isapi.simple import SimpleExtension


class Extension(SimpleExtension):
    """Keeps the connection as often as it is asked to."""

    def HttpExtensionProc(self, ecb):
        keep = ecb.QueryString == b"keep"
        ecb.SendResponseHeaders("200 OK", "Content-Type: text/plain\\r\\nContent-Length: 5\\r\\n\\r\\n", keep)
        ecb.WriteClient(b"hello")
        return 2 if keep else 1


def __ExtensionFactory__():
    return Extension()
'''
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


def configured(directory):
    (directory / "web").mkdir()
    (directory / "web" / "index.html").write_text("<h1>here</h1>")
    (directory / "hello.py").write_text(EXTENSION)
    (directory / "small_asgi.py").write_text(ASGI)
    file = directory / "oxid.toml"
    file.write_text(
        textwrap.dedent(
            """
            [[site]]
            root = "web"
            log = { directory = "logs", delay = 0.0 }

            [[site.dir]]
            path = "/isapi"
            script_maps = ["*,hello.py,1"]

            [[site.dir]]
            path = "/isolated"
            isolated = 1
            script_maps = ["*,hello.py,1"]

            [[site.dir]]
            path = "/asgi"
            script_maps = ["*,asgi:small_asgi:app,1"]
            """
        )
    )
    return file


@pytest.fixture
def host(tmp_path):
    file = configured(tmp_path)
    with OxidHost(options=["--config", str(file)], more_environment={"PYTHONPATH": str(tmp_path)}) as running:
        running.file = file
        yield running


def connection_to(host):
    return http.client.HTTPConnection("127.0.0.1", int(host.ready["http"].rpartition(":")[2]), timeout=20)


def get(there, path):
    there.request("GET", path)
    answer = there.getresponse()
    return answer.status, answer.read()


def test_files_extensions_and_applications_are_served_from_one_file(host):
    there = connection_to(host)
    assert get(there, "/") == (200, b"<h1>here</h1>")
    assert get(there, "/isapi/x?keep") == (200, b"hello")
    assert get(there, "/isolated/x?keep") == (200, b"hello")
    assert get(there, "/asgi/some/where") == (200, b"/asgi/some/where")
    assert get(there, "/rpc/rpcproxy.dll")[0] == 403  # plain HTTP
    assert get(there, "/nothing")[0] == 404
    there.close()
    host.wait_for_rest(5.0)
    lines = "".join(path.read_text() for path in (host.file.parent / "logs").rglob("*.log")).splitlines()
    asked = [line for line in lines if not line.startswith("#")]
    assert len(asked) == 6, lines
    assert [line.split()[4:6] for line in asked][1] == ["GET", "/isapi/x"]


@pytest.mark.req("SC-20", "S2", "IS-1")
@pytest.mark.parametrize("kept", [1, 20])
def test_a_connection_that_was_kept_and_then_ends_with_success_counts_no_more(tmp_path, kept):
    """Q142658: HSE_STATUS_SUCCESS_AND_KEEP_CONN, and later HSE_STATUS_SUCCESS when the client is done."""
    file = configured(tmp_path)
    with OxidHost(options=["--config", str(file)], more_environment={"PYTHONPATH": str(tmp_path)}) as host:
        for _ in range(5):
            there = connection_to(host)
            for _ in range(kept):
                assert get(there, "/isapi/x?keep") == (200, b"hello")
            assert get(there, "/isapi/x") == (200, b"hello")
            there.close()
        wait_for(lambda: not host.live().get("http_connection"), "all given back", within=5.0)


def test_a_new_configuration_is_served_after_sighup_and_a_wrong_one_is_not(host):
    there = connection_to(host)
    assert get(there, "/")[0] == 200
    other = host.file.parent / "other"
    other.mkdir()
    (other / "index.html").write_text("there")
    text = host.file.read_text()
    host.file.write_text(text.replace('root = "web"', 'root = "other"'))
    os.kill(host.pid, signal.SIGHUP)
    wait_for(lambda: get(there, "/") == (200, b"there"), "the other root")
    host.file.write_text(text.replace('root = "web"', 'rooot = "web"'))
    os.kill(host.pid, signal.SIGHUP)
    wait_for(lambda: "unknown key 'rooot'; did you mean 'root'?" in host.log(), "the error")
    assert get(there, "/") == (200, b"there")
    there.close()


def test_a_host_may_have_no_web_server_and_no_port_for_proxies(tmp_path):
    with OxidHost(options=["--http", "off", "--ncacn-http", "off"]) as host:
        assert set(host.ready) == {"rpc", "state"}
        done = run_oxid("ping", f"{ADMIN}@127.0.0.1:{host.port}", "--anonymous", "--json")
        assert "ncacn_http" not in done.stdout
