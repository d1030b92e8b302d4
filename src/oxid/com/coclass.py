"""Declaring a class that clients can activate, and the table a host looks them up in. [MS-DCOM] 1.3.1

    @coclass("B81BB948-688D-436A-9EBA-5F37813E2375", progid="Oxid.Calculator", implements=[ICalculator])
    class Calculator:
        def add(self, a: int, b: int) -> int: ...

Methods are plain or `async def`; one marked `@blocking` runs in a thread. An exception is the answer: a
`StatusError` with its HRESULT, any other with E_FAIL, logged here and told to nobody else. A class may define
`final_release(self)`: called once, when the last client has gone; a plain method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar
from uuid import UUID

from oxid.errors import ConfigurationError
from oxid.rpc.interface import InterfaceSpec, spec_of

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class CoClass:
    """What is known of a class: its identifiers, the interfaces of its objects and how one is made."""

    clsid: UUID
    factory: Callable[[], Any]
    interfaces: tuple[InterfaceSpec, ...]
    progid: str | None = None
    appid: UUID | None = None
    error_info: bool = True
    """Whether objects answer ISupportErrorInfo."""
    noping: bool = False
    """Clients do not ping its objects: they live until they are released, or their process ends."""

    def interface(self, iid: UUID) -> InterfaceSpec | None:
        """The interface `iid` of the class's objects, None if they have none such."""
        return next((spec for spec in self.interfaces if spec.uuid == iid), None)


def coclass(
    clsid: str | UUID,
    *,
    implements: Sequence[type[Any]],
    progid: str | None = None,
    appid: str | UUID | None = None,
    noping: bool = False,
) -> Callable[[C], C]:
    """Mark a class as one that `serve` offers; `implements` lists its interfaces, the default one first.

    With `noping` clients do not ping its objects (SORF_NOPING): one whose client died without a release stays.
    """

    def mark(cls: C) -> C:
        specs: list[InterfaceSpec] = []
        for declared in implements:
            spec = spec_of(declared)
            if not spec.is_object:
                raise ConfigurationError(f"{spec.name} is not a COM interface: derive it from IUnknown")
            for operation in spec.operations.values():
                if not callable(getattr(cls, operation.method, None)):
                    raise ConfigurationError(
                        f"{cls.__name__} has no method {operation.method} of {spec.name}"
                    )
            specs.append(spec)
        if inspect.iscoroutinefunction(getattr(cls, "final_release", None)):
            raise ConfigurationError(f"{cls.__name__}.final_release is a plain method: nobody awaits it")
        described = CoClass(
            UUID(str(clsid)),
            cls,
            tuple(specs),
            progid,
            UUID(str(appid)) if appid is not None else None,
            noping=noping,
        )
        cls.__oxid_coclass__ = described  # type: ignore[attr-defined]
        return cls

    return mark


def coclass_of(cls: Any) -> CoClass:
    """The description `@coclass` left on a class."""
    described: CoClass | None = cls.__dict__.get("__oxid_coclass__") if inspect.isclass(cls) else None
    if described is None:
        raise ConfigurationError(f"{cls!r} is not marked with @coclass")
    return described


def coclasses_in(module: ModuleType) -> list[CoClass]:
    """The classes of a module that are marked with `@coclass`."""
    return [
        value.__dict__["__oxid_coclass__"]
        for value in vars(module).values()
        if inspect.isclass(value) and "__oxid_coclass__" in value.__dict__
    ]


class ClassTable:
    """The classes a host offers, by CLSID and ProgID."""

    def __init__(self, classes: Iterable[CoClass] = ()) -> None:
        self._by_clsid: dict[UUID, CoClass] = {}
        for described in classes:
            self.add(described)

    def add(self, described: CoClass) -> None:
        """Offer a class; the same one again is no harm. Raises ConfigurationError for another of its CLSID."""
        if self._by_clsid.get(described.clsid, described) is not described:
            raise ConfigurationError(f"class {described.clsid} is registered twice")
        self._by_clsid[described.clsid] = described

    def find(self, clsid: UUID) -> CoClass | None:
        return self._by_clsid.get(clsid)

    def __iter__(self) -> Iterator[CoClass]:
        return iter(self._by_clsid.values())

    def __len__(self) -> int:
        return len(self._by_clsid)

    def __repr__(self) -> str:
        return f"<ClassTable {len(self)} classes>"
