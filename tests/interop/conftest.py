"""Fixtures for the tests with programs of other people."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.support.netns import NetworkNamespace


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetworkNamespace]:
    """A network of the module's own, where ports 135 and 88 are free."""
    try:
        made = NetworkNamespace()
    except OSError as error:
        reason = f"peer missing: {error}"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with made:
        yield made
