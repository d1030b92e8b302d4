"""Connections that a test turned by hand end with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oxid.testing.raw_rpc import close_turned


@pytest.fixture(autouse=True)
def turned_connections_end() -> Iterator[None]:
    yield
    close_turned()
