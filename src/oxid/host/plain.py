"""Plain RPC interfaces that a host serves beside its classes."""

from __future__ import annotations

from typing import Any

from oxid.rpc.interface import spec_of


class PlainInterface:
    """A plain RPC interface to serve, with the object that answers it."""

    __slots__ = ("annotation", "implementation", "spec")

    def __init__(self, interface: type[Any], implementation: object, annotation: str = "") -> None:
        self.spec = spec_of(interface)
        self.implementation = implementation
        self.annotation = annotation or self.spec.name
