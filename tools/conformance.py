"""Writes docs/conformance.md: which tests show which requirement.

    python tools/conformance.py            write the page
    python tools/conformance.py --check    fail where the page is out of date, a requirement has neither test
                                           nor reason, or a test names a requirement that does not exist

Requirements come from docs/requirements-ids.txt, tests from `@pytest.mark.req("NDR-5", …)` in tests/, read
without importing them. Rows without an id of their own are named file§section.row; tests may name more of
those than are listed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "docs" / "requirements-ids.txt"
PAGE = ROOT / "docs" / "conformance.md"
ROW_NAME = re.compile(r"(rpce|dcom|scenarios-dcom|rpc-over-http|isapi)§[\w.-]+|(PNG|BLK)-\d+")


@dataclass(frozen=True, slots=True)
class Requirement:
    id: str
    text: str
    left_out: str = ""


def requirements(text: str) -> list[Requirement]:
    """Parse the list; the third column is the reason a requirement is left out."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            columns = [column.strip() for column in line.split("|")]
            reason = columns[2].removeprefix("left out:").strip() if len(columns) > 2 else ""
            found.append(Requirement(columns[0], columns[1], reason))
    return found


def marked(node: ast.AST) -> list[str]:
    """The ids of every pytest.mark.req(…) inside a node."""
    return [
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "req"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def tests_in(source: str) -> Iterator[tuple[str, list[str]]]:
    """Test name -> requirement ids: its own marks, its class's and its module's (`pytestmark`)."""
    module = ast.parse(source)
    everywhere = [
        name
        for node in module.body
        if isinstance(node, ast.Assign)
        and any(ast.unparse(target) == "pytestmark" for target in node.targets)
        for name in marked(node.value)
    ]

    def walk(body: list[ast.stmt], prefix: str, inherited: list[str]) -> Iterator[tuple[str, list[str]]]:
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                own = inherited + [name for decorator in node.decorator_list for name in marked(decorator)]
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.", own)
                elif node.name.startswith("test"):
                    yield prefix + node.name, own

    yield from walk(module.body, "", everywhere)


def shown(tests: Path) -> dict[str, list[str]]:
    """Requirement id -> `file: test` of every test that shows it."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for name, ids in tests_in(path.read_text(encoding="utf-8")):
            for id_ in dict.fromkeys(ids):
                found.setdefault(id_, []).append(f"{path.relative_to(tests).as_posix()}: {name}")
    return found


def page(wanted: list[Requirement], by_id: dict[str, list[str]]) -> str:
    """The page as Markdown."""
    more = sorted(set(by_id) - {requirement.id for requirement in wanted})
    lines = [
        "# Conformance: requirement → tests",
        "",
        "Made by `python tools/conformance.py` from the marks in the tests; `scripts/check` compares.",
        "",
        f"{sum(1 for r in wanted if by_id.get(r.id))} of {len(wanted)} requirements are shown by tests.",
        "",
    ]
    for requirement in [*wanted, *(Requirement(name, "") for name in more)]:
        lines += [f"## {requirement.id}", ""]
        lines += [f"{requirement.text[:1].upper()}{requirement.text[1:]}.", ""] if requirement.text else []
        lines += [f"Left out: {requirement.left_out}.", ""] if requirement.left_out else []
        if tests := by_id.get(requirement.id):
            lines += [*(f"- `{test}`" for test in tests), ""]
    return "\n".join(lines)


def complaints(wanted: list[Requirement], by_id: dict[str, list[str]]) -> list[str]:
    """What is wrong between list and tests, one line each."""
    known = {requirement.id for requirement in wanted}
    unshown = [r.id for r in wanted if not r.left_out and not by_id.get(r.id)]
    found = [f"neither a test nor a reason: {', '.join(unshown)}"] if unshown else []
    found += [
        f"{tests[0]} names {name}, which is no requirement"
        for name, tests in sorted(by_id.items())
        if name not in known and not ROW_NAME.fullmatch(name)
    ]
    return found


def main(words: list[str]) -> int:
    wanted = requirements(LIST.read_text(encoding="utf-8"))
    by_id = shown(ROOT / "tests")
    text = page(wanted, by_id)
    wrong = complaints(wanted, by_id)
    if "--check" not in words:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        wrong.append("docs/conformance.md is out of date: run python tools/conformance.py")
    for line in wrong:
        print(f"conformance: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
