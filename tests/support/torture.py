"""Samba's `smbtorture`: start it, wait for it, read its verdicts.

run = Torture(namespace, "rpc.echo", "127.0.0.1[ntlm,seal]", user="admin", password="...")
run.verdicts()        {"echo.addone": "success", ...}
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.netns import NetworkNamespace

_VERDICT = re.compile(r"^(success|failure|error|skip): (\S+)", re.MULTILINE)


class Torture:
    """One run of one suite, started at once; its output goes to a file until it is asked for."""

    def __init__(
        self,
        namespace: NetworkNamespace | None,
        suite: str,
        binding: str,
        *,
        user: str,
        password: str,
        configuration: Path,
        options: tuple[str, ...] = (),
        kerberos: Mapping[str, str] | None = None,
    ) -> None:
        """`kerberos`: the environment of a realm in which `user` has a ticket; without it, NTLM."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by output)
        self._text: str | None = None
        self._process = subprocess.Popen(
            [
                *(namespace.prefix if namespace else []),
                "smbtorture",
                f"--configfile={configuration}",
                f"--use-kerberos={'required' if kerberos else 'off'}",
                *options,
                f"-U{user}%{password}",
                f"ncacn_ip_tcp:{binding}",
                suite,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(kerberos or {}),
        )

    def output(self) -> str:
        """Wait for its end (a minute at most) and return what it printed."""
        if self._text is None:
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._output.seek(0)
            self._text = self._output.read().decode(errors="replace")
            self._output.close()
        return self._text

    def verdicts(self) -> dict[str, str]:
        """What it says of each test: success, failure, error or skip."""
        return {name: verdict for verdict, name in _VERDICT.findall(self.output())}

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.output()
