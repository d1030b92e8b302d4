"""The examples of the pages about web server and ISAPI run as shown; what they list of keys and limits is complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.absent import absent
from tests.support.endpoints import wait_for
from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.web import certificate

from oxid.config import host_options
from oxid.iis import settings_file
from oxid.iis.isapi.native_layout import HEADER
from oxid.iis.limits import HttpLimits

KEEPS = """
from isapi.simple import SimpleExtension

kept = []


class Keeps(SimpleExtension):
    NonBlocking = True

    def HttpExtensionProc(self, ecb):
        if ecb.QueryString == b"end":
            kept.pop().DoneWithSession(1)
            ecb.SendResponseHeaders("200 OK", "Content-Length: 0\\r\\n\\r\\n", False)
            return 1
        kept.append(ecb)
        return 3


def __ExtensionFactory__():
    return Keeps()
"""
DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def tables(page: str, containing: str = "") -> str:
    """The directories that a page shows, one after the other."""
    found = [text for text in blocks(DOCS / page, "toml") if text.startswith("[[site.dir]]")]
    return "\n".join(text for text in found if containing in text)


def write_files(page: str, place: Path) -> None:
    """The files of a page; each says its name in its first line."""
    for language, name in (("python", r"# (\w+\.py)\n"), ("c", r"/\* (\w+\.c) \*/\n")):
        for text in blocks(DOCS / page, language):
            match = re.match(name, text)
            if match:
                (place / match[1]).write_text(text)


def ask(address: str, path: str, body: bytes | None = None, method: str | None = None) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    there = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        there.request(method or ("GET" if body is None else "POST"), path, body)
        answer = there.getresponse()
        return answer.status, answer.read()
    finally:
        there.close()


def every_configuration() -> list[tuple[str, str]]:
    return [(page.name, text) for page in PAGES for text in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "text"), every_configuration(), ids=lambda value: value[:40])
def test_every_table_that_is_shown_is_valid(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "oxid.toml"
    file.write_text(f"[[site]]\n{text}" if text.startswith("[[site.dir]]") else text)
    host_options({"state": str(tmp_path / "state")}, environ={}, file=file)


@pytest.mark.parametrize(
    "keys",
    [
        settings_file.SITE_KEYS,
        settings_file.DIRECTORY_KEYS,
        settings_file.LOG_KEYS,
        settings_file._ACCESS,
        settings_file._AUTH,
    ],
    ids=["site", "site.dir", "log", "access", "auth"],
)
def test_every_key_of_a_site_is_documented(keys: list[str]) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert [key for key in keys if f"`{key}`" not in text and key != "dir"] == []


def test_every_limit_is_documented() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert [one.name for one in fields(HttpLimits) if f"`{one.name}`" not in text] == []


def test_links_lead_to_headings_that_are_there() -> None:
    def anchors(page: Path) -> set[str]:
        lines = page.read_text(encoding="utf-8").splitlines()
        heads = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()) for line in lines if line.startswith("#")]
        return {head.strip().replace(" ", "-") for head in heads}

    for page in [*PAGES, DOCS.parent / "ARCHITECTURE.md"]:
        for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                there = page if not target else page.parent / target
                assert anchor in anchors(there), f"{page.name}: {target}#{anchor}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of both pages, compiled where that is needed, and one configuration out of all they show."""
    place = tmp_path_factory.mktemp("pages")
    write_files("isapi.md", place)
    write_files("web-server.md", place)
    if (compiler := shutil.which("cc")) is None:
        absent("cc")
    strict = ["-Wall", "-Wextra", "-Werror"]
    command = [compiler, "-shared", "-fPIC", *strict, "-I", HEADER.parent, "-o", "native.so", "native.c"]
    subprocess.run(command, cwd=place, check=True)
    (place / "keeps.py").write_text(KEEPS)
    for name in ("web", "photographs"):
        (place / name).mkdir()
        (place / name / "page.txt").write_text(name)
    (place / "web" / "scripts").mkdir()
    (place / "web" / "scripts" / "a.hello").write_text("only has to be there")
    site = blocks(DOCS / "web-server.md", "toml")[0]
    keeps = '[[site.dir]]\npath = "/keeps"\nscript_maps = ["*,keeps.py,1"]\n'
    (place / "oxid.toml").write_text(f"{site}\n{tables('web-server.md')}\n{tables('isapi.md')}\n{keeps}")
    return place


@pytest.fixture(scope="module")
def extensions(place: Path) -> Iterator[OxidHost]:
    options = ["--config", str(place / "oxid.toml")]
    with OxidHost(options=options, more_environment={"PYTHONPATH": str(place)}) as host:
        yield host
        host.wait_for_rest(5.0)


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/hello?Bob", None, b"Hello, Bob"),
        ("/hello", None, b"Hello, World"),
        ("/quick", None, b"quick"),
        ("/shop/a.hello", None, b"hello"),
        ("/shop/a.copy", bytes(300_000), bytes(300_000)),
        ("/shop/a.later", None, b"now"),
        ("/native?Bob", None, b"Hello from C, Bob"),
    ],
)
def test_the_extensions_answer(extensions: OxidHost, path: str, body: bytes | None, answer: bytes) -> None:
    assert ask(extensions.ready["http"], path, body) == (200, answer)


