"""The tool that lists requirement -> tests reads marks right, and sees planted mistakes."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

SOURCE = """
import pytest
pytestmark = pytest.mark.req("M-1")

@pytest.mark.req("A-1", "A-2")
def test_one(): ...

@pytest.mark.req("C-1")
class TestMany:
    @pytest.mark.req("A-2")
    async def test_two(self): ...
    def helper(self): ...

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.req("P-1"))])
def test_three(x): ...
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location("conformance_tool", ROOT / "tools" / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_marks_are_read_from_functions_classes_modules_and_parameters(tool: ModuleType) -> None:
    assert dict(tool.tests_in(SOURCE)) == {
        "test_one": ["M-1", "A-1", "A-2"],
        "TestMany.test_two": ["M-1", "C-1", "A-2"],
        "test_three": ["M-1", "P-1"],
    }


def test_what_is_wrong_is_said(tool: ModuleType) -> None:
    wanted = tool.requirements("# list\nA-1 | one\nB-1 | two | left out: no need\nC-1 | three\n")
    by_id = {"A-1": ["t.py: test_a"], "Z-9": ["t.py: test_z"], "rpce§4.1": ["t.py: test_r"]}
    assert tool.complaints(wanted, by_id) == [
        "neither a test nor a reason: C-1",
        "t.py: test_z names Z-9, which is no requirement",
    ]
    page = tool.page(wanted, by_id)
    assert "## A-1\n\nOne.\n\n- `t.py: test_a`" in page
    assert "Left out: no need." in page
    assert "1 of 3 requirements" in page
