"""Every server variable, plain, with a password, and over TLS with a client's certificate. isapi.md §8"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.support.isapi import EXTENSIONS, Client, serving
from tests.support.web import certificate, trusting

from oxid.iis.settings import Auth, TlsSettings


async def ask(client: Client, names: list[str], **how: Any) -> dict[str, str]:
    response = await client.ask(",".join(names), **how)
    assert response.status == 200
    found = {}
    for line in response.body.decode().splitlines():
        name, mark, value = line.partition("=") if "=" in line else line.partition("!")
        found[name] = value if mark == "=" else int(value)
    return found


@pytest.mark.req("IS-45")
@pytest.mark.parametrize("isolated", [0, 1], ids=["in process", "own process"])
def test_variables_of_a_request(tmp_path: Path, isolated: int) -> None:
    async def tell() -> None:
        async with serving(EXTENSIONS / "ask.py", isolated=isolated, physical=tmp_path) as place:
            async with asyncio.timeout(30), place.client() as client:
                port = client.writer.get_extra_info("sockname")[1]
                wanted = {
                    "APP_POOL_ID": b"DefaultAppPool",
                    "APPL_MD_PATH": b"/LM/W3SVC/1/ROOT",
                    "APPL_PHYSICAL_PATH": f"{tmp_path}/".encode(),
                    "AUTH_PASSWORD": b"",
                    "AUTH_TYPE": b"",
                    "AUTH_USER": b"",
                    "CERT_FLAGS": b"0",
                    "CERT_SUBJECT": b"",
                    "CONTENT_LENGTH": b"3",
                    "CONTENT_TYPE": b"text/x",
                    "GATEWAY_INTERFACE": b"CGI/1.1",
                    "HTTPS": b"off",
                    "HTTPS_KEYSIZE": b"",
                    "HTTP_HOST": b"h",
                    "HTTP_METHOD": b"POST",
                    "HTTP_VERSION": b"HTTP/1.1",
                    "HTTP_X_TWO_WORDS": b"2",
                    "HTTP_CONNECTION": b"keep-alive",
                    "INSTANCE_ID": b"1",
                    "INSTANCE_META_PATH": b"/LM/W3SVC/1",
                    "INSTANCE_NAME": b"1",
                    "LOCAL_ADDR": b"127.0.0.1",
                    "LOGON_USER": b"",
                    "PATH_INFO": b"/a/b c",
                    "PATH_TRANSLATED": f"{tmp_path}/a/b c".encode(),
                    "REMOTE_ADDR": b"127.0.0.1",
                    "REMOTE_HOST": b"127.0.0.1",
                    "REMOTE_PORT": str(port).encode(),
                    "REQUEST_METHOD": b"POST",
                    "SCRIPT_NAME": b"/a/b c",
                    "SERVER_NAME": b"h",
                    "SERVER_PORT": str(place.port).encode(),
                    "SERVER_PORT_SECURE": b"0",
                    "SERVER_PROTOCOL": b"HTTP/1.1",
                    "SERVER_SOFTWARE": b"Microsoft-IIS/6.0",
                    "SSI_EXEC_DISABLED": b"0",
                    "URL": b"/a/b c",
                    "UNICODE_URL": "/a/b c",
                }
                headers = "Content-Type: text/x\r\nX-Two-Words: 2\r\nX_Two_Words: spoof\r\nConnection: keep-alive\r\n"
                found = await ask(
                    client, [*wanted, "NOTHING", "HTTP_ABSENT", "HTTP_"], method="POST", body=b"abc",
                    path="/a/b%20c", headers=headers,
                )  # fmt: skip
                assert found == {
                    **{name: repr(value) for name, value in wanted.items()},
                    "NOTHING": 1413, "HTTP_ABSENT": 1413, "HTTP_": 1413,
                }  # fmt: skip
                found = await ask(
                    client,
                    ["ALL_HTTP", "ALL_RAW", "HTTP_URL", "QUERY_STRING"],
                    headers="X-A: 1\r\nX_A: 2\r\n",
                )
                assert found["ALL_HTTP"] == repr(b"HTTP_HOST:h\nHTTP_X_A:1\n")
                assert found["HTTP_URL"].startswith("b'/x?ALL_HTTP,ALL_RAW")
                assert found["QUERY_STRING"].startswith("b'ALL_HTTP,ALL_RAW")
            await place.rest()

    asyncio.run(tell())


@pytest.mark.parametrize("isolated", [0, 1], ids=["in process", "own process"])
def test_the_password_is_told_of_basic_only(isolated: int) -> None:
    async def tell() -> None:
        async with serving(
            EXTENSIONS / "ask.py",
            isolated=isolated,
            passwords={"ann": "secret"},
            auth=Auth.BASIC,
            allow_plain_basic=True,
        ) as place:
            async with asyncio.timeout(30), place.client() as client:
                token = b64encode(b"ann:secret").decode()
                names = ["AUTH_TYPE", "AUTH_USER", "AUTH_PASSWORD", "REMOTE_USER", "LOGON_USER"]
                found = await ask(client, names, headers=f"Authorization: Basic {token}\r\n")
                assert found == {
                    "AUTH_TYPE": repr(b"Basic"),
                    "AUTH_USER": repr(b"ann"),
                    "AUTH_PASSWORD": repr(b"secret"),
                    "REMOTE_USER": repr(b"ann"),
                    "LOGON_USER": repr(b"ann"),
                }
            await place.rest()

    asyncio.run(tell())


@pytest.mark.parametrize("isolated", [0, 1], ids=["in process", "own process"])
def test_a_clients_certificate_is_told_to_the_extension(tmp_path: Path, isolated: int) -> None:
    server_cert, client_cert = certificate(tmp_path), certificate(tmp_path, "alice")
    der = ssl.PEM_cert_to_DER_cert(client_cert.cert.read_text())
    tls = TlsSettings(server_cert.cert, server_cert.key, "optional", client_cert.cert)

    async def tell() -> None:
        async with serving(EXTENSIONS / "ask.py", isolated=isolated, tls=tls) as place:
            context = trusting(server_cert)
            async with asyncio.timeout(30), place.client(context) as client:
                found = await ask(client, ["HTTPS", "SERVER_PORT_SECURE", "CERT_FLAGS", "CERT_SUBJECT"])
                assert found == {
                    "HTTPS": repr(b"on"), "SERVER_PORT_SECURE": repr(b"1"), "CERT_FLAGS": repr(b"0"),
                    "CERT_SUBJECT": repr(b""),
                }  # fmt: skip
            assert client_cert.key is not None
            context.load_cert_chain(client_cert.cert, client_cert.key)
            async with asyncio.timeout(30), place.client(context) as client:
                names = ["CERT_FLAGS", "CERT_SUBJECT", "CERT_ISSUER", "CERT_COOKIE", "CERT_SERIALNUMBER"]
                found = await ask(client, names)
                assert found["CERT_FLAGS"] == repr(b"1")
                assert found["CERT_SUBJECT"] == found["CERT_ISSUER"] == repr(b"CN=alice")
                assert found["CERT_COOKIE"] == repr(hashlib.md5(der).hexdigest().encode())
                assert len(found["CERT_SERIALNUMBER"]) > 10
            await place.rest()

    asyncio.run(tell())
