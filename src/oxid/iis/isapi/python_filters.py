"""Filters with the interface of pywin32's `isapi` package. isapi.md §9, §10

    def __FilterFactory__():
        return Filter()             GetFilterVersion(fv), HttpFilterProc(fc), TerminateFilter(status)

What they see of requests is bytes, as there; what they may set is bytes in attributes and text in arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from oxid.errors import ConfigurationError
from oxid.iis.isapi import constants as c
from oxid.iis.isapi import filters
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.python_module import PythonModule
from oxid.iis.isapi.variables import server_variable

if TYPE_CHECKING:
    from oxid.iis.connection import HttpConnection
    from oxid.iis.exchange import Exchange

REVISION: Final = 0x0006_0000
_MISSING: Final = object()


class FilterVersion:
    """HTTP_FILTER_VERSION, as GetFilterVersion sees it."""

    def __init__(self) -> None:
        self.FilterVersion = REVISION
        self.Flags = 0
        self._description = b""

    @property
    def ServerFilterVersion(self) -> int:
        return REVISION

    @property
    def FilterDesc(self) -> bytes:
        return self._description

    @FilterDesc.setter
    def FilterDesc(self, value: str | bytes) -> None:
        if not isinstance(value, str | bytes):
            raise TypeError("FilterDesc has to be a string")
        data = value.encode() if isinstance(value, str) else value
        if len(data) > 256:
            raise ValueError("String is too long - max of 256 chars")
        self._description = data


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _set_bytes(value: Any) -> str:
    """What an attribute may be set to, as there: bytes only."""
    if not isinstance(value, bytes):
        raise TypeError("must be bytes")
    return value.decode("utf-8", "surrogateescape")


class _Data:
    """What GetData gives: a view of one notification; useless after it."""

    def __init__(self, context: FilterContext, data: Any) -> None:
        self._context: FilterContext | None = context
        self._data: Any = data

    def _valid(self) -> Any:
        if self._data is None:
            raise RuntimeError("the notification is over")
        return self._data

    def end(self) -> None:
        self._context = self._data = None


class PreprocHeadersData(_Data):
    """HTTP_FILTER_PREPROC_HEADERS, and the same for SEND_RESPONSE."""

    def GetHeader(self, name: str, default: Any = _MISSING) -> Any:
        """`Name:`, or url, method, version; bytes."""
        if not isinstance(name, str):
            raise TypeError("GetHeader() argument 1 must be str")
        found = self._valid().get(name)
        if found:
            return found
        if default is not _MISSING:
            return default
        assert self._context is not None
        raise self._context.failed(c.ERROR_INVALID_INDEX, "GetHeader")

    def SetHeader(self, name: str, value: str) -> None:
        self._change(self._valid().set, name, value, "SetHeader")

    def AddHeader(self, name: str, value: str) -> None:
        self._change(self._valid().add, name, value, "AddHeader")

    def _change(self, change: Any, name: str, value: str, function: str) -> None:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{function}() arguments must be str")
        if not change(name, value.encode()):
            assert self._context is not None
            raise self._context.failed(c.ERROR_INVALID_PARAMETER, function)


class UrlMapData(_Data):
    """HTTP_FILTER_URL_MAP"""

    @property
    def URL(self) -> bytes:
        return _as_bytes(self._valid().url)

    @property
    def PhysicalPath(self) -> bytes:
        return _as_bytes(self._valid().physical)

    @PhysicalPath.setter
    def PhysicalPath(self, value: bytes) -> None:
        self._valid().physical = _set_bytes(value)


class RawDataData(_Data):
    """HTTP_FILTER_RAW_DATA"""

    @property
    def InData(self) -> bytes:
        data: bytes = self._valid().data
        return data

    @InData.setter
    def InData(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError("InData must be bytes")
        self._valid().data = value


class AuthenticationData(_Data):
    """HTTP_FILTER_AUTHENT"""

    @property
    def User(self) -> bytes:
        return _as_bytes(self._valid().user)

    @User.setter
    def User(self, value: bytes) -> None:
        self._valid().user = _set_bytes(value)

    @property
    def Password(self) -> bytes:
        return _as_bytes(self._valid().password)

    @Password.setter
    def Password(self, value: bytes) -> None:
        self._valid().password = _set_bytes(value)


def _log_text(name: str) -> Any:
    def read(self: LogData) -> bytes:
        return _as_bytes(getattr(self._valid(), name))

    def write(self: LogData, value: bytes) -> None:
        setattr(self._valid(), name, _set_bytes(value))

    return property(read, write)


def _log_number(name: str) -> Any:
    def read(self: LogData) -> int:
        return int(getattr(self._valid(), name))

    def write(self: LogData, value: int) -> None:
        setattr(self._valid(), name, int(value))

    return property(read, write)


class LogData(_Data):
    """HTTP_FILTER_LOG"""

    ClientHostName = _log_text("client")
    ClientUserName = _log_text("user")
    ServerName = _log_text("server")
    Operation = _log_text("operation")
    Target = _log_text("target")
    Parameters = _log_text("parameters")
    HttpStatus = _log_number("status")
    Win32Status = _log_number("win32")


class AccessDeniedData(_Data):
    """HTTP_FILTER_ACCESS_DENIED"""

    @property
    def URL(self) -> bytes:
        return _as_bytes(self._valid().url)

    @property
    def PhysicalPath(self) -> bytes:
        return _as_bytes(self._valid().physical)

    @property
    def Reason(self) -> int:
        return int(self._valid().reason)


_VIEWS: Final[dict[int, type[_Data]]] = {
    c.SF_NOTIFY_PREPROC_HEADERS: PreprocHeadersData,
    c.SF_NOTIFY_SEND_RESPONSE: PreprocHeadersData,
    c.SF_NOTIFY_URL_MAP: UrlMapData,
    c.SF_NOTIFY_READ_RAW_DATA: RawDataData,
    c.SF_NOTIFY_SEND_RAW_DATA: RawDataData,
    c.SF_NOTIFY_AUTHENTICATION: AuthenticationData,
    c.SF_NOTIFY_LOG: LogData,
    c.SF_NOTIFY_ACCESS_DENIED: AccessDeniedData,
}


class FilterContext:
    """HTTP_FILTER_CONTEXT: one notification, as HttpFilterProc sees it."""

    def __init__(
        self,
        owner: PythonFilter,
        session: filters.Session,
        connection: HttpConnection,
        exchange: Exchange | None,
        kind: int,
        data: Any,
    ) -> None:
        self._owner = owner
        self._session: filters.Session | None = session
        self._exchange = exchange
        view = _VIEWS.get(kind)
        self._data = None if view is None else view(self, data)
        self.Revision = REVISION
        self.fIsSecurePort = int(connection.tls is not None)
        self.NotificationType = kind

    def failed(self, error: int, function: str) -> Exception:
        made: Exception = self._owner.module.filter_error(error, None, function)
        return made

    def _live(self) -> filters.Session:
        if self._session is None:
            raise RuntimeError("No filtercontext!")
        return self._session

    def _request(self, function: str) -> Exchange:
        self._live()
        if self._exchange is None:
            raise self.failed(c.ERROR_INVALID_HANDLE, function)
        return self._exchange

    @property
    def FilterContext(self) -> Any:
        """Whatever the filter keeps of the connection; None at first."""
        return self._live().contexts.get(self._owner.name)

    @FilterContext.setter
    def FilterContext(self, value: Any) -> None:
        self._live().contexts[self._owner.name] = value

    def GetData(self) -> Any:
        """What the notification is about; None for those that bring nothing."""
        self._live()
        return self._data

    def GetServerVariable(self, name: str, default: Any = _MISSING) -> Any:
        """As an extension's."""
        if not isinstance(name, str):
            raise TypeError("GetServerVariable() argument 1 must be str")
        exchange = self._request("GetServerVariable")
        try:
            return server_variable(self._owner, exchange, name)
        except IsapiError as error:
            if default is not _MISSING:
                return default
            raise self.failed(error.errno, "GetServerVariable") from None

    def WriteClient(self, data: str | bytes, reserved: int = 0) -> int:
        """Send bytes, or text as UTF-8."""
        raw = data.encode() if isinstance(data, str) else bytes(data)
        self._request("WriteClient").write(raw)
        return len(raw)

    write = WriteClient

    def AddResponseHeaders(self, headers: str, reserved: int = 0) -> None:
        """Lines for the head of the response, whoever makes it."""
        if not isinstance(headers, str):
            raise TypeError("AddResponseHeaders() argument 1 must be str")
        self._live().added.extend(_lines(headers))

    def SendResponseHeader(self, status: str | None, header: str | None) -> None:
        """Send a head; the answer is the filter's."""
        line = (status or "200 OK").encode()
        self._request("SendResponseHeader").send_head(line, _lines(header or ""), keep=True)

    def DisableNotifications(self, flags: int) -> None:
        """Hear these no more of this request."""
        disabled = self._live().disabled
        disabled[self._owner.name] = disabled.get(self._owner.name, 0) | flags

    def end(self) -> None:
        """The notification is over: who kept this holds nothing."""
        self._session = self._exchange = None
        if self._data is not None:
            self._data.end()


