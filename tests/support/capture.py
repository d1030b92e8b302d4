"""Record what passes over `lo` of a namespace, and let tshark say what it thinks of it.

with Capture(namespace, path):
    run a peer
judge(path, ports=["135", "49152-49251"], password="...")     raises with what tshark complains about
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.netns import NetworkNamespace


class Capture:
    """dumpcap on `lo` for the length of a block."""

    def __init__(self, namespace: NetworkNamespace, path: Path) -> None:
        self.namespace = namespace
        self.path = path

    def __enter__(self) -> Self:
        dumpcap = shutil.which("dumpcap") or "dumpcap"
        self._process = subprocess.Popen(
            [*self.namespace.prefix, dumpcap, "-q", "-i", "lo", "-f", "tcp", "-w", str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        # dumpcap names its file once the capture runs.
        while line := self._process.stderr.readline():
            if line.startswith(b"File:"):
                return self
        self._process.wait()
        self._process.stderr.close()
        raise RuntimeError("dumpcap did not start")

    def __exit__(self, *_: object) -> None:
        self._settle()
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=20)

    def _settle(self, quiet_s: float = 0.3) -> None:
        """Wait until the file has not grown for a moment: dumpcap writes in batches."""
        size, since = -1, time.monotonic()
        while time.monotonic() - since < quiet_s:
            now = self.path.stat().st_size if self.path.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            time.sleep(0.05)


@dataclass
class Verdict:
    """What tshark found: PDUs of each type, packets with sealed stubs, those it opened, complaints."""

    pdus: Counter[str] = field(default_factory=Counter)
    sealed: int = 0
    decrypted: int = 0
    complaints: list[str] = field(default_factory=list)


def judge(
    path: Path, *, ports: Sequence[str], password: str | None = None, keytab: Path | None = None
) -> Verdict:
    """Dissect a capture with these ports as DCE/RPC; complaints are malformed packets and expert errors."""
    options = ["-r", str(path)]
    for port in ports:
        options += ["-d", f"tcp.port=={port},dcerpc"]
    options += ["-o", "dcerpc.reassemble_dcerpc:TRUE"]
    if password is not None:
        options += ["-o", f"ntlmssp.nt_password:{password}"]
    if keytab is not None:
        options += ["-o", f"kerberos.file:{keytab}", "-o", "kerberos.decrypt:TRUE"]
    verdict = Verdict()
    # A stub that tshark opened is shown either as such or, where it knows the interface, as what is in it.
    fields = ("pkt_type", "encrypted_stub_data", "decrypted_stub_data", "payload_stub_data")
    asked = [word for field in fields for word in ("-e", f"dcerpc.{field}")]
    for line in _tshark(*options, "-Y", "dcerpc", "-T", "fields", *asked).splitlines():
        types, sealed, opened, known = line.replace("<MISSING>", "").split("\t")
        verdict.pdus.update(types.split(","))
        verdict.sealed += bool(sealed)
        verdict.decrypted += bool(sealed and (opened or known))
    bad = '(_ws.malformed || _ws.short || (_ws.expert.severity == "Error" && !tcp.analysis.flags))'
    # tshark 4.0 calls a sealed reply without any stub malformed: there is nothing to open.
    empty = "(dcerpc.pkt_type == 2 && dcerpc.auth_level == 6 && dcerpc.cn_alloc_hint == 0)"
    verdict.complaints = _tshark(*options, "-Y", f"{bad} && !{empty}").splitlines()
    return verdict


def _tshark(*arguments: str) -> str:
    done = subprocess.run(["tshark", *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"tshark: {done.stderr}")
    return done.stdout
