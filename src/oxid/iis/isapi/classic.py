"""Extensions with the interface of pywin32's `isapi` package. isapi.md §10, IS-60

    def __ExtensionFactory__():
        return Extension()              GetExtensionVersion(vi), HttpExtensionProc(ecb), TerminateExtension(status)

`HttpExtensionProc` runs on the application's threads, many at once. An extension whose attribute `NonBlocking` is true
promises never to wait: its proc and callbacks run on the loop's thread, several times as fast; what would have to wait
(ReadClient before the body has come, VectorSend of files) fails with ERROR_IO_PENDING (997) there.

The control block is the request's `ClassicControlBlock`. It may be kept after DoneWithSession: it holds nothing, and
its methods raise ExtensionError(6) (IS-31).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import ConfigurationError
from oxid.iis.isapi import constants as c
from oxid.iis.isapi.application import ApplicationSettings
from oxid.iis.isapi.blocking_application import BlockingApplication
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.operations import Completion
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.isapi.services import ChildRequest, ServerServices
from oxid.iis.isapi.tokens import ImpersonationToken
from oxid.iis.isapi.transmission import TransmittingControlBlock
from oxid.iis.isapi.variables import path_translated, server_variable
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi")

MAX_DESCRIPTION: Final = 256
_MISSING: Final = object()
Text = str | bytes


def _bytes(value: Text | None) -> bytes:
    """What the C interface sees of an argument: text as UTF-8."""
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else bytes(value)


def _text(value: object, function: str) -> str:
    """An argument that has to be text, as there."""
    if not isinstance(value, str):
        raise TypeError(f"{function}() argument must be str, not {type(value).__name__}")
    return value


class VersionInfo:
    """HSE_VERSION_INFO, as GetExtensionVersion sees it."""

    def __init__(self) -> None:
        self._description = b""

    @property
    def ExtensionDesc(self) -> bytes:
        """What the extension calls itself; at most 256 bytes."""
        return self._description

    @ExtensionDesc.setter
    def ExtensionDesc(self, value: Text | None) -> None:
        if value is None:
            raise TypeError("ExtensionDesc has to be a string")
        described = _bytes(value)
        if len(described) > MAX_DESCRIPTION:
            raise ValueError(f"String is too long - max of {MAX_DESCRIPTION} chars")
        self._description = described


class ClassicControlBlock(TransmittingControlBlock):
    """EXTENSION_CONTROL_BLOCK for Python."""

    __slots__ = ("_log_data", "softspace")
    application: ClassicApplication

    def __init__(self, application: ClassicApplication, exchange: Exchange) -> None:
        TransmittingControlBlock.__init__(self, application, exchange)
        self.softspace = 0

    def _failed(self, error: IsapiError, function: str = "") -> Exception:
        """The error as the extension's own `isapi` package calls it."""
        made: Exception = self.application.module.extension_error(
            error.errno, None, function or error.function
        )
        return made

    def _exchange(self, function: str) -> Exchange:
        exchange = self._open
        if exchange is None:
            self.blocks.stale += 1
            raise self.application.module.extension_error(c.ERROR_INVALID_HANDLE, None, function)
        return exchange

    # Attributes -----------------------------------------------------------------------------------------

    @property
    def Version(self) -> int:
        major, minor = self.application.settings.version
        return major << 16 | minor

    @property
    def ConnID(self) -> int:
        return self.conn_id

    @property
    def TotalBytes(self) -> int:
        """The declared length of the body; 0xFFFFFFFF where it is not known."""
        self._exchange("TotalBytes")
        return self.total_bytes

    @property
    def AvailableBytes(self) -> int:
        return len(self.available_data)

    @property
    def AvailableData(self) -> bytes:
        """The first bytes of the body, at most 48 KiB."""
        return self.available_data

    @property
    def HttpStatusCode(self) -> int:
        """The status for the log."""
        return self.http_status

    @HttpStatusCode.setter
    def HttpStatusCode(self, status: int) -> None:
        self.http_status = status

    @property
    def LogData(self) -> str:
        """Can be set only; at most 79 characters reach the log."""
        raise AttributeError("LogData attribute can only be set")

    @LogData.setter
    def LogData(self, value: Text) -> None:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else _text(value, "LogData")
        if len(text) > 79:
            raise ValueError("LogData is at most 79 characters")
        self.log_data = text

    @property
    def Method(self) -> bytes:
        return self._exchange("Method").method.encode()

    @property
    def QueryString(self) -> bytes:
        return self._exchange("QueryString").query

    @property
    def PathInfo(self) -> bytes:
        return self._exchange("PathInfo").path_info.encode("utf-8", "surrogateescape")

    @property
    def PathTranslated(self) -> bytes:
        return path_translated(self._exchange("PathTranslated")).encode("utf-8", "surrogateescape")

    @property
    def ContentType(self) -> bytes:
        return self._exchange("ContentType").header(b"content-type") or b""

    # Reading and writing --------------------------------------------------------------------------------

    def WriteClient(self, data: Any, flags: int = c.IO_SYNC) -> int:
        """Send bytes, or text as UTF-8; return how many were sent. IO_ASYNC: the callback tells it."""
        if isinstance(data, str):
            data = data.encode()
        try:
            if flags & c.IO_ASYNC:
                self.write_async(data)
                return len(data)
            return self.write_client(data)
        except IsapiError as error:
            raise self._failed(error, "WriteClient") from None

    write = WriteClient

    def ReadClient(self, size: int | None = None) -> bytes:
        """Read `size` bytes of the body, fewer at its end; by default all that was not given already."""
        exchange = self._exchange("ReadClient")
        if size is None:
            total = self.total_bytes
            size = total if total == c.UNKNOWN_LENGTH else total - len(self.available_data)
        elif size < 0:
            raise ValueError("ReadClient() of a negative size")
        pieces: list[bytes] = []
        try:
            while size > 0:
                piece = self.read_client(size)
                if not piece:
                    break
                pieces.append(piece)
                size -= len(piece)
                if exchange.body_ended:
                    break
        except IsapiError as error:
            raise self._failed(error, "ReadClient") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def SendResponseHeaders(self, status: Text, headers: Text, keep: int = False) -> None:
        """Send status and headers, which end with an empty line of the caller's."""
        if self._open is None:
            self._exchange("SendResponseHeaders")
        try:
            self.send_headers(_bytes(status), _bytes(headers), bool(keep))
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_SEND_RESPONSE_HEADER_EX)") from None

    def SetFlushFlag(self, flag: int) -> None:
        """Let every write wait until it is on its way."""
        self._exchange("ServerSupportFunction(HSE_REQ_SET_FLUSH_FLAG)")
        self.flush = bool(flag)

    def TransmitFile(
        self,
        callback: Completion | None,
        param: Any,
        file: Any,
        status: str | None,
        size: int,
        offset: int,
        head: Text | None,
        tail: Text | None,
        flags: int,
    ) -> None:
        """Send a file; `callback(ecb, param, bytes, error)` when it is sent. The caller closes the file."""
        if callback is not None and not callable(callback):
            raise TypeError("Callback is not callable")
        try:
            self.transmit_file(
                int(file),
                callback=callback,
                context=param,
                status=_bytes(status) or None,
                count=size,
                offset=offset,
                head=_bytes(head) or None,
                tail=_bytes(tail) or None,
                flags=flags,
            )
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_TRANSMIT_FILE)") from None

    def IOCompletion(self, callback: Completion, argument: Any = None) -> None:
        """What asynchronous operations call: `callback(ecb, argument, bytes, error)`."""
        if not callable(callback):
            raise TypeError("first param must be callable")
        try:
            self.io_completion(callback, argument)
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_IO_COMPLETION)") from None

    ReqIOCompletion = IOCompletion

    # Questions ------------------------------------------------------------------------------------------

    def GetServerVariable(self, name: str, default: Any = _MISSING) -> Any:
        """Bytes, or text for names that begin with UNICODE_. ExtensionError(1413): no such variable."""
        exchange = self._exchange("GetServerVariable")
        try:
            return server_variable(self, exchange, _text(name, "GetServerVariable"))
        except IsapiError as error:
            if default is not _MISSING:
                return default
            raise self._failed(error, "GetServerVariable") from None

    def MapURLToPath(self, url: str) -> bytes:
        """Where a URL of this site leads in the file system."""
        function = "ServerSupportFunction(HSE_REQ_MAP_URL_TO_PATH)"
        exchange = self._exchange(function)
        try:
            mapped = self.application.services.map_url(exchange, _text(url, "MapURLToPath"))
        except IsapiError as error:
            raise self._failed(error, function) from None
        return mapped.physical.encode("utf-8", "surrogateescape")

    def IsKeepConn(self) -> bool:
        """Whether the client wants the connection to be kept."""
        return self._exchange("ServerSupportFunction(HSE_REQ_IS_KEEP_CONN)").wants_keep_alive

    IsKeepAlive = IsKeepConn

    def IsSessionActive(self) -> bool:
        """Whether the client is still there."""
        return not self._exchange("ServerSupportFunction(HSE_REQ_IS_CONNECTED)").lost

    def GetImpersonationToken(self) -> ImpersonationToken:
        """Who the client is; an opaque handle for SetThreadToken. It dies with the request. IS-63"""
        exchange = self._exchange("ServerSupportFunction(HSE_REQ_GET_IMPERSONATION_TOKEN)")
        return ImpersonationToken(exchange.user)

    def GetAnonymousToken(self, path: Text) -> ImpersonationToken:
        """The token of anonymous callers of a path."""
        self._exchange("ServerSupportFunction(HSE_REQ_GET_ANONYMOUS_TOKEN)")
        if not isinstance(path, str | bytes):
            raise TypeError(f"must pass a string or unicode object (got {type(path).__name__})")
        return ImpersonationToken(None)

    # Other URLs -----------------------------------------------------------------------------------------

    def Redirect(self, url: str) -> None:
        """302 with this location."""
        self._exchange("ServerSupportFunction(HSE_REQ_SEND_URL_REDIRECT_RESP)")
        try:
            self.redirect(_text(url, "Redirect"))
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_SEND_URL_REDIRECT_RESP)") from None

    def ExecURL(
        self,
        url: str | None,
        method: str | None,
        headers: str | None,
        info: None,
        entity: None,
        flags: int,
    ) -> None:
        """Let the server answer with another URL; the callback of IOCompletion tells when it has."""
        if info is not None or entity is not None:
            raise ValueError("info and entity params must be None")
        child = ChildRequest(
            url, method, None if headers is None else headers.encode("latin-1", "replace"), None, flags
        )
        try:
            self.exec_url(child)
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_EXEC_URL)") from None

    def GetExecURLStatus(self) -> tuple[int, int, int]:
        """Status, substatus and Windows error of what ExecURL ran."""
        self._exchange("ServerSupportFunction(HSE_REQ_GET_EXEC_URL_STATUS)")
        found = self.exec_status
        return found.status, found.substatus, found.win32

    # The end --------------------------------------------------------------------------------------------

    def DoneWithSession(self, status: int = c.HSE_STATUS_SUCCESS) -> None:
        """Let go of the request. ExtensionError(6) where that was done before."""
        if not self.mark_done(status):
            raise self.application.module.extension_error(
                c.ERROR_INVALID_HANDLE, None, "ServerSupportFunction(HSE_REQ_DONE_WITH_SESSION)"
            )

    close = DoneWithSession

    def ReportUnhealthy(self, reason: Text | None = None) -> None:
        """Ask to be recycled."""
        self._exchange("ServerSupportFunction(HSE_REQ_REPORT_UNHEALTHY)")
        self._do(self.application.report_unhealthy, _bytes(reason).decode("utf-8", "replace"))

    def CloseConnection(self) -> None:
        """Close the client's socket now; the request is still to be ended."""
        self._exchange("ServerSupportFunction(HSE_REQ_CLOSE_CONNECTION)")
        self.close_connection()

    def AbortiveClose(self) -> None:
        """Let the connection end with a reset."""
        self._exchange("ServerSupportFunction(HSE_REQ_ABORTIVE_CLOSE)")
        self.abortive = True

    def CancelIO(self) -> None:
        """End what is outstanding: its callback gets 995."""
        try:
            self.cancel_io()
        except IsapiError as error:
            raise self._failed(error, "ServerSupportFunction(HSE_REQ_CANCEL_IO)") from None

    def AppendLogParameter(self, text: Text) -> None:
        """Add text to the query's field of the access log."""
        self._exchange("ServerSupportFunction(HSE_REQ_APPEND_LOG_PARAMETER)")
        self.append_log(_bytes(text).decode("utf-8", "replace"))