def _lines(text: str) -> list[tuple[bytes, bytes]]:
    found = []
    for line in text.replace("\r\n", "\n").split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip():
            found.append((name.strip().encode("latin-1", "replace"), value.strip().encode("utf-8")))
    return found


class _Nowhere:
    """What server variables ask of an application, for a filter."""

    pool_id = ""
    software = "Microsoft-IIS/6.0"


class PythonFilter:
    """One module with `__FilterFactory__`, as the chain sees it."""

    application: Any = _Nowhere

    def __init__(self, module: PythonModule, name: str) -> None:
        self.module = module
        self.name = name
        self.flags = 0
        self.description = b""
        self._filter: Any = None

    def load(self) -> PythonFilter:
        """Make the filter and ask what it wants. Raises ConfigurationError where it refuses."""
        version = FilterVersion()
        self._make(version)
        self.flags = version.Flags | c.SF_NOTIFY_END_OF_NET_SESSION
        self.description = version.FilterDesc
        return self

    def _make(self, version: FilterVersion | None) -> None:
        self._filter = self.module.make("__FilterFactory__")
        result = self._filter.GetFilterVersion(version)
        if result is not None and not result:
            raise ConfigurationError(f"{self.name}: GetFilterVersion refused")

    def notify(
        self,
        session: filters.Session,
        connection: HttpConnection,
        exchange: Exchange | None,
        kind: int,
        data: Any,
    ) -> int:
        context = FilterContext(self, session, connection, exchange, kind, data)
        try:
            try:
                status = self._filter.HttpFilterProc(context)
            except self.module.reload_exception:
                self._filter.TerminateFilter(c.TERM_ADVISORY_UNLOAD)
                self.module.reload()
                self._make(None)
                status = self._filter.HttpFilterProc(context)
        finally:
            context.end()
        if status is None:
            return c.SF_STATUS_REQ_NEXT_NOTIFICATION
        if not isinstance(status, int):
            raise TypeError("Filter should return an int, or None")
        return status

    def session_ended(self, context: Any) -> None:
        """The chain has let go of the context; there is nothing else to give back."""

    def terminate(self) -> None:
        """The filter is unloaded."""
        found, self._filter = self._filter, None
        if found is not None:
            found.TerminateFilter(c.TERM_MUST_UNLOAD)
