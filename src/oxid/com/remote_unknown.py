"""The exporter's side of IRemUnknown and IRemUnknown2: queries and reference counts. [MS-DCOM] 3.1.1.5.6, 3.1.1.5.7"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from oxid.com.exporter import Exporter, caller_name
from oxid.com.flight_record import Kind
from oxid.com.reference_table import ExportedObject, InterfacePointer
from oxid.errors import StatusError, hresult, hresult_for
from oxid.interfaces.remote_unknown import IRemUnknown2, RemInterfaceRef, RemQiResult, StdObjRef
from oxid.rpc.interface import spec_of
from oxid.values import status as s

_NIL: Final = UUID(int=0)
_NOTHING: Final = StdObjRef(0, 0, 0, 0, _NIL)


class RemoteUnknown(IRemUnknown2):
    """One per exporter: an object like the others, but pinned, and never released by clients."""

    def __init__(self, exporter: Exporter, caller: Callable[[], str] = caller_name) -> None:
        """`caller` names the authenticated user of the call that runs, or is empty: private references are
        counted for that user alone."""
        self._exporter = exporter
        self._caller = caller
        self._note = exporter.link.note
        exported = exporter.export(self, pinned=True)
        self.pointer = exporter.pointer(exported, spec_of(IRemUnknown2))

    def rem_query_interface(  # type: ignore[override]  # plain: nothing in it waits
        self, ipid: UUID, refs: int, iids: Sequence[UUID]
    ) -> list[RemQiResult]:
        """One result per IID; an interface that was queried before keeps its IPID."""
        exported = self._object(ipid)
        results = []
        for iid in iids:
            pointer = self._exporter.query(exported, iid)
            if pointer is None:
                results.append(RemQiResult(s.E_NOINTERFACE, _NOTHING))
            elif not self._exporter.table.add_refs(pointer, refs):
                results.append(RemQiResult(s.E_OUTOFMEMORY, _NOTHING))
            else:
                self._note(exported.oid, Kind.QUERIED, self._caller(), refs)
                std = StdObjRef(0, refs, self._exporter.oxid, exported.oid, UUID(bytes_le=pointer.ipid))
                results.append(RemQiResult(s.S_OK, std))
        return results

    def rem_query_interface2(  # type: ignore[override]  # as above
        self, ipid: UUID, iids: Sequence[UUID]
    ) -> tuple[list[int], list[bytes | None]]:
        """The same with OBJREFs as answers; how many references they carry is ours to choose."""
        exported = self._object(ipid)
        codes: list[int] = []
        references: list[bytes | None] = []
        for iid in iids:
            pointer = self._exporter.query(exported, iid)
            code, reference = s.E_NOINTERFACE, None
            if pointer is not None:
                try:
                    code, reference = s.S_OK, self._exporter.objref(pointer)
                except StatusError as error:  # too many references to this interface: the others are answered
                    code = hresult_for(error)
            codes.append(code)
            references.append(reference)
        return codes, references

    def rem_add_ref(self, refs: Sequence[RemInterfaceRef]) -> list[int]:  # type: ignore[override]  # as above
        """An unknown IPID fails in its own slot only."""
        owner = self._caller()
        results = []
        for wanted in refs:
            pointer = self._countable(wanted.ipid)
            if pointer is None:
                results.append(s.CO_E_OBJNOTREG)
            elif wanted.private_refs and not owner:
                results.append(s.E_ACCESSDENIED)
            elif self._exporter.table.add_refs(pointer, wanted.public_refs, wanted.private_refs, owner):
                pointer.exported.last_call = self._exporter.world.clock.now()
                added = wanted.public_refs + wanted.private_refs
                self._note(pointer.exported.oid, Kind.ADD_REF, owner, added)
                results.append(s.S_OK)
            else:
                results.append(s.E_OUTOFMEMORY)
        return results

    def rem_release(self, refs: Sequence[RemInterfaceRef]) -> None:  # type: ignore[override]  # as above
        """Unknown IPIDs are ignored: they were released already. The remote unknown itself is never released."""
        owner = self._caller()
        for given in refs:
            pointer = self._countable(given.ipid)
            if pointer is not None:
                private = given.private_refs if owner else 0
                self._note(pointer.exported.oid, Kind.RELEASE, owner, given.public_refs + private)
                self._exporter.table.release_refs(pointer, given.public_refs, private, owner)

    def _object(self, ipid: UUID) -> ExportedObject:
        pointer = self._exporter.table.by_ipid.get(ipid.bytes_le)
        if pointer is None:
            raise hresult(s.RPC_E_INVALID_OBJECT)
        exported = pointer.exported
        exported.last_call = self._exporter.world.clock.now()
        return exported

    def _countable(self, ipid: UUID) -> InterfacePointer | None:
        pointer = self._exporter.table.by_ipid.get(ipid.bytes_le)
        return None if pointer is self.pointer else pointer
