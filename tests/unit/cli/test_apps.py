"""What can be served, and how a mistake in it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxid.cli.apps import find_interface, load, offer_of
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


def test_an_application_offers_what_it_defines_not_what_it_uses(tmp_path: Path) -> None:
    from oxid.samples.calculator import CLSID_CALCULATOR
    from oxid.samples.ticker import CLSID_TICKER

    samples = offer_of(load("oxid.samples"), "oxid.samples")
    assert [found.clsid for found in samples.classes] == [CLSID_CALCULATOR, CLSID_TICKER]
    (tmp_path / "user_of_samples.py").write_text(
        "from oxid import coclass\n"
        "from oxid.samples.calculator import Calculator, ICalculator\n"
        "@coclass('6a9b0a0e-5d3a-4f4e-8a55-4f0b5fd0c303', implements=[ICalculator])\n"
        "class Mine(Calculator): ...\n"
        "from oxid import PlainInterface\n"
        "from oxid.samples.echo import Echo, IEcho\n"
        "ECHO = PlainInterface(IEcho, Echo())\n"
        "class Other(IEcho): ...\n"
    )
    mine = offer_of(load(str(tmp_path / "user_of_samples.py")), "user_of_samples.py")
    assert [found.factory.__name__ for found in mine.classes] == ["Mine"]
    assert [type(found.implementation).__name__ for found in mine.interfaces] == ["Echo", "Other"]
    (tmp_path / "nothing_here.py").write_text("from oxid.samples.calculator import Calculator\n")
    with pytest.raises(ConfigurationError, match="nothing to serve"):
        offer_of(load(str(tmp_path / "nothing_here.py")), "nothing_here.py")


def test_interfaces_are_found_by_name_and_by_iid() -> None:
    from oxid.interfaces import object_exporter

    modules = [object_exporter]
    found = find_interface(modules, "IObjectExporter")
    assert find_interface(modules, "{99FCFEC4-5260-101B-BBCB-00AA0021347A}") is found
    with pytest.raises(ConfigurationError, match="did you mean 'IObjectExporter'"):
        find_interface(modules, "IObjectExport")
