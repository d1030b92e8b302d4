"""Dates as HTTP writes them. RFC 9110 5.6.7"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(utc: float) -> bytes:
    """Seconds since 1970 as `Sun, 06 Nov 1994 08:49:37 GMT`."""
    at = datetime.fromtimestamp(int(utc), UTC)
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    ).encode("ascii")


def parse_http_date(value: bytes) -> int | None:
    """Seconds since 1970; None for what is no date, which is then ignored as if it were not there."""
    try:
        at = parsedate_to_datetime(value.decode("ascii"))
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return int(at.timestamp())
    except (ValueError, TypeError, OverflowError, UnicodeDecodeError):
        return None
