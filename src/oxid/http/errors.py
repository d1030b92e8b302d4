"""What a request is refused with before anybody looks at what it wants."""

from __future__ import annotations

from oxid.errors import RemoteProtocolError


class BadRequest(RemoteProtocolError):
    """A request that cannot be understood, or is not wanted in this form; the connection is closed behind it."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code
        """The HTTP status to answer with."""
