"""Fixtures for the tests with programs of other people."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.absent import absent
from tests.support.netns import NetworkNamespace


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetworkNamespace]:
    """A network of the module's own, where ports 135 and 88 are free."""
    try:
        made = NetworkNamespace()
    except OSError as error:
        absent(str(error))
    with made:
        yield made
