"""Who may import whom: a room leans on lower floors only, and rooms of bytes do no I/O. ARCHITECTURE.md"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "oxid"

# From the ground up. Neighbours on one floor do not know each other, except on the ground floor, which is a
# ladder of its own (each line one step).
FLOORS = [
    ("_version", "values.status"),
    ("errors",),
    ("values",),
    ("events",),
    ("ledger",),
    ("world",),
    ("state_file",),
    ("ndr", "auth", "http"),
    ("rpc",),
    ("tunnel", "interfaces"),
    ("runtime",),
    ("com",),
    ("automation", "rpcss", "metabase"),
    ("iis",),
    ("admin", "config"),
    ("host",),
    ("sync",),
    ("console", "samples"),
    ("bench",),
    ("soak",),
    ("cli",),
    ("__main__",),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EVERYBODY = (
    "__init__",
    "testing",
)  # the public names, and the test kit: above all floors, imported by no room

SANS_IO = (
    "values",
    "values.status",
    "errors",
    "events",
    "ledger",
    "ndr",
    "auth",
    "http",
    "rpc",
    "tunnel",
    "interfaces",
)
PURE = (  # the modules of upper rooms that hold rules
    "com/activation_properties.py",
    "com/class_table.py",
    "com/coclass.py",
    "com/flight_record.py",
    "com/permissions.py",
    "com/references.py",
    "com/resolver_link.py",
    "com/security.py",
    "com/objref.py",
    "com/orpc.py",
    "com/ping_client.py",
    "com/reference_table.py",
    "rpcss/endpoint_mapper.py",
    "rpcss/class_registry.py",
    "rpcss/oid_table.py",
    "rpcss/open_lookups.py",
    "rpcss/oxid_resolver.py",
    "rpcss/ping_sets.py",
    "rpcss/running_classes.py",
    "rpcss/wheel.py",
)
OUTSIDE = {
    "asyncio",
    "concurrent",
    "ctypes",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uvloop",
}
MAY_TOUCH = {  # each with its reason
    "auth/kerberos.py": {"ctypes", "os", "threading"},  # drives the system's GSSAPI library
    "auth/_gssapi.py": {"ctypes", "os", "threading"},
    "auth/account_file.py": {"os"},  # the host's accounts live in a file
}
MODULES = sorted(SRC.rglob("*.py"))


def room_of(parts: tuple[str, ...]) -> str:
    """The first name, except that status codes lie below the errors which carry them."""
    return "values.status" if parts[:2] == ("values", "status") else parts[0]


def room(path: Path) -> str:
    return room_of(path.relative_to(SRC).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Every name imported anywhere in a module, in full: oxid.values.status, asyncio, …"""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative import; write the whole name")


def wrong_imports(path: Path, names: Iterator[str]) -> list[str]:
    """What a module imports against the plan, one sentence each."""
    here = room(path)
    inside = path.relative_to(SRC).as_posix()
    found = []
    for name in names:
        first, *rest = name.split(".")
        if first == "oxid" and here not in EVERYBODY:
            there = room_of(tuple(rest)) if rest else "__init__"
            if there not in FLOOR:
                found.append(f"{inside} imports {name}: use the module that defines it")
            elif there != here and FLOOR[there] >= FLOOR[here]:
                found.append(f"{inside} imports {name}, which is not on a lower floor")
        elif (here in SANS_IO or inside in PURE) and first in OUTSIDE - MAY_TOUCH.get(inside, set()):
            found.append(f"{inside} does no I/O but imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_rooms_lean_on_lower_floors_only(path: Path) -> None:
    assert room(path) in FLOOR or room(path) in EVERYBODY, "this room has no floor yet: give it one in FLOORS"
    assert wrong_imports(path, imports(path)) == []


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("rpc/connection.py", "time.monotonic", "does no I/O"),
        ("rpcss/ping_sets.py", "asyncio", "does no I/O"),
        ("ndr/types.py", "oxid.rpc.pdu.Pdu", "not on a lower floor"),
        ("ndr/types.py", "oxid.auth.credentials", "not on a lower floor"),
        ("runtime/server.py", "oxid.Machine", "use the module that defines it"),
    ],
)
def test_the_rule_sees_a_planted_mistake(module: str, name: str, said: str) -> None:
    assert said in wrong_imports(SRC / module, iter([name]))[0]


def test_files_stay_readable() -> None:
    long = {
        path.name: n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}, "a file of more than 600 lines has two subjects"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no module docstring"