class ClassicApplication(BlockingApplication):
    """A Python module with `__ExtensionFactory__`."""

    def __init__(
        self,
        settings: ApplicationSettings,
        module: PythonModule,
        world: World,
        services: ServerServices | None = None,
    ) -> None:
        super().__init__(settings, world, services)
        self.module = module
        self.extension: Any = None
        self.description = b""
        self._proc: Callable[[ClassicControlBlock], object] | None = None

    async def start(self) -> None:
        """Import the module and make its extension. Raises ConfigurationError where it refuses."""
        await super().start()
        await self.loop.run_in_executor(None, self.load, VersionInfo())

    def load(self, version: VersionInfo | None) -> None:
        """Make the extension; `version` is None when the module was reloaded."""
        self.extension = self.module.make("__ExtensionFactory__")
        self.inline = bool(getattr(self.extension, "NonBlocking", False))
        result = self.extension.GetExtensionVersion(version)
        if result is not None and not isinstance(result, int):
            raise ConfigurationError(f"{self.settings.name}: GetExtensionVersion returned no int")
        if result is not None and not result:
            raise ConfigurationError(f"{self.settings.name}: GetExtensionVersion refused")
        if version is not None:
            self.description = version.ExtensionDesc
        self._proc = self.extension.HttpExtensionProc

    def block_for(self, exchange: Exchange) -> ClassicControlBlock:
        return ClassicControlBlock(self, exchange)

    def proc(self, block: ClassicControlBlock) -> object:
        proc = self._proc
        assert proc is not None
        try:
            status = proc(block)
        except self.module.reload_exception:
            with self.module.reloading:
                if self._proc is proc:  # nobody else did it meanwhile
                    self._reload()
            proc = self._proc
            assert proc is not None
            status = proc(block)
        if type(status) is not int and not isinstance(status, int):
            raise TypeError("HttpExtensionProc should return an int")
        return status

    def _reload(self) -> None:
        """End the extension, load its module anew, make it again. InternalReloadException"""
        try:
            self.extension.TerminateExtension(c.TERM_ADVISORY_UNLOAD)
        except Exception as error:
            self.fault(error)
        self.module.reload()
        self.load(None)

    async def terminate(self) -> None:
        extension, self.extension, self._proc = self.extension, None, None
        if extension is not None:
            try:
                async with asyncio.timeout(self.settings.shutdown_limit):
                    await self.loop.run_in_executor(None, extension.TerminateExtension, c.TERM_MUST_UNLOAD)
            except Exception as error:
                self.fault(error)
        self.module.forget()
