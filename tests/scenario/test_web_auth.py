"""Who a client is: Basic, NTLM, Negotiate, certificates; and that it holds for nobody else. RH-26, AB-20 to AB-22"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import subprocess
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.support.web import RUNNERS, Client, Response, certificate, everything, trusting, web_server

from oxid.auth import (
    Account,
    Anonymous,
    AuthLevel,
    AuthType,
    MemoryAccountStore,
    Password,
    SecurityContext,
    check_proof,
    initiator,
)
from oxid.auth.channel_binding import tls_server_end_point
from oxid.iis.exchange import Exchange
from oxid.iis.settings import Access, Auth, DirectorySettings, TlsSettings
from oxid.world import World

Run = Callable[[Coroutine[Any, Any, None]], None]
ACCOUNTS = {"admin": "secret", "bob": "pässword"}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return RUNNERS[request.param]


def who(exchange: Exchange) -> None:
    user = exchange.user
    exchange.respond(200, b"nobody" if user is None else f"{user.auth_type} {user.name}".encode())


def guarded(auth: Auth, **options: Any) -> DirectorySettings:
    return everything("who", auth=auth, **options)


def basic(user: str, password: str) -> bytes:
    return b"Authorization: Basic " + b64encode(f"{user}:{password}".encode()) + b"\r\n"


def offered(answer: Response) -> list[bytes]:
    return [value for name, value in answer.every if name == b"www-authenticate"]


class Ntlm:
    """The client's half of the handshake."""

    def __init__(
        self,
        user: str | Anonymous,
        password: str = "",
        *,
        scheme: str = "NTLM",
        bindings: bytes | None = None,
    ) -> None:
        self.scheme = scheme.encode()
        self.context: SecurityContext = initiator(
            Password(user, password) if isinstance(user, str) else user,
            AuthType.NTLM if scheme == "NTLM" else AuthType.SPNEGO,
            AuthLevel.CONNECT,
            world=World.real(),
            target="http/localhost",
            channel_bindings=bindings,
        )

    def header(self, answer: Response | None = None) -> bytes:
        token = b""
        if answer is not None:
            (value,) = [v for v in offered(answer) if v.startswith(self.scheme + b" ")]
            token = b64decode(value.split()[1])
        return b"Authorization: " + self.scheme + b" " + b64encode(self.context.step(token) or b"") + b"\r\n"


