"""Server variables: what GetServerVariable answers. isapi.md §8, IS-45

    server_variable(block, exchange, "REMOTE_ADDR")     b"127.0.0.1"
    server_variable(block, exchange, "UNICODE_URL")     "/x.py": text for the names with that prefix

Unknown names, and headers that did not come, are IsapiError(1413). Values are without the final NUL of the C form.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from oxid.iis.isapi.constants import ERROR_INVALID_INDEX
from oxid.iis.isapi.failures import IsapiError

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange


class Asker(Protocol):
    """Who asks: a control block, or a filter."""

    @property
    def application(self) -> Any:
        """What knows `pool_id` and `software`."""
        ...


Reader = Callable[[Asker, "Exchange"], str | bytes]


def server_variable(block: Asker, exchange: Exchange, name: str) -> bytes | str:
    """The value of a server variable. Raises IsapiError(1413)."""
    if name.startswith("UNICODE_"):
        return value_of(block, exchange, name[8:]).decode("utf-8", "replace")
    return value_of(block, exchange, name)


def value_of(block: Asker, exchange: Exchange, name: str) -> bytes:
    """The value of a variable as bytes, without the prefix UNICODE_."""
    reader = _READERS.get(name) or _READERS.get(name.upper())
    if reader is not None:
        value = reader(block, exchange)
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    upper = name.upper()
    if upper.startswith("HTTP_"):
        wanted = (
            upper[5:].replace("_", "-").lower()
        )  # a header spelled with '_' is never found: it could spoof
    elif upper.startswith("HEADER_"):
        wanted = name[7:].lower()
    else:
        raise IsapiError(ERROR_INVALID_INDEX, "GetServerVariable")
    if "_" not in wanted:
        found = exchange.header(wanted.encode("latin-1", "replace"))
        if found is not None:
            return found
    raise IsapiError(ERROR_INVALID_INDEX, "GetServerVariable")


def path_translated(exchange: Exchange) -> str:
    """The physical path of PATH_INFO; of the whole request where there is none."""
    physical = exchange.physical
    if physical is None:
        return ""
    info = exchange.path_info
    root = exchange.directory.physical
    if info and root is not None:
        inside = exchange.directory.path.rstrip("/")
        if inside and (info.lower() + "/").startswith(inside.lower() + "/"):
            info = info[
                len(inside) :
            ]  # a map of everything: the path is whole, and the directory has its own place
        parts = [part for part in info.split("/") if part not in ("", ".", "..")]
        return os.path.join(str(root), *parts)
    return str(physical)


def meta_path(exchange: Exchange) -> str:
    """Where the application's directory is in the metabase."""
    path = exchange.directory.path.rstrip("/")
    return f"/LM/W3SVC/{exchange.site.id}/ROOT{path}"


def _all_http(_block: Asker, x: Exchange) -> bytes:
    """Every header as HTTP_NAME:value, names in capitals."""
    return b"".join(
        b"HTTP_%s:%s\n" % (name.upper().replace(b"-", b"_"), value)
        for name, value in x.headers
        if b"_" not in name
    )


def _all_raw(_block: Asker, x: Exchange) -> bytes:
    return b"".join(b"%s: %s\r\n" % (_title(name), value) for name, value in x.headers)


def _title(name: bytes) -> bytes:
    return b"-".join(part.capitalize() for part in name.split(b"-"))


def _absent_without_tls(read: Callable[[Any], object]) -> Reader:
    def reader(_block: Asker, x: Exchange) -> str:
        tls = x.connection.tls
        value = None if tls is None else read(tls)
        return "" if value is None else str(value)

    return reader


def _certificate(part: str) -> Reader:
    """A field of the client's certificate; empty where there is none."""

    def reader(_block: Asker, x: Exchange) -> str:
        from oxid.iis.isapi import certificates

        return certificates.field(certificates.peer_certificate(x), part)

    return reader


def _own_certificate(part: str) -> Reader:
    def reader(_block: Asker, x: Exchange) -> str:
        from oxid.iis.isapi import certificates

        return certificates.field(certificates.own_certificate(x), part)

    return reader


def _user(attribute: str) -> Reader:
    def reader(_block: Asker, x: Exchange) -> str:
        user = x.user
        value = None if user is None else getattr(user, attribute, None)
        return "" if value is None else str(value)

    return reader


def _basic_password(_block: Asker, x: Exchange) -> str:
    """Basic only: no other way of logging on tells it."""
    user = x.user
    if user is None or user.auth_type != "Basic":
        return ""
    return str(getattr(user, "password", "") or "")


