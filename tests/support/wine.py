"""Wine without `wineboot`: programs for Windows, compiled here, in a prefix that is made of links in no time.

client = compile_client(directory, idl=Path("echo.idl"), source=Path("echo_client.c"))
with Wine(directory) as wine:
    command, environment = wine.command(client, "arguments")

A prefix of wineboot is 700 MB and takes 6 s. What clients of RPC need of it are the libraries, and one key of the
registry, by which NTLM is found. NTLM itself is `ntlm_auth` of Samba.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

WINE: Final = "/usr/lib/wine/wine64"
SERVER: Final = "/usr/lib/wine/wineserver64"
WIDL: Final = "widl-stable"
COMPILER: Final = "x86_64-w64-mingw32-gcc"
PEERS: Final = (WINE, SERVER, WIDL, COMPILER, "ntlm_auth")

_REGISTRY: Final = r"""WINE REGISTRY Version 2
;; All keys relative to REGISTRY\\Machine

#arch=win64

[System\\CurrentControlSet\\Control\\Lsa\\MSV1_0] 1

"""


def compile_client(directory: Path, *, idl: Path, source: Path) -> Path:
    """A program of C that includes `<idl>.h`, with the stubs that widl makes of an interface."""
    header, stubs = directory / f"{idl.stem}.h", directory / f"{idl.stem}_c.c"
    program = directory / f"{source.stem}.exe"
    for command in (
        [WIDL, "--win64", "-Oif", "-h", "-o", header, idl],
        [WIDL, "--win64", "-Oif", "-c", "-o", stubs, idl],
        [COMPILER, "-O1", "-w", "-I", directory, "-o", program, source, stubs, "-lrpcrt4"],
    ):
        done = subprocess.run(
            list(map(str, command)), cwd=directory, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    return program


class Wine:
    """A prefix of its own, and its server, which is ended with the block."""

    def __init__(self, directory: Path) -> None:
        self.prefix = directory / "prefix"
        libraries = next(Path("/usr/lib").glob("*/wine/x86_64-windows"))
        system = self.prefix / "drive_c" / "windows" / "system32"
        system.mkdir(parents=True)
        for each in libraries.iterdir():
            (system / each.name).symlink_to(each)
        devices = self.prefix / "dosdevices"
        devices.mkdir()
        (devices / "c:").symlink_to("../drive_c")
        (devices / "z:").symlink_to("/")
        (self.prefix / ".update-timestamp").write_text("disable\n")
        (self.prefix / "system.reg").write_text(_REGISTRY)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "WINEPREFIX": str(self.prefix),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=;rundll32.exe=",
            "DISPLAY": "",
        }

    def command(self, program: Path, *arguments: str) -> list[str]:
        return [WINE, str(program), *arguments]

    def close(self) -> None:
        """End the server of this prefix and what it runs."""
        subprocess.run(
            [SERVER, "-k"], env=os.environ | dict(self.environment), capture_output=True, timeout=20
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
