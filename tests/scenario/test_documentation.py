"""What README and documentation show runs as shown, and their links lead somewhere."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.host import ADMIN, PASSWORD, OxidHost

from oxid.com.coclass import coclass_of
from oxid.rpc.interface import is_interface, spec_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def host() -> Iterator[OxidHost]:
    with OxidHost() as running:
        yield running


def blocks(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(example: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "example", "exec"), scope)
    return scope


@pytest.mark.parametrize(
    ("page", "printed"),
    [("README.md", "5\n"), ("docs/client.md", "5\nHello, World\nDISP_E_DIVBYZERO (0x80020012) 1.0 cannot")],
)
def test_the_client_examples_run(
    page: str, printed: str, host: OxidHost, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [block for block in blocks(page) if "connect(" in block]
    example = example.replace("10135", str(host.port)).replace('"secret"', f'"{PASSWORD}"')
    asyncio.run(run(example)["main"]())
    assert capsys.readouterr().out.startswith(printed)
    host.wait_for_rest()


@pytest.mark.parametrize("page", ["README.md", "docs/server.md", "docs/declaring-interfaces.md"])
def test_the_declarations_are_valid(page: str) -> None:
    (example,) = [block for block in blocks(page) if "@interface" in block]
    scope = run(example)
    declared = [value for value in scope.values() if is_interface(value) and value.__module__ == "example"]
    assert declared
    for cls in declared:
        assert spec_of(cls).operations
    if "Greeter" in scope:
        assert coclass_of(scope["Greeter"]).progid == "Example.Greeter"


def commands() -> list[str]:
    """The client commands that README and pages show, each once."""
    found = [
        line.strip()
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r" {4}(\./)?oxid (ping|epm|activate|call|resolve) ", line)
    ]
    return list(dict.fromkeys(command.removeprefix("./") for command in found))


@pytest.mark.parametrize("command", commands())
def test_the_commands_work(command: str, host: OxidHost) -> None:
    command = command.replace("admin@", f"{ADMIN}%{PASSWORD}@").replace(
        "localhost:10135", f"127.0.0.1:{host.port}"
    )
    done = host.run(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_option_of_serve_is_documented(host: OxidHost) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for option in re.findall(r"^\s+(--[a-z-]+)", host.run("serve", "--help").stdout, re.MULTILINE):
        assert f"`{option}" in text, option
