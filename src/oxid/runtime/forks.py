"""A child of a fork has its parent's sockets, and must not use them: in the child they end at once.

    forks.watch(owner)          owner.descriptors() and owner.after_fork() are called in every child
    forks.forget(owner)

Else a killed parent would look alive to everybody for as long as a child of it lives, and a child that calls would
call in its parent's name, under sequence numbers that its parent uses as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Protocol


class Owner(Protocol):
    """Who has sockets that are nobody else's."""

    def descriptors(self) -> Iterable[int]:
        """Its open sockets."""
        ...

    def after_fork(self) -> None:
        """We are in a child, and the sockets are gone."""
        ...


class Sockets:
    """Sockets of whoever needs no word of a fork."""

    __slots__ = ("_descriptors",)

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._descriptors = tuple(descriptors)

    def descriptors(self) -> Iterable[int]:
        return self._descriptors

    def after_fork(self) -> None:
        pass


_owners: Final[set[Owner]] = set()
watch: Final = _owners.add
forget: Final = _owners.discard


def _in_the_child() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for owner in list(_owners):
        for descriptor in owner.descriptors():
            if descriptor >= 0:
                os.dup2(
                    nowhere, descriptor, inheritable=False
                )  # the number stays taken: its socket object lives on
        owner.after_fork()
    os.close(nowhere)
    _owners.clear()


os.register_at_fork(after_in_child=_in_the_child)