@pytest.mark.parametrize(
    ("header", "status", "said"),
    [
        (b"", 401, None),
        (basic("admin", "secret"), 200, b"Basic admin"),
        (basic("ADMIN", "secret"), 200, b"Basic admin"),
        (basic("ANYDOMAIN\\bob", "pässword"), 200, b"Basic bob"),
        (basic("admin", "wrong"), 401, None),
        (basic("nobody", ""), 401, None),
        (basic("", ""), 401, None),
        (b"Authorization: Basic !!!\r\n", 400, None),
        (b"Authorization: Basic " + b64encode(b"nocolon") + b"\r\n", 400, None),
        (b"Authorization: Bearer x\r\n", 401, None),
        (b"Authorization: NTLM TlRMTVNTUAABAAAA\r\n", 401, None),
    ],
)
def test_basic(run: Run, header: bytes, status: int, said: bytes | None) -> None:
    async def story() -> None:
        directory = guarded(Auth.BASIC, allow_plain_basic=True)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS, realm="lab") as (
            _,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                answer = await client.get(headers=header)
                assert answer.status == status
                if said is not None:
                    assert answer.body == said
                elif status == 401:
                    assert offered(answer) == [b'Basic realm="lab", charset="UTF-8"']
                    # Basic proves one request: the next without it is nobody's
                    assert (await client.get(headers=basic("admin", "secret"))).status == 200
                    assert (await client.get()).status == 401

    run(story())


def test_guessing_is_slowed_down(run: Run) -> None:
    async def story() -> None:
        directory = guarded(Auth.BASIC, allow_plain_basic=True)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for n in range(20):
                    assert (await client.get(headers=basic("admin", str(n)))).status == 401
                assert (await client.get(headers=basic("admin", "secret"))).status == 401

    run(story())


@pytest.mark.req("AB-22")
def test_a_password_is_not_taken_over_a_plain_connection(run: Run) -> None:
    async def story() -> None:
        async with web_server(guarded(Auth.BASIC), handlers={"who": who}, passwords=ACCOUNTS) as (
            _,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                for header in (b"", basic("admin", "secret")):
                    answer = await client.get(headers=header)
                    assert answer.status == 403
                    assert b"403.4" in answer.body
        tls_only = guarded(Auth.ANONYMOUS, access=Access.SCRIPT | Access.SSL)
        async with web_server(tls_only, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                assert b"403.4" in (await client.get(headers=basic("admin", "secret"))).body

    run(story())


@pytest.mark.req("AB-21", "RH-26")
@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_three_legs_on_one_connection_and_then_it_is_authenticated(
    run: Run, scheme: str, version: bytes
) -> None:
    async def story() -> None:
        directory = guarded(Auth.NTLM | Auth.NEGOTIATE)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (server, endpoint):

            async def ask(client: Client, header: bytes, method: bytes = b"RPC_IN_DATA") -> Response:
                lines = b"" if version == b"1.1" else b"Connection: Keep-Alive\r\n"
                return await client.ask(
                    method
                    + b" / HTTP/"
                    + version
                    + b"\r\nHost: h\r\nContent-Length: 0\r\n"
                    + lines
                    + header
                    + b"\r\n"
                )

            async with await Client.connect(endpoint) as client, await Client.connect(endpoint) as other:
                first = await ask(client, b"")
                assert first.status == 401
                assert offered(first) == [b"Negotiate", b"NTLM"]
                ntlm = Ntlm("admin", "secret", scheme=scheme)
                second = await ask(client, ntlm.header())
                assert second.status == 401
                last = ntlm.header(second)
                third = await ask(client, last)
                assert (third.status, third.body) == (200, f"{scheme} admin".encode())
                if scheme == "Negotiate":  # the last word of SPNEGO goes with the answer. RFC 4559 4.2
                    (word,) = offered(third)
                    ntlm.context.step(b64decode(word.split()[1]))
                ntlm.context.close()
                # it holds for the connection, and for no other, not even with the same token
                assert (await ask(client, b"", b"GET")).body == f"{scheme} admin".encode()
                assert (await ask(other, b"")).status == 401
                assert (await ask(other, last)).status == 401
            assert server.world.ledger.security_context.live == 0

    run(story())


class Elsewhere(MemoryAccountStore):
    """Accounts of another process: a logon waits, so it runs in a thread."""

    def __init__(self) -> None:
        super().__init__(ACCOUNTS)
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def logon(
        self, domain: str, user: str, challenge: bytes, response: bytes
    ) -> tuple[Account, bytes] | None:
        self.asked.set()
        assert self.go_on.wait(10)
        return check_proof(self, domain, user, challenge, response)


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_a_handshake_that_asks_elsewhere_holds_nobody_up(run: Run, scheme: str, password: str) -> None:
    async def story() -> None:
        accounts = Elsewhere()
        directory = guarded(Auth.NTLM | Auth.NEGOTIATE)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (server, endpoint):
            assert server.authenticator is not None
            server.authenticator.accounts = accounts
            async with await Client.connect(endpoint) as client, await Client.connect(endpoint) as other:
                ntlm = Ntlm("admin", password, scheme=scheme)
                last = ntlm.header(await client.get(headers=ntlm.header()))
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + last + b"\r\n")
                while not accounts.asked.is_set():
                    await asyncio.sleep(0.001)
                assert (await other.get()).status == 401
                accounts.go_on.set()
                assert (await client.response()).status == (200 if password == "secret" else 401)
                ntlm.context.close()

    run(story())


def test_a_client_that_goes_while_its_password_is_judged_leaves_nothing(run: Run) -> None:
    async def story() -> None:
        accounts = Elsewhere()
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (
            server,
            endpoint,
        ):
            assert server.authenticator is not None
            server.authenticator.accounts = accounts
            client = await Client.connect(endpoint)
            ntlm = Ntlm("admin", "secret")
            last = ntlm.header(await client.get(headers=ntlm.header()))
            ntlm.context.close()
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + last + b"\r\n")
            while not accounts.asked.is_set():
                await asyncio.sleep(0.001)
            await client.close()
            while server.connections:
                await asyncio.sleep(0.001)
            accounts.go_on.set()
            while server.world.ledger.task.live:
                await asyncio.sleep(0.001)
            assert server.world.ledger.security_context.live == 0

    run(story())


@pytest.mark.req("AB-21")
def test_authentication_may_be_for_one_request_only(run: Run) -> None:
    async def story() -> None:
        directory = guarded(Auth.NTLM, auth_persists=False)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                ntlm = Ntlm("bob", "pässword")
                answer = await client.get(headers=ntlm.header(await client.get(headers=ntlm.header())))
                assert answer.body == b"NTLM bob"
                ntlm.context.close()
                assert (await client.get()).status == 401

    run(story())


@pytest.mark.req("AB-21")
def test_the_first_leg_is_no_authentication(run: Run) -> None:
    async def story() -> None:
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (
            server,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                ntlm = Ntlm("admin", "secret")
                assert (await client.get(headers=ntlm.header())).status == 401
                ntlm.context.close()
                answer = await client.ask(
                    b"RPC_OUT_DATA / HTTP/1.1\r\nHost: h\r\nContent-Length: 76\r\n\r\n" + bytes(76)
                )
                assert answer.status == 401
                assert server.world.ledger.security_context.live == 1
            while server.connections:
                await asyncio.sleep(0.001)
            assert server.world.ledger.security_context.live == 0

    run(story())


def test_a_handshake_that_proves_nothing_is_no_authentication(run: Run) -> None:
    async def story() -> None:
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                ntlm = Ntlm(Anonymous())
                answer = await client.get(headers=ntlm.header(await client.get(headers=ntlm.header())))
                assert answer.status == 401
                ntlm.context.close()
                assert (await client.get()).status == 401

    run(story())


@pytest.mark.req("AB-21")
def test_a_second_user_on_a_connection_is_asked_anew(run: Run) -> None:
    async def story() -> None:
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                for user, password in (("admin", "secret"), ("bob", "pässword")):
                    ntlm = Ntlm(user, password)
                    answer = await client.get(headers=ntlm.header(await client.get(headers=ntlm.header())))
                    assert answer.body == f"NTLM {user}".encode()
                    ntlm.context.close()
                ntlm = Ntlm("admin", "wrong")
                answer = await client.get(headers=ntlm.header(await client.get(headers=ntlm.header())))
                assert answer.status == 401
                ntlm.context.close()
                assert (await client.get()).status == 401  # bob has gone with it

    run(story())


@pytest.mark.parametrize(
    "token", [b"", b"AAAA", b"TlRMTVNTUAAJAAAA", b"YII=", b64encode(b"NTLMSSP\0\x03\0\0\0" + bytes(60))]
)
@pytest.mark.parametrize("scheme", [b"NTLM", b"Negotiate"])
def test_malformed_tokens_are_refused(run: Run, scheme: bytes, token: bytes) -> None:
    async def story() -> None:
        directory = guarded(Auth.NTLM | Auth.NEGOTIATE)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                answer = await client.get(headers=b"Authorization: " + scheme + b" " + token + b"\r\n")
                assert answer.status == 401
                assert offered(answer) == [b"Negotiate", b"NTLM"]

    run(story())


@pytest.mark.req("RH-26")
def test_a_gigabyte_that_was_declared_is_not_waited_for_by_a_401(run: Run) -> None:
    gib = b"RPC_IN_DATA / HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\n"

    async def story() -> None:
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                answer = await client.ask(gib + b"\r\n")
                assert answer.status == 401
                assert b"connection" not in answer.headers
                ntlm = Ntlm("admin", "secret")
                answer = await client.ask(gib + ntlm.header() + b"\r\n")
                answer = await client.ask(gib + ntlm.header(answer) + b"\r\n")
                assert answer.body == b"NTLM admin"
                ntlm.context.close()
            async with await Client.connect(endpoint) as client:
                answer = await client.ask(gib + b"\r\n" + b"\x05\0\x14\x03")
                assert answer.status == 401
                assert answer.headers[b"connection"] == b"close"
                assert await client.rest() == b""
            async with await Client.connect(endpoint) as client:  # others may not leave their body out
                answer = await client.ask(gib.replace(b"RPC_IN_DATA", b"POST") + b"\r\n")
                assert answer.headers[b"connection"] == b"close"

    run(story())


@pytest.mark.req("AB-20")
def test_a_flood_without_credentials_gets_401_and_keeps_its_connection(run: Run) -> None:
    async def story() -> None:
        async with web_server(guarded(Auth.NTLM), handlers={"who": who}, passwords=ACCOUNTS) as (
            server,
            endpoint,
        ):
            async with await Client.connect(endpoint) as client:
                echo = b"RPC_OUT_DATA / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\xf8\xe8\x18\x08"
                client.send(echo * 500)
                for _ in range(500):
                    assert (await client.response()).status == 401
            assert server.world.ledger.security_context.total == 0

    run(story())


def test_anonymous_goes_in_where_it_may_and_credentials_are_still_looked_at(run: Run) -> None:
    async def story() -> None:
        directory = guarded(Auth.ANONYMOUS | Auth.NTLM | Auth.BASIC, allow_plain_basic=True)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            async with await Client.connect(endpoint) as client:
                assert (await client.get()).body == b"nobody"
                assert (await client.get(headers=basic("admin", "secret"))).body == b"Basic admin"
                assert (await client.get(headers=basic("admin", "wrong"))).status == 401
                assert (await client.get(headers=b"Authorization: Bearer x\r\n")).body == b"nobody"

    run(story())


def test_addresses_are_let_in_or_not(run: Run) -> None:
    async def story() -> None:
        for options, status in (
            ({"deny": (ip_network("127.0.0.0/8"),)}, 403),
            ({"allow": (ip_network("10.0.0.0/8"),)}, 403),
            ({"allow": (ip_network("127.0.0.1/32"),)}, 200),
        ):
            async with web_server(everything("hello", **options)) as (_, endpoint):
                async with await Client.connect(endpoint) as client:
                    answer = await client.get()
                    assert answer.status == status
                    assert status == 200 or b"403.6" in answer.body

    run(story())


def test_a_client_certificate_is_a_log_on_by_the_table(run: Run, tmp_path: Path) -> None:
    server_cert, client_cert = certificate(tmp_path), certificate(tmp_path, "alice")
    der = ssl.PEM_cert_to_DER_cert(client_cert.cert.read_text())
    table = {hashlib.sha256(der).hexdigest(): "admin"}

    async def story() -> None:
        directory = guarded(Auth.NONE, certificates=table)
        tls = TlsSettings(server_cert.cert, server_cert.key, "optional", client_cert.cert)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS, tls=tls) as (_, endpoint):
            context = trusting(server_cert)
            async with await Client.connect(endpoint, context) as client:
                assert (await client.get()).status == 401
            context.load_cert_chain(client_cert.cert, client_cert.key)
            async with await Client.connect(endpoint, context) as client:
                assert (await client.get()).body == b"Certificate admin"
        required = guarded(Auth.ANONYMOUS, access=Access.SCRIPT | Access.REQUIRE_CERTIFICATE)
        async with web_server(required, handlers={"who": who}, tls=tls) as (_, endpoint):
            async with await Client.connect(endpoint, trusting(server_cert)) as client:
                assert b"403.7" in (await client.get()).body

    run(story())


def test_ntlm_names_the_channel_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    bindings = tls_server_end_point(ssl.PEM_cert_to_DER_cert(tls.cert.read_text()))

    async def story() -> None:
        directory = guarded(Auth.NTLM, require_channel_binding=True)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS, tls=tls) as (_, endpoint):
            for told, status in ((bindings, 200), (bytes(range(16)), 401), (None, 401)):
                async with await Client.connect(endpoint, trusting(tls)) as client:
                    ntlm = Ntlm("admin", "secret", bindings=told)
                    answer = await client.get(headers=ntlm.header(await client.get(headers=ntlm.header())))
                    assert answer.status == status
                    ntlm.context.close()

    run(story())


@pytest.mark.peer("curl")
@pytest.mark.parametrize(
    "options",
    [
        ["--basic"],
        ["--ntlm"],
        ["--ntlm", "--http1.0", "-H", "Connection: Keep-Alive"],
        ["--ntlm", "-d", "x" * 5000],
    ],
)
def test_curl_logs_on(run: Run, options: list[str]) -> None:
    async def story() -> None:
        directory = guarded(Auth.BASIC | Auth.NTLM, allow_plain_basic=True)
        async with web_server(directory, handlers={"who": who}, passwords=ACCOUNTS) as (_, endpoint):
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", "-m", "20", *options, "-u", "admin:secret", f"http://{endpoint}/",
                stdout=subprocess.PIPE,
            )  # fmt: skip
            out, _ = await process.communicate()
            assert out == (b"Basic admin" if "--basic" in options else b"NTLM admin")

    run(story())
