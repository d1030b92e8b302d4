"""A host with everything of RPC over HTTP on the ports where peers look that cannot be told: 80, 443 and 593.

with NetworkNamespace() as namespace, Gateway(namespace, tmp_path) as gateway:
    gateway.echo_port          where Echo listens for proxies
    gateway.ca                 what clients trust
    gateway.client_certificate of a client that the server trusts
    gateway.complaints()       what its log has that it should not have: [] after well-behaved clients
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.netns import NetworkNamespace
from tests.support.web import certificate

ECHO: Final = "60a15ec5-4de8-11d7-a637-005056a20182"
ACCOUNT: Final = f"{ADMIN}%{PASSWORD}"
TARGET: Final = f"{ACCOUNT}@localhost"
PLAIN: Final = "[rpc_proxy]\nallow_plain = true\n"
"""What a host is told that takes tunnels without TLS."""

_COMPLAINT: Final = re.compile(r" (?:ERROR|CRITICAL) |Traceback|never retrieved|Exception")


class Gateway(OxidHost):
    """The host, listening on loopback of a namespace of its own."""

    def __init__(
        self,
        namespace: NetworkNamespace,
        directory: Path,
        *,
        config: str = PLAIN,
        options: Sequence[str] = (),
    ) -> None:
        file = directory / "oxid.toml"
        file.write_text(config)
        tls = certificate(directory)
        client = certificate(directory, "client")
        assert client.key is not None
        self.ca = tls.cert
        self.client_certificate = directory / "client-with-key.pem"
        self.client_certificate.write_bytes(client.cert.read_bytes() + client.key.read_bytes())
        super().__init__(
            namespace=namespace,
            ping_period=4.0,  # peers start all at once, and must not seem dead
            options=[
                *("--config", str(file)),
                *("--ncacn-http", "127.0.0.1:593", "--http", "127.0.0.1:80", "--https", "127.0.0.1:443"),
                *("--cert", str(tls.cert), "--key", str(tls.key)),
                *("--exporter-ports", "49152-49251"),
                *options,
            ],
            more_environment={
                "SSL_CERT_FILE": str(client.cert)
            },  # whom client certificates are checked against
        )

    @cached_property
    def exporter(self) -> tuple[int, int]:
        """Where Echo and the objects listen: for TCP, and for proxies. Asked of the endpoint mapper."""
        done = self.run("epm", "list", TARGET)
        ports = re.findall(rf"{ECHO}/1\.0 +ncacn_\w+:127\.0\.0\.1\[(\d+)\]", done.stdout)
        assert len(ports) == 2, done.stdout + done.stderr
        return int(ports[0]), int(ports[1])

    @property
    def echo_port(self) -> int:
        """Where Echo listens for proxies."""
        return self.exporter[1]

    def complaints(self) -> list[str]:
        """Lines of its log that well-behaved clients do not cause."""
        return [line for line in self.log().splitlines() if _COMPLAINT.search(line)]

    def at_rest(self) -> None:
        """Wait until nothing is live any more. Fails where the log complains."""
        self.wait_for_rest()
        assert self.complaints() == []


class Started:
    """A peer that was started at once and is asked later: peers mostly wait, so a module starts all of its own."""

    def __init__(
        self, *command: str | Path, namespace: NetworkNamespace, environment: Mapping[str, str] | None = None
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by result)
        self._done: subprocess.CompletedProcess[str] | None = None
        self._process = subprocess.Popen(
            [*namespace.prefix, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
        )

    def result(self, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and return what it printed. One that does not end is killed."""
        if self._done is None:
            try:
                code = self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self._output.seek(0)
            text = self._output.read().decode(errors="replace")
            self._output.close()
            self._done = subprocess.CompletedProcess(self._process.args, code, text, "")
        return self._done

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self.result()


@contextmanager
def all_started(
    runs: Mapping[str, Sequence[str | Path]], namespace: NetworkNamespace, **environment: str
) -> Iterator[dict[str, Started]]:
    """Start every command under its name, and leave none behind."""
    started: dict[str, Started] = {}
    try:
        for name, command in runs.items():
            started[name] = Started(*command, namespace=namespace, environment=environment)
        yield started
    finally:
        for each in started.values():
            each.close()
