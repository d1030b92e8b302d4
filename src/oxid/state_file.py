"""Files in a state directory that several processes read and change: locked while they change, replaced in one step.

with locked(path):
    text = ...                       read, change
    replace_text(path, text)         mode 0600; readers see the old file or the new one
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oxid.errors import ConfigurationError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file; readers are not kept waiting. ConfigurationError"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot change {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Put a file in place of what is there, durably. Raises OSError."""
    # mkstemp makes the file 0600, and it keeps that mode under its new name.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
