"""ServerSupportFunction of native extensions: every code, its parameters and its errors. isapi.md §4

Each function gets the addresses that the extension passed and raises IsapiError with the code that GetLastError is
to answer; a pointer that has to be there and is NULL is ERROR_INVALID_PARAMETER (87).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oxid.iis.isapi import constants as c
from oxid.iis.isapi import native_layout as layout
from oxid.iis.isapi.certificates import peer_certificate
from oxid.iis.isapi.constants import Request
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.services import ChildRequest, normalize
from oxid.iis.isapi.tokens import ImpersonationToken

if TYPE_CHECKING:
    from oxid.iis.isapi.native import NativeApplication, NativeControlBlock
    from oxid.iis.isapi.operations import Completion, Element

MAX_VECTOR: Final = 4096
"""Elements of one VECTOR_SEND."""


class Call(NamedTuple):
    """One call: the addresses are those of the extension; 0 for NULL."""

    application: NativeApplication
    block: NativeControlBlock
    buffer: int
    size: int
    kind: int

    def need(self, *names: str) -> None:
        """IsapiError(87) where one of these is NULL."""
        if not all(getattr(self, name) for name in names):
            raise IsapiError(c.ERROR_INVALID_PARAMETER)

    def text(self) -> str:
        """The buffer as text up to its NUL."""
        self.need("buffer")
        return ctypes.string_at(self.buffer).decode("utf-8", "replace")

    def put(self, kind: Any, value: int) -> None:
        """Write a number where the buffer points."""
        self.need("buffer")
        kind.from_address(self.buffer).value = value

    def struct(self, kind: Any) -> Any:
        """The structure where the buffer points."""
        self.need("buffer")
        return kind.from_address(self.buffer)

    def fill(self, data: bytes) -> None:
        """Answer bytes into the buffer; IsapiError(122) with the needed size in `*size`."""
        self.need("size")
        room = ctypes.c_uint32.from_address(self.size)
        given, room.value = room.value, len(data)
        if given < len(data) or not self.buffer:
            raise IsapiError(c.ERROR_INSUFFICIENT_BUFFER, needed=len(data))
        ctypes.memmove(self.buffer, data, len(data))


def support_function(
    application: NativeApplication,
    block: NativeControlBlock,
    code: int,
    buffer: int | None,
    size: int | None,
    kind: int | None,
) -> None:
    """Do what the code says. Raises IsapiError; 87 for codes that are reserved or unknown."""
    function = _FUNCTIONS.get(code)
    if function is None:
        raise IsapiError(c.ERROR_INVALID_PARAMETER)
    function(Call(application, block, buffer or 0, size or 0, kind or 0))


def completion_of(address: int) -> Completion:
    """A callback of the extension; NULL is refused before."""
    function = layout.COMPLETION(address)

    def complete(ecb: Any, context: Any, count: int, error: int) -> None:
        function(ecb, context, count, error)

    return complete


def _redirect(call: Call) -> None:
    call.block.redirect(call.text())


def _send_url(call: Call) -> None:
    call.block.exec_url(ChildRequest(call.text(), "GET"), silent=True)


def _send_header(call: Call) -> None:
    status = layout.text_at(call.buffer) or b"200 OK"
    call.block.send_headers(status, layout.text_at(call.kind) or b"", False)


def _send_header_ex(call: Call) -> None:
    info = call.struct(layout.HeaderStruct)

    def part(address: int | None, length: int) -> bytes:
        return layout.bytes_at(address, length) if length else layout.text_at(address) or b""

    call.block.send_headers(
        part(info.status, info.status_length) or b"200 OK",
        part(info.header, info.header_length),
        info.keep != 0,
    )


def _map_url(call: Call) -> None:
    mapped = call.application.services.map_url(call.block.held(), call.text())
    call.fill(mapped.physical.encode("utf-8", "surrogateescape") + b"\0")


def _map_wide_url(call: Call) -> None:
    url = layout.wide_at(call.buffer)
    if url is None:
        raise IsapiError(c.ERROR_INVALID_PARAMETER)
    mapped = call.application.services.map_url(call.block.held(), url)
    call.fill(mapped.physical.encode("utf-16-le", "replace") + b"\0\0")


def _map_url_ex(call: Call) -> None:
    call.need("buffer", "kind")
    mapped = call.application.services.map_url(call.block.held(), call.text())
    path = mapped.physical.encode("utf-8", "surrogateescape")
    if len(path) > 259:
        raise IsapiError(c.ERROR_INSUFFICIENT_BUFFER)
    info = layout.MapStruct.from_address(call.kind)
    info.path, info.flags = path, mapped.flags
    info.matching_path, info.matching_url = mapped.matching_path, mapped.matching_url


def _map_wide_url_ex(call: Call) -> None:
    call.need("buffer", "kind")
    url = layout.wide_at(call.buffer) or ""
    mapped = call.application.services.map_url(call.block.held(), url)
    path = mapped.physical.encode("utf-16-le", "replace") + b"\0\0"
    if len(path) > 520:
        raise IsapiError(c.ERROR_INSUFFICIENT_BUFFER)
    info = layout.WideMapStruct.from_address(call.kind)
    ctypes.memmove(call.kind, path, len(path))
    info.flags = mapped.flags
    info.matching_path, info.matching_url = mapped.matching_path, mapped.matching_url


def _sspi_info(call: Call) -> None:
    call.need("buffer", "kind")
    user = call.block.held().user
    if user is None or user.auth_type not in ("NTLM", "Negotiate"):
        raise IsapiError(c.ERROR_NO_TOKEN)
    # two handles of 16 bytes that mean nothing here, but are those of this request
    for address in (call.buffer, call.kind):
        ctypes.memmove(address, call.block.conn_id.to_bytes(16, "little"), 16)


def _append_log(call: Call) -> None:
    call.block.append_log(call.text())


def _io_completion(call: Call) -> None:
    callback = completion_of(call.buffer) if call.buffer else None
    call.block.io_completion(callback, call.kind)


def _transmit(call: Call) -> None:
    info = call.struct(layout.TransmitStruct)
    call.block.transmit_file(
        info.file or 0,
        callback=completion_of(info.callback) if info.callback else None,
        context=info.context,
        status=info.status,
        count=info.count,
        offset=info.offset,
        head=_head(info),
        tail=layout.bytes_at(info.tail, info.tail_length) or None,
        flags=info.flags,
    )


def _head(info: Any) -> bytes | None:
    if info.flags & c.IO_SEND_HEADERS and not info.head_length:
        return layout.text_at(info.head)  # NULL: pywin32's sample sends status and file alone
    return layout.bytes_at(info.head, info.head_length) or None


def _nothing(call: Call) -> None:
    """Done by being asked for."""


def _is_keep_conn(call: Call) -> None:
    call.put(ctypes.c_int32, int(call.block.held().wants_keep_alive))


def _async_read(call: Call) -> None:
    call.need("buffer", "size", "kind")
    if not ctypes.c_uint32.from_address(call.kind).value & c.IO_ASYNC:
        raise IsapiError(c.ERROR_INVALID_PARAMETER)
    buffer = call.buffer

    def deliver(data: bytes) -> None:
        ctypes.memmove(buffer, data, len(data))

    call.block.read_async(ctypes.c_uint32.from_address(call.size).value, deliver)


def _token(call: Call) -> None:
    block = call.block
    if block.token is None:
        block.token = ImpersonationToken(block.held().user)
    call.put(ctypes.c_uint64, int(block.token))


def _anonymous_token(call: Call) -> None:
    call.need("buffer", "kind")
    ctypes.c_uint64.from_address(call.kind).value = int(ImpersonationToken(None))


def _abortive_close(call: Call) -> None:
    call.block.abortive = True


def _certificate(call: Call) -> None:
    info = call.struct(layout.CertificateStruct)
    certificate = peer_certificate(call.block.held()) or b""
    info.encoding = 1  # X509_ASN_ENCODING
    info.info = info.store = None
    info.size = len(certificate)
    info.flags = 1 if certificate else 0
    if len(certificate) > info.allocated or (certificate and not info.encoded):
        raise IsapiError(c.ERROR_INSUFFICIENT_BUFFER, needed=len(certificate))
    if certificate:
        ctypes.memmove(info.encoded, certificate, len(certificate))


def _close_connection(call: Call) -> None:
    call.block.close_connection()


def _is_connected(call: Call) -> None:
    call.put(ctypes.c_int32, int(not call.block.held().lost))


def _exec(call: Call, url: str | None) -> None:
    info = call.struct(layout.ExecStruct)
    entity = None
    if info.entity:
        entity = layout.bytes_at(info.entity.contents.data, info.entity.contents.size)
    method = info.method
    call.block.exec_url(
        ChildRequest(url, None if method is None else method.decode(), info.headers, entity, info.flags)
    )


def _exec_url(call: Call) -> None:
    url = layout.text_at(call.struct(layout.ExecStruct).url)
    _exec(call, None if url is None else url.decode("utf-8", "replace"))


def _exec_wide_url(call: Call) -> None:
    _exec(call, layout.wide_at(call.struct(layout.ExecStruct).url))


def _exec_status(call: Call) -> None:
    info = call.struct(layout.ExecStatusStruct)
    found = call.block.exec_status
    info.status, info.substatus, info.win32 = found.status, found.substatus, found.win32


def _custom_error(call: Call) -> None:
    info = call.struct(layout.CustomErrorStruct)
    if not info.status or not info.status[:3].isdigit():
        raise IsapiError(c.ERROR_INVALID_PARAMETER)
    call.block.custom_error(int(info.status[:3]), info.substatus, asynchronous=bool(info.asynchronous))


def _is_in_process(call: Call) -> None:
    call.put(ctypes.c_uint32, call.application.settings.isolation)


def _unhealthy(call: Call) -> None:
    reason = (layout.text_at(call.buffer) or b"").decode("utf-8", "replace")
    call.application.post(call.application.report_unhealthy, reason)


def _normalize(call: Call) -> None:
    url = call.text()
    normal = normalize(url).encode()
    if len(normal) > len(url.encode()):
        raise IsapiError(c.ERROR_INSUFFICIENT_BUFFER)
    ctypes.memmove(call.buffer, normal + b"\0", len(normal) + 1)
    if call.size:
        ctypes.c_uint32.from_address(call.size).value = len(normal) + 1


def _vector(call: Call) -> None:
    info = call.struct(layout.VectorStruct)
    if info.count > MAX_VECTOR or (info.count and not info.elements):
        raise IsapiError(c.ERROR_INVALID_PARAMETER)
    elements: list[Element] = []
    for index in range(info.count):
        element = info.elements[index]
        if element.kind == 0:
            if element.size and not element.context:
                raise IsapiError(c.ERROR_INVALID_PARAMETER)
            start = (element.context or 0) + element.offset
            elements.append(layout.bytes_at(start, element.size))
        elif element.kind == 1:
            elements.append((element.context or 0, element.offset, element.size))
        else:
            raise IsapiError(c.ERROR_INVALID_PARAMETER)
    call.block.vector_send(elements, status=info.status, headers=info.headers, flags=info.flags)


def _invalidation(call: Call) -> None:
    call.put(ctypes.c_uint64, call.application.invalidation_address or 0)


def _trace_info(call: Call) -> None:
    info = call.struct(layout.TraceStruct)
    ctypes.memset(ctypes.addressof(info), 0, ctypes.sizeof(info))  # nothing is traced


def _flush(call: Call) -> None:
    # callers pass the flag as the pointer's value, or a pointer to it
    value = call.buffer if call.buffer in (0, 1) else ctypes.c_int32.from_address(call.buffer).value
    call.block.flush = bool(value)


def _cancel(call: Call) -> None:
    call.block.cancel_io()


def _channel_binding(call: Call) -> None:
    tls = call.block.held().connection.tls
    token = None if tls is None else tls.channel_binding
    if not token:
        raise IsapiError(c.ERROR_NOT_SUPPORTED)
    call.fill(token)


def _not_supported(call: Call) -> None:
    raise IsapiError(c.ERROR_NOT_SUPPORTED)


_FUNCTIONS: Final[dict[int, Callable[[Call], None]]] = {
    Request.SEND_URL_REDIRECT_RESP: _redirect,
    Request.SEND_URL: _send_url,
    Request.SEND_RESPONSE_HEADER: _send_header,
    Request.MAP_URL_TO_PATH: _map_url,
    Request.GET_SSPI_INFO: _sspi_info,
    Request.APPEND_LOG_PARAMETER: _append_log,
    Request.IO_COMPLETION: _io_completion,
    Request.TRANSMIT_FILE: _transmit,
    Request.REFRESH_ISAPI_ACL: _nothing,
    Request.IS_KEEP_CONN: _is_keep_conn,
    Request.ASYNC_READ_CLIENT: _async_read,
    Request.GET_IMPERSONATION_TOKEN: _token,
    Request.MAP_URL_TO_PATH_EX: _map_url_ex,
    Request.ABORTIVE_CLOSE: _abortive_close,
    Request.GET_CERT_INFO_EX: _certificate,
    Request.SEND_RESPONSE_HEADER_EX: _send_header_ex,
    Request.CLOSE_CONNECTION: _close_connection,
    Request.IS_CONNECTED: _is_connected,
    Request.MAP_UNICODE_URL_TO_PATH: _map_wide_url,
    Request.MAP_UNICODE_URL_TO_PATH_EX: _map_wide_url_ex,
    Request.EXEC_UNICODE_URL: _exec_wide_url,
    Request.EXEC_URL: _exec_url,
    Request.GET_EXEC_URL_STATUS: _exec_status,
    Request.SEND_CUSTOM_ERROR: _custom_error,
    Request.IS_IN_PROCESS: _is_in_process,
    Request.REPORT_UNHEALTHY: _unhealthy,
    Request.NORMALIZE_URL: _normalize,
    Request.VECTOR_SEND: _vector,
    Request.GET_ANONYMOUS_TOKEN: _anonymous_token,
    Request.GET_CACHE_INVALIDATION_CALLBACK: _invalidation,
    Request.GET_UNICODE_ANONYMOUS_TOKEN: _anonymous_token,
    Request.GET_TRACE_INFO: _trace_info,
    Request.SET_FLUSH_FLAG: _flush,
    Request.GET_TRACE_INFO_EX: _trace_info,
    Request.RAISE_TRACE_EVENT: _nothing,
    Request.GET_CONFIG_OBJECT: _not_supported,
    Request.GET_WORKER_PROCESS_SETTINGS: _not_supported,
    Request.GET_PROTOCOL_MANAGER_CUSTOM_INTERFACE_CALLBACK: _not_supported,
    Request.CANCEL_IO: _cancel,
    Request.GET_CHANNEL_BINDING_TOKEN: _channel_binding,
}
"""Code -> what it does; DONE_WITH_SESSION is answered before."""