def _server_name(_block: Asker, x: Exchange) -> str | bytes:
    host = x.header(b"host")
    if not host:
        return x.connection.local[0]
    if host.startswith(b"["):
        return host[1:].partition(b"]")[0]
    return host.partition(b":")[0]


def _protocol(_block: Asker, x: Exchange) -> str:
    return f"HTTP/{x.version[0]}.{x.version[1]}"


def _content_length(_block: Asker, x: Exchange) -> bytes:
    return x.header(b"content-length") or b"0"


def _physical_root(_block: Asker, x: Exchange) -> str:
    root = x.directory.physical
    return "" if root is None else f"{root}/"


def _url(_block: Asker, x: Exchange) -> str:
    return x.path


def _peer(_block: Asker, x: Exchange) -> str:
    return str(x.connection.peer[0])


_READERS: Final[dict[str, Reader]] = {
    "ALL_HTTP": _all_http,
    "ALL_RAW": _all_raw,
    "APP_POOL_ID": lambda b, x: str(b.application.pool_id),
    "APPL_MD_PATH": lambda b, x: meta_path(x),
    "APPL_PHYSICAL_PATH": _physical_root,
    "AUTH_PASSWORD": _basic_password,
    "AUTH_TYPE": _user("auth_type"),
    "AUTH_USER": _user("name"),
    "CACHE_URL": lambda b, x: (
        b"%s://%s%s" % (b"http" if x.connection.tls is None else b"https", x.header(b"host") or b"", x.target)
    ),
    "CERT_COOKIE": _certificate("cookie"),
    "CERT_FLAGS": _certificate("flags"),
    "CERT_ISSUER": _certificate("issuer"),
    "CERT_KEYSIZE": _absent_without_tls(lambda tls: tls.bits),
    "CERT_SECRETKEYSIZE": _own_certificate("bits"),
    "CERT_SERIALNUMBER": _certificate("serial"),
    "CERT_SERVER_ISSUER": _own_certificate("issuer"),
    "CERT_SERVER_SUBJECT": _own_certificate("subject"),
    "CERT_SUBJECT": _certificate("subject"),
    "CONTENT_LENGTH": _content_length,
    "CONTENT_TYPE": lambda b, x: x.header(b"content-type") or b"",
    "GATEWAY_INTERFACE": lambda b, x: "CGI/1.1",
    "HTTPS": lambda b, x: "off" if x.connection.tls is None else "on",
    "HTTPS_KEYSIZE": _absent_without_tls(lambda tls: tls.bits),
    "HTTPS_SECRETKEYSIZE": _own_certificate("bits"),
    "HTTPS_SERVER_ISSUER": _own_certificate("issuer"),
    "HTTPS_SERVER_SUBJECT": _own_certificate("subject"),
    "HTTP_METHOD": lambda b, x: x.method,
    "HTTP_URL": lambda b, x: x.target,
    "HTTP_VERSION": _protocol,
    "INSTANCE_ID": lambda b, x: str(x.site.id),
    "INSTANCE_META_PATH": lambda b, x: f"/LM/W3SVC/{x.site.id}",
    "INSTANCE_NAME": lambda b, x: x.site.name or str(x.site.id),
    "LOCAL_ADDR": lambda b, x: str(x.connection.local[0]),
    "LOGON_USER": _user("name"),
    "PATH_INFO": lambda b, x: x.path_info,
    "PATH_TRANSLATED": lambda b, x: path_translated(x),
    "QUERY_STRING": lambda b, x: x.query,
    "REMOTE_ADDR": _peer,
    "REMOTE_HOST": _peer,
    "REMOTE_PORT": lambda b, x: str(x.connection.peer[1]),
    "REMOTE_USER": _user("name"),
    "REQUEST_METHOD": lambda b, x: x.method,
    "SCRIPT_NAME": lambda b, x: x.script_name,
    "SCRIPT_TRANSLATED": lambda b, x: str(x.physical or ""),
    "SERVER_NAME": _server_name,
    "SERVER_PORT": lambda b, x: str(x.connection.local[1]),
    "SERVER_PORT_SECURE": lambda b, x: "0" if x.connection.tls is None else "1",
    "SERVER_PROTOCOL": _protocol,
    "SERVER_SOFTWARE": lambda b, x: str(b.application.software),
    "SSI_EXEC_DISABLED": lambda b, x: "0",
    "UNMAPPED_REMOTE_USER": _user("name"),
    "URL": _url,
}
