"""Making objects of the host's classes: class objects, instances, and the references to them. [MS-DCOM] 3.1.2.5.2"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from oxid.com.coclass import ClassTable, CoClass
from oxid.com.exporter import MARSHAL_REFS, Exporter
from oxid.com.interface_pointers import TypedPointer, interface_of
from oxid.com.reference_table import InterfacePointer
from oxid.errors import error_for, hresult
from oxid.interfaces.class_factory import IClassFactory
from oxid.rpc.interface import InterfaceSpec
from oxid.values import status as s
from oxid.values.status import HResult

MAX_LOCKS: Final = 0x7FFF_FFFF


class ClassFactory(IClassFactory):
    """A class object: makes instances of one class. [MS-DCOM] 3.2.4.1.3"""

    def __init__(self, described: CoClass, on_unlocked: Callable[[], object]) -> None:
        self._described = described
        self._on_unlocked = on_unlocked
        self.locks = 0

    def create_instance(self, iid: UUID) -> TypedPointer:  # type: ignore[override]  # plain: nothing in it waits
        """A new object, as its interface `iid`. Raises NoSuchInterface; no client ever saw the object then."""
        target = self._described.factory()
        spec = interface_of(target, iid)
        if spec is None:
            raise hresult(s.E_NOINTERFACE)
        return TypedPointer(target, spec)

    def lock_server(self, lock: bool) -> None:  # type: ignore[override]  # as above
        """Count the clients that want the server kept: a local server does not end meanwhile."""
        self.locks = min(self.locks + 1, MAX_LOCKS) if lock else max(self.locks - 1, 0)
        if not lock and not self.locks:
            self._on_unlocked()

    def final_release(self) -> None:
        """The last client is gone, and so are the locks that it may have left."""
        if self.locks:
            self.locks = 0
            self._on_unlocked()


class ClassObjects:
    """Makes what activations ask for, in one exporter."""

    def __init__(self, exporter: Exporter, classes: ClassTable) -> None:
        self._exporter = exporter
        self._classes = classes
        self._factories: dict[UUID, ClassFactory] = {}
        self.on_unlocked: Callable[[], object] = lambda: None
        """Hears when a class object loses its last lock."""

    @property
    def locked(self) -> bool:
        """Whether a client wants the server kept."""
        return any(factory.locks for factory in self._factories.values())

    def instance(self, clsid: UUID) -> Any:
        """A new object. Raises ClassNotRegistered."""
        return self._find(clsid).factory()

    def class_object(self, clsid: UUID) -> ClassFactory:
        """The class object, the same one for every client. Raises ClassNotRegistered."""
        described = self._find(clsid)
        factory = self._factories.get(clsid)
        if factory is None:
            factory = self._factories[clsid] = ClassFactory(described, lambda: self.on_unlocked())
        return factory

    def references(
        self, target: Any, iids: tuple[UUID, ...], who: str | None = None
    ) -> list[tuple[UUID, int, bytes | None]]:
        """(IID, HRESULT, OBJREF) for each interface; where all failed, `target` is not exported. `who` gets them.

        Where it raises, no reference has been granted.
        """
        specs: list[InterfaceSpec | None] = [interface_of(target, iid) for iid in iids]
        if not any(specs):
            return [(iid, s.E_NOINTERFACE, None) for iid in iids]
        results: list[tuple[UUID, int, bytes | None]] = []
        granted: list[tuple[InterfacePointer, int]] = []
        try:
            for iid, spec in zip(iids, specs, strict=True):
                if spec is None:
                    results.append((iid, s.E_NOINTERFACE, None))
                else:
                    pointer = self._exporter.pointer_to(target, spec)
                    reference = self._exporter.objref(pointer, who=who)
                    granted.append((pointer, MARSHAL_REFS))
                    results.append((iid, s.S_OK, reference))
        except BaseException:
            for pointer, refs in granted:
                self._exporter.table.release_refs(pointer, refs)
            raise
        return results

    def _find(self, clsid: UUID) -> CoClass:
        described = self._classes.find(clsid)
        if described is None:
            raise error_for(HResult(s.REGDB_E_CLASSNOTREG), f"class {{{clsid}}} is not served here")
        return described