def test_a_request_that_is_kept_is_shown_until_its_extension_ends_it(extensions: OxidHost) -> None:
    """`Later` keeps its request for 0.2 s, and lets go of it when its client goes."""
    host, _, port = extensions.ready["http"].rpartition(":")
    with socket.create_connection((host, int(port))) as there:
        there.sendall(b"GET /shop/a.later HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_for(lambda: extensions.live().get("ecb") == 1, "the request")
    wait_for(lambda: not extensions.live().get("ecb"), "let go", within=5.0)
    done = extensions.run("tunnels", "--state", str(extensions.state))
    assert (done.returncode, done.stdout.strip()) == (0, "no tunnel stands")


def test_a_kept_request_is_named_also_when_its_client_is_gone(extensions: OxidHost) -> None:
    (shown,) = re.findall(r"    (pending: .*)", (DOCS / "isapi.md").read_text(encoding="utf-8"))
    shape = re.escape(shown).replace(r"orders\.py", r"keeps\.py").replace(r"341\.7", r"[\d.]+")
    shape = re.sub("0x[0-9a-f]+", "0x[0-9a-f]+", shape)
    host, _, port = extensions.ready["http"].rpartition(":")
    with socket.create_connection((host, int(port))) as there:
        there.sendall(b"GET /keeps HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_for(lambda: extensions.live().get("ecb") == 1, "the request")
    said = extensions.run("tunnels", "--state", str(extensions.state)).stdout
    assert re.search(shape, said), said
    ask(extensions.ready["http"], "/keeps?end")
    wait_for(lambda: not extensions.live().get("ecb"), "let go", within=5.0)


def test_the_filter_sees_what_comes_and_what_goes(tmp_path: Path) -> None:
    write_files("isapi.md", tmp_path)
    extensions = tables("isapi.md", containing="hello.py")
    file = tmp_path / "oxid.toml"
    file.write_text(f'[[site]]\nfilters = ["old.py"]\n{extensions}')
    with OxidHost(options=["--config", str(file)]) as host:
        there = http.client.HTTPConnection(host.ready["http"], timeout=20)
        for path, marked in (("/old/?Bob", "yes"), ("/hello?Bob", None)):
            there.request("GET", path)
            answer = there.getresponse()
            assert (answer.read(), answer.getheader("X-Filtered")) == (b"Hello, Bob", marked)
        there.close()


def test_the_site_serves_files_applications_and_a_log(extensions: OxidHost, place: Path) -> None:
    at = extensions.ready["http"]
    assert ask(at, "/page.txt") == (200, b"web")
    assert ask(at, "/PICTURES/page.txt") == (200, b"photographs")
    assert b"page.txt" in ask(at, "/pictures/")[1]
    assert ask(at, "/app/x") == (200, b"/app/x below /app for anybody")
    assert ask(at, "/scripts/a.hello/more") == (200, b"Hello, World")
    assert ask(at, "/scripts/b.hello")[0] == 404
    assert ask(at, "/scripts/a.hello", method="DELETE")[0] == 405
    assert ask(at, "/tunnel/rpcproxy.dll")[0] == 403
    assert ask(at, "/office/")[0] == 401

    def logged() -> bool:
        return any(" GET /office/ - " in file.read_text() for file in (place / "logs").glob("ex??????.log"))

    wait_for(logged, "the access log", within=5.0)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_certificates_and_extended_protection_are_asked_for(tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "security.md", "toml")
    server, alice = certificate(tmp_path, "localhost"), certificate(tmp_path, "alice")
    der = ssl.PEM_cert_to_DER_cert(alice.cert.read_text())
    fingerprint = hashlib.sha256(der).hexdigest()
    port = free_port()
    text = re.sub(r'"[0-9A-F:]{95}" = "alice"', f'"{fingerprint}" = "{ADMIN}"', text)
    text = text.replace("https/*:443:", f"https/127.0.0.1:{port}:")
    for shown, there in (
        ("server.pem", server.cert),
        ("server.key", server.key),
        ("our-people.pem", alice.cert),
    ):
        text = text.replace(f'"{shown}"', f'"{there}"')
    for name in ("people", "windows"):
        (tmp_path / "web" / name).mkdir(parents=True)
        (tmp_path / "web" / name / "x").write_text(name)
    (tmp_path / "oxid.toml").write_text(text)

    def status(path: str, *, certified: bool) -> int:
        context = ssl.create_default_context(cafile=str(server.cert))
        if certified:
            context.load_cert_chain(alice.cert, alice.key)
        there = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
        try:
            there.request("GET", path)
            return there.getresponse().status
        finally:
            there.close()

    with OxidHost(options=["--config", str(tmp_path / "oxid.toml"), "--http", "off"]) as host:
        assert host.ready["https"] == f"127.0.0.1:{port}"
        assert status("/people/x", certified=False) == 403
        assert status("/people/x", certified=True) == 200
        assert status("/windows/x", certified=False) == 401
        if (curl := shutil.which("curl")) is not None:
            command = [
                curl,
                "-s",
                "--cacert",
                server.cert,
                "--ntlm",
                "-u",
                f"{ADMIN}:{PASSWORD}",
                "-w",
                "%{http_code}",
            ]
            done = subprocess.run(
                [*command, "-o", os.devnull, f"https://localhost:{port}/windows/x"],
                capture_output=True,
                text=True,
            )
            assert done.stdout == "401"  # it does not name the channel
