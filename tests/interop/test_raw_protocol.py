"""Samba's raw protocol tests (python3-samba) against a real host: what Windows answers to nearly 200 sequences of PDUs.

They are run as a program of its own, with Debian's Python. Where we differ from Windows, it is on purpose and
listed here with the reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.kdc import LocalKdc
from tests.support.absent import absent
from tests.support.host import ADMIN, PASSWORD, OxidHost
from tests.support.netns import NetworkNamespace
from tests.support.samba import write_configuration

pytestmark = [pytest.mark.peer("samba", "unshare", "krb5kdc", "kadmin.local", "kinit")]

PYTHON: Final = "/usr/bin/python3"  # Debian's, which python3-samba belongs to
MODULE: Final = "samba.tests.dcerpc.raw_protocol"
NAME: Final = "server.oxid.test"
NETLOGON: Final = Path(__file__).parent / "apps" / "netlogon.py"
PROCESSES: Final = 8  # nearly all of the time is waiting for answers that must not come

LIST_TESTS: Final = f"""
import unittest, {MODULE} as module
print(*unittest.TestLoader().getTestCaseNames(module.TestDCERPC_BIND))
"""
RUN_TESTS: Final = f"""
import sys, unittest, {MODULE} as module
suite = unittest.TestSuite(module.TestDCERPC_BIND(name) for name in sys.argv[1:])
result = unittest.TextTestRunner().run(suite)
assert result.testsRun == len(sys.argv) - 1 and not result.skipped
print()
print(*(test._testMethodName for test, _ in result.failures + result.errors))
"""

PIPES = "needs LSA on a named pipe; there is no named-pipe transport"
UNSIGNED = (
    "an NTLM handshake that cannot sign is refused at once where signing is wanted, not at the first request"
)
DIFFERENT: Final = {
    "test_assoc_group_fail3": PIPES,
    "test_assoc_group_ok2": PIPES,
    **{f"test_lsa_multi_auth_connect{n}{who}": PIPES for n in (1, 2, 3, 4) for who in "au"},
    "test_lsa_multi_auth_sign_connect1a": PIPES,
    "test_lsa_multi_auth_sign_connect1u": PIPES,
    "test_no_auth_no_ctx": "a bind without contexts: modern Windows answers reason 4, this version asks for 0",
    "test_no_auth_invalid_valid_request": "the same",
    "test_spnego_call_bind": "level call counts as packet, as [MS-RPCE] 2.2.1.1.8 says and Windows does not",
    "test_spnego_integrity_bind_none": UNSIGNED,
    "test_spnego_packet_bind_none": UNSIGNED,
    "test_spnego_packet_downgrade_connect": UNSIGNED,
    "test_ntlmssp_multi_auth_first1_lastSame111": "a hint above the size of a fragmented request is refused, as "
    "[MS-RPCE] 2.2.2.6 says one should and Windows does not",
    "test_ntlmssp_auth_pad_fail_auth3": "refused with nca_s_proto_error; Windows says nca_s_fault_remote_no_memory",
}


@pytest.fixture(scope="module")
def tests() -> list[str]:
    """The names of Samba's tests."""
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", LIST_TESTS], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        absent("python3-samba")
    return done.stdout.split()


@pytest.fixture(scope="module")
def kdc(namespace: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKdc]:
    """A realm inside the namespace, where Samba's Kerberos looks for it."""
    if os.geteuid() != 0:
        absent("root, to start a KDC inside a namespace")
    realm = LocalKdc(tmp_path_factory.mktemp("realm"))
    namespace.call(realm.__enter__)
    try:
        realm.add_user(ADMIN, PASSWORD)
        yield realm
    finally:
        realm.__exit__(None, None, None)


@pytest.fixture(scope="module")
def host(namespace: NetworkNamespace, kdc: LocalKdc) -> Iterator[OxidHost]:
    keytab = kdc.keytab(f"host/{NAME}")
    options = ("--keytab", str(keytab), "--insecure-anonymous")
    with OxidHost(
        "oxid.samples",
        NETLOGON,
        namespace=namespace,
        ping_period=0.5,
        options=options,
        more_environment=kdc.env,
    ) as started:
        yield started


@pytest.mark.req("PDU-1", "PDU-2", "BND-3", "BND-4", "BND-5", "BND-6", "BND-7", "BND-8", "BND-9")
@pytest.mark.req("REQ-1", "REQ-2", "REQ-3", "REQ-4", "REQ-5", "REQ-7")
@pytest.mark.req("SEC-1", "SEC-2", "SEC-3", "SEC-4", "SEC-5", "SEC-6", "SEC-7", "SEC-9")
def test_windows_answers(
    host: OxidHost, namespace: NetworkNamespace, kdc: LocalKdc, tests: list[str], tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        **kdc.env,
        "SMB_CONF_PATH": str(write_configuration(tmp_path, realm=kdc.realm)),
        "SERVER": "127.0.0.1",
        "TARGET_HOSTNAME": NAME,
        "DOMAIN": "WORKGROUP",
        "REALM": kdc.realm,
        "USERNAME": ADMIN,
        "PASSWORD": PASSWORD,
        "MAX_NUM_AUTH": "2048",
        "ALLOW_BIND_AUTH_PAD": "1",
    }
    running = [
        subprocess.Popen(
            [
                *namespace.prefix,
                *(PYTHON, "-W", "ignore", "-c", RUN_TESTS),
                *tests[part::PROCESSES],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        for part in range(PROCESSES)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "".join(outputs)[-8000:]
    not_ok = {name for output in outputs for name in output.splitlines()[-1].split()}
    assert not_ok == set(DIFFERENT) & set(tests), "".join(outputs)[-8000:]
    assert len(tests) - len(not_ok) >= 170
    host.wait_for_rest()
