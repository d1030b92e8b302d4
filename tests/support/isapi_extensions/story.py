"""An extension that does what the query says: `MODE&FILE`; what it learns is appended to the file, a line each.

The same stories as `story.c`, so that one test runs both.
"""

from __future__ import annotations

import threading
from typing import Any

from isapi import ExtensionError
from isapi.simple import SimpleExtension

SUCCESS, KEEP, PENDING, ERROR = 1, 2, 3, 4
ASYNC = 2


class Story:
    """One request."""

    def __init__(self, ecb: Any) -> None:
        self.ecb = ecb
        mode, _, self.file = ecb.QueryString.decode().partition("&")
        self.mode = mode

    def note(self, line: str) -> None:
        with open(self.file, "a", encoding="utf-8") as out:
            out.write(line + "\n")

    def head(self, length: int | None = 5, keep: bool = True) -> None:
        sized = "" if length is None else f"Content-Length: {length}\r\n"
        self.ecb.SendResponseHeaders("200 OK", f"Content-Type: text/plain\r\n{sized}\r\n", keep)

    def answer(self) -> None:
        self.head()
        self.ecb.WriteClient(b"hello")

    def try_(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self.ecb, name)(*arguments)
        except ExtensionError as error:
            self.note(f"{name} {error.errno}")
        else:
            self.note(f"{name} ok")

    def later(self, work: Any) -> None:
        threading.Thread(target=work, daemon=True).start()

    # The stories --------------------------------------------------------------------------------------------

    def success(self) -> int:
        self.answer()
        return SUCCESS

    def keep(self) -> int:
        self.answer()
        return KEEP

    def nolength(self) -> int:
        self.head(None)
        self.ecb.WriteClient(b"hello")
        return KEEP

    def short(self) -> int:
        self.head(9)
        self.ecb.WriteClient(b"hello")
        return KEEP

    def nokeep(self) -> int:
        self.head(5, False)
        self.ecb.WriteClient(b"hello")
        return KEEP

    def _done_later(self, status: int) -> int:
        def work() -> None:
            self.answer()
            self.ecb.DoneWithSession(status)

        self.later(work)
        return PENDING

    def pending1(self) -> int:
        return self._done_later(SUCCESS)

    def pending2(self) -> int:
        return self._done_later(KEEP)

    def donefirst(self) -> int:
        self.answer()
        self.ecb.DoneWithSession(KEEP)
        self.try_("WriteClient", b"late")
        return PENDING

    def donesuccess(self) -> int:
        self.answer()
        self.ecb.DoneWithSession(KEEP)
        return SUCCESS

    def race(self) -> int:
        self.answer()
        self.later(lambda: self.ecb.DoneWithSession(KEEP))
        return PENDING

    def _transmit(self, callback: Any) -> int:
        with open(__file__, "rb") as file:
            self.head(5)
            self.ecb.TransmitFile(callback, None, file.fileno(), None, 5, 3, None, None, ASYNC)
        return SUCCESS

    def transmit(self) -> int:
        def sent(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"sent {count} {error}")
            ecb.DoneWithSession(KEEP)

        return self._transmit(sent)

    def transmitonly(self) -> int:
        return self._transmit(lambda ecb, context, count, error: self.note(f"sent {count} {error}"))

    def big(self) -> int:
        """A file beside the notes, whole."""

        def sent(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"sent {count} {error}")
            ecb.DoneWithSession(KEEP)

        with open(self.file + ".big", "rb") as file:
            size = file.seek(0, 2)
            self.head(size)
            self.ecb.TransmitFile(sent, None, file.fileno(), None, 0, 0, None, None, ASYNC)
            for offset in (size + 1, size):
                try:
                    self.ecb.TransmitFile(sent, None, file.fileno(), None, 1, offset, None, None, ASYNC)
                except ExtensionError as error:
                    self.note(f"refused {error.errno}")
        return PENDING

    def double(self) -> int:
        def work() -> None:
            self.answer()
            self.ecb.DoneWithSession(KEEP)
            self.try_("DoneWithSession", KEEP)

        self.later(work)
        return PENDING

    def never(self) -> int:
        self.note("pending")
        return PENDING

    def lost(self) -> int:
        """Waits for the client to go with nothing outstanding."""

        def work() -> None:
            while self.ecb.IsSessionActive():
                pass
            self.try_("WriteClient", b"x")
            self.ecb.DoneWithSession(SUCCESS)
            self.note("done")

        self.note("waiting")
        self.later(work)
        return PENDING

    def lostread(self) -> int:
        """Waits for the client to go with a read outstanding."""

        def read(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"read {count} {error}")
            ecb.DoneWithSession(SUCCESS)
            self.note("done")

        self.ecb.IOCompletion(read)
        self.ecb.read_async(100, lambda data: None)
        self.note("waiting")
        return PENDING

    def secondio(self) -> int:
        def read(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"read {count} {error}")
            self.answer()
            ecb.DoneWithSession(SUCCESS)

        self.ecb.IOCompletion(read)
        self.ecb.read_async(100, lambda data: None)
        self.try_("WriteClient", b"x", ASYNC)
        self.note("waiting")
        return PENDING

    def cancel(self) -> int:
        def read(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"read {count} {error}")
            self.answer()
            ecb.DoneWithSession(KEEP)

        self.ecb.IOCompletion(read)
        self.ecb.read_async(100, lambda data: None)
        self.ecb.CancelIO()
        return PENDING

    def fault(self) -> int:
        raise RuntimeError("on purpose")

    def exit(self) -> int:
        raise SystemExit(3)

    def faultlate(self) -> int:
        self.head(9)
        self.ecb.WriteClient(b"hello")
        raise RuntimeError("on purpose")

    def badstatus(self) -> Any:
        return 77

    def errorstatus(self) -> int:
        return ERROR

    def callbackfault(self) -> int:
        def written(ecb: Any, _context: Any, count: int, error: int) -> None:
            raise RuntimeError("on purpose")

        self.head(9)
        self.ecb.IOCompletion(written)
        self.ecb.WriteClient(b"hello", ASYNC)
        return PENDING

    def closeread(self) -> int:
        def read(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"read {count} {error}")
            ecb.DoneWithSession(SUCCESS)
            self.note("done")

        self.ecb.IOCompletion(read)
        self.ecb.read_async(100, lambda data: None)
        self.ecb.CloseConnection()
        return PENDING

    def writedone(self) -> int:
        """DONE(2) while a write is outstanding."""

        def written(ecb: Any, _context: Any, count: int, error: int) -> None:
            self.note(f"written {count} {error}")

        self.head(5)
        self.ecb.IOCompletion(written)
        self.ecb.WriteClient(b"hello", ASYNC)
        self.ecb.DoneWithSession(KEEP)
        return PENDING

    def chain(self) -> int:
        """Three asynchronous writes, each from the callback of the one before."""
        pieces = [b"he", b"ll", b"o"]

        def written(ecb: Any, _context: Any, count: int, error: int) -> None:
            if pieces:
                ecb.WriteClient(pieces.pop(0), ASYNC)
            else:
                ecb.DoneWithSession(KEEP)

        self.head(5)
        self.ecb.IOCompletion(written)
        self.ecb.WriteClient(pieces.pop(0), ASYNC)
        return PENDING

    def echo(self) -> int:
        data = self.ecb.AvailableData + self.ecb.ReadClient()
        self.head(len(data))
        self.ecb.WriteClient(data)
        return KEEP

    def connid(self) -> int:
        self.note(f"connid {self.ecb.ConnID}")
        self.answer()
        return KEEP


class Extension(SimpleExtension):
    "Stories for tests"

    def HttpExtensionProc(self, ecb: Any) -> Any:
        return getattr(Story(ecb), Story(ecb).mode)()


class NonBlockingExtension(Extension):
    "Stories on the loop"

    NonBlocking = True


def __ExtensionFactory__() -> Extension:
    """A copy of this file whose name ends with `inline` is the non-blocking one."""
    return NonBlockingExtension() if __name__.endswith("inline") else Extension()
