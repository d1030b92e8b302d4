"""The management interface that every RPC endpoint serves. [C706] appendix Q, rpce.md §6"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final
from uuid import UUID

from oxid.ndr.types import (
    U16,
    U32,
    AStr,
    Conformant,
    ErrorStatus,
    Guid,
    Range,
    Unique,
    count_of,
    struct,
)
from oxid.rpc.interface import interface, operation

MANAGEMENT_ID: Final = UUID("afa8bd80-7d8a-11c9-bef4-08002b102989")
MANAGEMENT_VERSION: Final = (1, 0)


@struct
class RpcIfId:
    """rpc_if_id_t: an interface and its version."""

    uuid: Guid
    major: U16
    minor: U16


@struct
class RpcIfIdVector:
    """rpc_if_id_vector_t"""

    count: ClassVar = count_of("ids", U32)
    ids: Conformant[Unique[RpcIfId]]


@interface(MANAGEMENT_ID, version=MANAGEMENT_VERSION)
class IManagement:
    """What an RPC server offers and how busy it is."""

    @operation(0, name="inq_if_ids", out=("if_id_vector", "status"))
    def inq_if_ids(self) -> tuple[Unique[RpcIfIdVector], ErrorStatus]:
        """The interfaces registered here."""
        raise NotImplementedError

    @operation(
        1,
        name="inq_stats",
        reply=(count_of("statistics", U32, name="count"), "statistics", "status"),
        out=("statistics", "status"),
    )
    def inq_stats(self, count: U32) -> tuple[Conformant[U32], ErrorStatus]:
        """Up to `count` counters: calls received, calls sent, packets received, packets sent."""
        raise NotImplementedError

    @operation(2, name="is_server_listening", out=("status", "result"))
    def is_server_listening(self) -> tuple[ErrorStatus, U32]:
        """Whether calls are taken (the result, a boolean32)."""
        raise NotImplementedError

    @operation(3, name="stop_server_listening", out="status")
    def stop_server_listening(self) -> ErrorStatus:
        """Refused for remote callers unless a policy allows it."""
        raise NotImplementedError

    @operation(
        4, name="inq_princ_name", out=("princ_name", "status"), correlate={"princ_name": "princ_name_size"}
    )
    def inq_princ_name(
        self, authn_proto: U32, princ_name_size: Annotated[U32, Range(0, 4096)]
    ) -> tuple[AStr, ErrorStatus]:
        """The principal a client names for this authentication service."""
        raise NotImplementedError
