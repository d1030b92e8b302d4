"""Native extensions: shared objects with the layout of `include/oxid_isapi.h`, in this process. IS-70, IS-71

The functions that an extension calls are made once per module, never per request. They get a connection handle and
look it up: what is stale or invented fails with ERROR_INVALID_HANDLE and touches nothing. HttpExtensionProc runs on the
application's threads; ctypes lets go of the interpreter's lock meanwhile.

The control block and its strings stay where they are until the request is freed, and some requests longer, so that a
late look at a freed one meets memory that is still there.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from oxid.errors import ConfigurationError
from oxid.iis.isapi import constants as c
from oxid.iis.isapi import native_layout as layout
from oxid.iis.isapi.application import ApplicationSettings
from oxid.iis.isapi.blocking_application import BlockingApplication
from oxid.iis.isapi.failures import IsapiError
from oxid.iis.isapi.native_support import support_function
from oxid.iis.isapi.services import ServerServices
from oxid.iis.isapi.tokens import ImpersonationToken
from oxid.iis.isapi.transmission import TransmittingControlBlock
from oxid.iis.isapi.variables import path_translated, value_of
from oxid.world import World

if TYPE_CHECKING:
    from oxid.iis.exchange import Exchange

log: Final = logging.getLogger("oxid.iis.isapi")

LATE_LOOKS: Final = 64
"""Freed control blocks whose memory is kept."""
MAX_WRITE: Final = 0x7FFF_FFFF
"""The most bytes of one WriteClient; a greater size is a mistake of the caller. AB-27"""


class NativeControlBlock(TransmittingControlBlock):
    """A request whose control block lies in memory for C."""

    __slots__ = ("struct", "token")
    application: NativeApplication

    def __init__(self, application: NativeApplication, exchange: Exchange) -> None:
        TransmittingControlBlock.__init__(self, application, exchange)
        self.token: ImpersonationToken | None = None
        data = self.available_data
        self.struct = layout.ControlBlockStruct(
            192,
            application.version_number,
            self.conn_id,
            200,
            b"",
            exchange.method.encode(),
            exchange.query,
            exchange.path_info.encode("utf-8", "surrogateescape"),
            path_translated(exchange).encode("utf-8", "surrogateescape"),
            self.total_bytes,
            len(data),
            ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p),
            exchange.header(b"content-type") or b"",
            application.get_variable_address,
            application.write_address,
            application.read_address,
            application.support_address,
        )

    def face(self) -> Any:
        return ctypes.addressof(self.struct)

    def let_go(self) -> None:
        struct = self.struct
        self.http_status = struct.status
        if struct.log_data:
            self.log_data = struct.log_data.decode("utf-8", "replace")
        self.application.late.append((struct, self.available_data))
        TransmittingControlBlock.let_go(self)


class NativeApplication(BlockingApplication):
    """A shared object with HttpExtensionProc."""

    def __init__(
        self,
        settings: ApplicationSettings,
        path: str,
        world: World,
        services: ServerServices | None = None,
    ) -> None:
        super().__init__(settings, world, services)
        self.path = path
        self.description = b""
        self.late: deque[Any] = deque(maxlen=LATE_LOOKS)
        major, minor = settings.version
        self.version_number = major << 16 | minor
        self._library: ctypes.CDLL | None = None
        self._proc: Any = None
        self._set_error: Any = None
        # The four functions of every control block, and the one of the cache, once per module.
        self._functions = (
            layout.GET_VARIABLE(self._get_variable),
            layout.WRITE_CLIENT(self._write_client),
            layout.READ_CLIENT(self._read_client),
            layout.SUPPORT(self._support),
            layout.INVALIDATION(self._invalidate),
        )
        (
            self.get_variable_address,
            self.write_address,
            self.read_address,
            self.support_address,
            self.invalidation_address,
        ) = (ctypes.cast(function, ctypes.c_void_p).value for function in self._functions)

    # Coming and going -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load it and ask its version. Raises ConfigurationError where it lacks a function, or refuses."""
        await super().start()
        await self.loop.run_in_executor(None, self._load)

    def _load(self) -> None:
        try:
            library = ctypes.CDLL(self.path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise ConfigurationError(f"cannot load {self.path}: {error}") from error
        try:
            get_version, proc = library.GetExtensionVersion, library.HttpExtensionProc
        except AttributeError as error:
            raise ConfigurationError(f"{self.path} is no extension: {error}") from error
        get_version.restype = ctypes.c_int32
        get_version.argtypes = [ctypes.POINTER(layout.VersionInfoStruct)]
        proc.restype = ctypes.c_uint32
        proc.argtypes = [ctypes.c_void_p]
        version = layout.VersionInfoStruct()
        if not get_version(ctypes.byref(version)):
            raise ConfigurationError(f"{self.path}: GetExtensionVersion refused")
        self.description = version.description
        self._set_error = getattr(library, "oxid_isapi_set_last_error", None)
        if self._set_error is not None:
            self._set_error.argtypes = [ctypes.c_uint32]
            self._set_error.restype = None
        self._library, self._proc = library, proc

    async def terminate(self) -> None:
        library, self._library = self._library, None
        if library is None:
            return
        live = len(self.blocks.handles)
        ending = getattr(library, "TerminateExtension", None)
        if ending is not None and not live:
            ending.argtypes, ending.restype = [ctypes.c_uint32], ctypes.c_int32
            try:
                async with asyncio.timeout(self.settings.shutdown_limit):
                    await self.loop.run_in_executor(None, ending, c.TERM_MUST_UNLOAD)
            except TimeoutError:
                live = 1
        if live:
            log.warning("%s stays in memory: its code may still run", self.path)

    def block_for(self, exchange: Exchange) -> NativeControlBlock:
        return NativeControlBlock(self, exchange)

    def proc(self, block: NativeControlBlock) -> object:
        return self._proc(ctypes.addressof(block.struct))

    # What extensions call ---------------------------------------------------------------------------------

    def fail(self, error: int) -> int:
        """FALSE, with the error for this thread."""
        if self._set_error is not None:
            self._set_error(error)
        return 0

    def _find(self, handle: int | None) -> NativeControlBlock | None:
        block = self.blocks.find(handle or 0)
        if isinstance(block, NativeControlBlock) and block.usable:
            return block
        return None

    def _get_variable(
        self, handle: int | None, name: int | None, buffer: int | None, size: int | None
    ) -> int:
        try:
            block = self._find(handle)
            if block is None:
                return self.fail(c.ERROR_INVALID_HANDLE)
            if not name or not size:
                return self.fail(c.ERROR_INVALID_PARAMETER)
            asked = ctypes.string_at(name).decode("latin-1")
            exchange = block.held("GetServerVariable")
            if asked.startswith("UNICODE_"):
                value = value_of(block, exchange, asked[8:]).decode("utf-8", "replace")
                data = value.encode("utf-16-le") + b"\0\0"
            else:
                data = value_of(block, exchange, asked) + b"\0"
            return self.fill(data, buffer, size)
        except IsapiError as error:
            return self.fail(error.errno)
        except Exception as error:
            self.fault(error)
            return self.fail(c.ERROR_INVALID_DATA)

    def fill(self, data: bytes, buffer: int | None, size: int) -> int:
        """Copy what fits; FALSE with 122 and the size that it takes where it does not."""
        room = ctypes.c_uint32.from_address(size)
        given, room.value = room.value, len(data)
        if given < len(data) or not buffer:
            return self.fail(c.ERROR_INSUFFICIENT_BUFFER)
        ctypes.memmove(buffer, data, len(data))
        return 1

    def _write_client(self, handle: int | None, buffer: int | None, size: int | None, flags: int) -> int:
        try:
            block = self._find(handle)
            if block is None:
                return self.fail(c.ERROR_INVALID_HANDLE)
            if not size:
                return self.fail(c.ERROR_INVALID_PARAMETER)
            count = ctypes.c_uint32.from_address(size)
            if count.value > MAX_WRITE or (count.value and not buffer):
                return self.fail(c.ERROR_INVALID_PARAMETER)
            data = layout.bytes_at(buffer, count.value)
            if flags & c.IO_ASYNC:
                block.write_async(data)
            elif data:
                block.write_client(data)
            return 1
        except IsapiError as error:
            if size:
                ctypes.c_uint32.from_address(size).value = 0
            return self.fail(error.errno)
        except Exception as error:
            self.fault(error)
            return self.fail(c.ERROR_INVALID_DATA)

    def _read_client(self, handle: int | None, buffer: int | None, size: int | None) -> int:
        try:
            block = self._find(handle)
            if block is None:
                return self.fail(c.ERROR_INVALID_HANDLE)
            if not size:
                return self.fail(c.ERROR_INVALID_PARAMETER)
            count = ctypes.c_uint32.from_address(size)
            if count.value and not buffer:
                return self.fail(c.ERROR_INVALID_PARAMETER)
            data = block.read_client(count.value)
            if data:
                assert buffer is not None
                ctypes.memmove(buffer, data, len(data))
            count.value = len(data)
            return 1
        except IsapiError as error:
            return self.fail(error.errno)
        except Exception as error:
            self.fault(error)
            return self.fail(c.ERROR_INVALID_DATA)

    def _support(
        self, handle: int | None, code: int, buffer: int | None, size: int | None, kind: int | None
    ) -> int:
        try:
            block = self.blocks.find(handle or 0)
            if not isinstance(block, NativeControlBlock):
                return self.fail(c.ERROR_INVALID_HANDLE)
            if code == c.Request.DONE_WITH_SESSION:
                status = ctypes.c_uint32.from_address(buffer).value if buffer else c.HSE_STATUS_SUCCESS
                return 1 if block.mark_done(status) else self.fail(c.ERROR_INVALID_PARAMETER)
            if not block.usable:
                self.blocks.stale += 1
                return self.fail(c.ERROR_INVALID_HANDLE)
            support_function(self, block, code, buffer, size, kind)
            return 1
        except IsapiError as error:
            return self.fail(error.errno)
        except Exception as error:
            self.fault(error)
            return self.fail(c.ERROR_INVALID_DATA)

    def _invalidate(self, url: int | None) -> int:
        try:
            text = layout.wide_at(url)
            if not text:
                return -2147024809  # E_INVALIDARG
            self.post(self.services.invalidate, text)
        except Exception as error:
            self.fault(error)
            return -2147467259  # E_FAIL
        return 0
