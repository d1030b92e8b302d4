"""The names users import: exactly these, each documented, and nothing by accident."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import oxid

NAMES = """
AStr AccessDenied Address Anonymous AnyInterface ArrayOf AuthInfo AuthLevel AuthType
AuthenticationError BadStubData Blanket Bool Boolean CallbackFailed CallbackOptions Capabilities
ClassNotRegistered ClientOptions CoClass ConfigurationError Conformant ConnectionPoint ContextHandle
Credentials ErrorInfo EventSource F32 F64 Full Guid HRESULT HResult Host HostOptions Hyper I16 I32
I64 I8 IClassFactory IConnectionPoint IConnectionPointContainer IUnknown Impersonation
InterfacePointer InvalidArgument Keytab Ledger Limits LocalProtocolError Machine MemoryAccountStore
NoSuchInterface NotImplementedByPeer NotSupported NtHash NtStatus ObjectGone Octets Origin OxidError
Password PlainInterface ProtocolError ProxyRoute Ref RemoteProtocolError RpcStatus ServerUnavailable
StatusError Str Subscription Ticket TransportError U16 U32 U64 U8 Union Unique Win32 World
__version__ acting_as blocking coclass coclass_of connect count_of current_call hresult impersonate
implementation_of initialize_security interface operation run_local_server serve_local size_of
spec_of struct switch_of
""".split()  # noqa: SIM905 (a list of a hundred lines says no more)


def test_the_list_is_this_one() -> None:
    assert sorted(oxid.__all__) == sorted(NAMES)
    assert all(hasattr(oxid, name) for name in NAMES)


def test_type_checkers_see_the_same_names(tmp_path: Path) -> None:
    """mypy, whose --strict wants re-exports to be explicit, finds each name."""
    user = tmp_path / "user.py"
    user.write_text(f"from oxid import {', '.join(NAMES)}\n")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            str(tmp_path),
            "--follow-imports=silent",
            str(user),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(oxid.__file__).parents[2],
    )
    assert checked.returncode == 0, checked.stdout


def test_public_classes_and_functions_are_documented() -> None:
    undocumented = [
        name
        for name in NAMES
        if (inspect.isclass(value := getattr(oxid, name)) or inspect.isfunction(value))
        and not inspect.getdoc(value)
    ]
    assert undocumented == []


def test_the_package_file_only_lists() -> None:
    """Nothing is computed in the package itself, beyond finding names late."""
    body = ast.parse(Path(oxid.__file__).read_text(encoding="utf-8")).body
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr, ast.If, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in body)
