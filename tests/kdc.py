"""A Kerberos realm of our own on loopback: MIT's KDC, unprivileged, in a temporary directory.

    with LocalKdc(tmp_path) as kdc:
        kdc.add_user("ann", "secret")
        keytab = kdc.keytab("host/localhost")          # makes the principal too
        ccache = kdc.ticket("ann", "secret")            # a credential cache file with a TGT
        subprocess.run([...], env=os.environ | kdc.env)

Programs and libraries find the realm through `env` alone (KRB5_CONFIG and relatives). Leaving the block
ends the KDC by its process id. Needs krb5kdc, kdb5_util, kadmin.local and kinit (Debian: krb5-kdc,
krb5-admin-server, krb5-user); `missing()` says which are absent.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")


def missing() -> list[str]:
    """The programs a LocalKdc needs and this machine lacks."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


class LocalKdc:
    """One realm; a context manager. `encryption` is the only type of key it has, say `arcfour-hmac`."""

    def __init__(
        self, directory: Path, realm: str = "OXID.TEST", encryption: str = "aes256-cts-hmac-sha1-96"
    ) -> None:
        self.directory = directory / "kdc"
        self.realm = realm
        self.encryption = encryption
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use this realm, and no other."""
        return {
            "KRB5_CONFIG": str(self.directory / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{self.directory / 'default.ccache'}",
            "KRB5_KTNAME": f"FILE:{self.directory / 'default.keytab'}",
            "KRB5RCACHENAME": f"dfl:{self.directory}",
        }

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._write_configuration()
        self._run(
            "kdb5_util", "-k", self.encryption, "create", "-s", "-r", self.realm, "-P", "master key password"
        )
        log = open(self.directory / "kdc.out", "wb")
        with log:
            self._process = subprocess.Popen(
                [str(_program("krb5kdc")), "-n", "-r", self.realm],
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_it_listens()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def add_user(self, name: str, password: str) -> str:
        """Make a principal with a password; returns its full name."""
        self._kadmin(f'addprinc -pw "{password}" {name}')
        return f"{name}@{self.realm}"

    def keytab(self, principal: str, path: Path | None = None) -> Path:
        """A keytab with the keys of a service, which is made if it is new."""
        target = path or self.directory / f"{principal.replace('/', '_')}.keytab"
        self._kadmin(f"addprinc -randkey {principal}")
        self._kadmin(f"ktadd -k {target} {principal}")
        return target

    def ticket(self, name: str, password: str, path: Path | None = None) -> Path:
        """A credential cache with a ticket-granting ticket for a user."""
        target = path or self.directory / f"{name.replace('/', '_')}.ccache"
        self._run("kinit", "-f", "-c", f"FILE:{target}", f"{name}@{self.realm}", input=password + "\n")
        return target

    def _kadmin(self, query: str) -> None:
        self._run("kadmin.local", "-r", self.realm, "-q", query)

    def _run(self, program: str, *arguments: str, input: str = "") -> None:
        done = subprocess.run(
            [str(_program(program)), *arguments],
            env=os.environ | self.env,
            input=input,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments} failed: {done.stderr or done.stdout}")

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)  # another program's start cannot be awaited
        said = (self.directory / "kdc.out").read_text(errors="replace")
        self.__exit__(None, None, None)
        raise RuntimeError(f"krb5kdc did not start: {said}")

    def _write_configuration(self) -> None:
        here, realm = self.directory, self.realm
        (here / "krb5.conf").write_text(
            f"""[libdefaults]
 default_realm = {realm}
 dns_lookup_realm = false
 dns_lookup_kdc = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
 forwardable = true
 qualify_shortname = ""
 allow_weak_crypto = true
 allow_rc4 = true
 permitted_enctypes = {self.encryption}
[realms]
 {realm} = {{
  kdc = 127.0.0.1:{self.port}
 }}
[domain_realm]
 localhost = {realm}
"""
        )
        (here / "kdc.conf").write_text(
            f"""[kdcdefaults]
 kdc_listen = 127.0.0.1:{self.port}
 kdc_tcp_listen = 127.0.0.1:{self.port}
[realms]
 {realm} = {{
  database_name = {here}/principal
  acl_file = {here}/kadm5.acl
  key_stash_file = {here}/stash
  max_life = 1h
  supported_enctypes = {self.encryption}:normal
 }}
[logging]
 kdc = FILE:{here}/kdc.log
"""
        )
