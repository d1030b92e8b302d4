"""What can be served, and how a mistake in it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxid.cli.apps import find_interface, load
from oxid.errors import ConfigurationError


@pytest.fixture(autouse=True)
def imports_as_before() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_file_is_loaded_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_app.py").write_text("word = 'hello'\n")
    (tmp_path / "app_here.py").write_text("from neighbour_of_app import word\n")
    assert load(str(tmp_path / "app_here.py")).word == "hello"


def test_a_module_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_by_name.py").write_text("word = 'hello'\n")
    monkeypatch.chdir(tmp_path)
    assert load("module_by_name").word == "hello"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.py", None, "there is no file"),
        ("no_such_module", None, "name a .py file or package.module"),
        ("broken.py", "1 / 0\n", "ZeroDivisionError: division by zero"),
        ("syntax.py", "def\n", "SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    name: str, text: str | None, said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load(str(tmp_path / name) if name.endswith(".py") else name)


def test_interfaces_are_found_by_name_and_by_iid() -> None:
    from oxid.interfaces import object_exporter

    modules = [object_exporter]
    found = find_interface(modules, "IObjectExporter")
    assert find_interface(modules, "{99FCFEC4-5260-101B-BBCB-00AA0021347A}") is found
    with pytest.raises(ConfigurationError, match="did you mean 'IObjectExporter'"):
        find_interface(modules, "IObjectExport")
