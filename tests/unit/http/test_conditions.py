"""Conditional requests and ranges. RFC 9110 13, 14"""

from __future__ import annotations

import pytest

from oxid.http.conditions import Unsatisfiable, evaluate, range_applies, ranges_of
from oxid.http.dates import http_date, parse_http_date

AT = 784111777
TAG = b'"abc"'


def verdict(method: str = "GET", **headers: bytes) -> int:
    found = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return evaluate(method, found.get, TAG, AT)


def test_dates_there_and_back() -> None:
    assert http_date(AT) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert parse_http_date(http_date(AT)) == AT
    assert parse_http_date(b"Sunday, 06-Nov-94 08:49:37 GMT") == AT
    assert parse_http_date(b"Sun Nov  6 08:49:37 1994") == AT
    assert parse_http_date(b"yesterday") is None
    assert parse_http_date(b"\xff") is None


def test_entity_tags() -> None:
    assert verdict(if_none_match=b'"x", W/"abc"') == 304
    assert verdict("POST", if_none_match=b"*") == 412
    assert verdict(if_none_match=b'"x"') == 200
    assert verdict(if_match=b'"abc"') == 200
    assert verdict(if_match=b'W/"abc"') == 412
    assert verdict(if_match=b"*") == 200
    assert verdict(if_match=b'"x"') == 412


def test_dates_are_asked_only_without_tags() -> None:
    assert verdict(if_modified_since=http_date(AT)) == 304
    assert verdict(if_modified_since=http_date(AT - 1)) == 200
    assert verdict("POST", if_modified_since=http_date(AT)) == 200
    assert verdict(if_none_match=b'"x"', if_modified_since=http_date(AT)) == 200
    assert verdict(if_unmodified_since=http_date(AT - 1)) == 412
    assert verdict(if_unmodified_since=http_date(AT)) == 200
    assert verdict(if_unmodified_since=b"nonsense") == 200


def test_if_range() -> None:
    assert range_applies(None, TAG, AT)
    assert range_applies(TAG, TAG, AT)
    assert not range_applies(b'W/"abc"', TAG, AT)
    assert range_applies(http_date(AT), TAG, AT)
    assert not range_applies(http_date(AT + 1), TAG, AT)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"bytes=0-4", [(0, 4)]),
        (b"bytes=5-", [(5, 9)]),
        (b"bytes=-3", [(7, 9)]),
        (b"bytes=-30", [(0, 9)]),
        (b"bytes=0-0, 9-20", [(0, 0), (9, 9)]),
        (b"bytes=4-3", None),
        (b"bytes=-", None),
        (b"bytes=a-b", None),
        (b"lines=1-2", None),
        (b"bytes=0-4,", [(0, 4)]),
        (b"bytes=0-,0-,0-", None),
        (b"bytes=" + b"0-0," * 17, None),
    ],
)
def test_ranges_of_ten_bytes(value: bytes, found: list[tuple[int, int]] | None) -> None:
    assert ranges_of(value, 10) == found


@pytest.mark.parametrize("value", [b"bytes=10-", b"bytes=-0"])
def test_ranges_that_lie_outside(value: bytes) -> None:
    with pytest.raises(Unsatisfiable):
        ranges_of(value, 10)
