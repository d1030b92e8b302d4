"""Connection points: how an object offers events, and how a client hands it a sink. ocidl.idl of the Windows SDK

    IConnectionPointContainer  -> IConnectionPoint (one per sink interface)  -> Advise(sink) gives a cookie

The enumerators' local Next cannot travel with NULL for its count; their remote forms are here.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from oxid.interfaces.unknown import IUnknown
from oxid.ndr.types import HRESULT, U32, ConformantVarying, Guid, InterfacePointer, count_of, struct
from oxid.rpc.interface import interface, operation

IID_ICONNECTIONPOINTCONTAINER: Final = UUID("b196b284-bab4-101a-b69c-00aa00341d07")
IID_IENUMCONNECTIONPOINTS: Final = UUID("b196b285-bab4-101a-b69c-00aa00341d07")
IID_ICONNECTIONPOINT: Final = UUID("b196b286-bab4-101a-b69c-00aa00341d07")
IID_IENUMCONNECTIONS: Final = UUID("b196b287-bab4-101a-b69c-00aa00341d07")


@struct
class ConnectData:
    """CONNECTDATA: a sink and its cookie."""

    sink: InterfacePointer[IUnknown]
    cookie: U32


class ConnectionPointsReply(NamedTuple):
    points: ConformantVarying[InterfacePointer[IConnectionPoint]]
    hresult: HRESULT


class ConnectionsReply(NamedTuple):
    connections: ConformantVarying[ConnectData]
    hresult: HRESULT


@interface(IID_IENUMCONNECTIONPOINTS)
class IEnumConnectionPoints(IUnknown):
    """The connection points of an object, in pieces."""

    @operation(
        3,
        name="RemoteNext",
        reply=("points", count_of("points", U32, name="pcFetched"), "hresult"),
        correlate={"points": "most"},
        names={"most": "cConnections"},
    )
    async def next(self, most: U32) -> ConnectionPointsReply:
        """At most so many more; S_FALSE where there are fewer."""
        raise NotImplementedError

    @operation(4, out="hresult", names={"count": "cConnections"})
    async def skip(self, count: U32) -> HRESULT:
        """Leave some out; S_FALSE where there are fewer."""
        raise NotImplementedError

    @operation(5)
    async def reset(self) -> None:
        """Begin again."""
        raise NotImplementedError

    @operation(6, out="ppEnum")
    async def clone(self) -> InterfacePointer[IEnumConnectionPoints]:
        """Another enumerator that stands at the same place."""
        raise NotImplementedError


@interface(IID_ICONNECTIONPOINTCONTAINER)
class IConnectionPointContainer(IUnknown):
    """An object that has events."""

    @operation(3, out="ppEnum")
    async def enum_connection_points(self) -> InterfacePointer[IEnumConnectionPoints]:
        """All its connection points."""
        raise NotImplementedError

    @operation(4, out="ppCP", names={"iid": "riid"})
    async def find_connection_point(self, iid: Guid) -> InterfacePointer[IConnectionPoint]:
        """The connection point for sinks of an interface. CONNECT_E_NOCONNECTION where it has none such."""
        raise NotImplementedError


@interface(IID_IENUMCONNECTIONS)
class IEnumConnections(IUnknown):
    """The sinks of a connection point, in pieces."""

    @operation(
        3,
        name="RemoteNext",
        reply=("connections", count_of("connections", U32, name="pcFetched"), "hresult"),
        correlate={"connections": "most"},
        names={"most": "cConnections"},
    )
    async def next(self, most: U32) -> ConnectionsReply:
        """At most so many more; S_FALSE where there are fewer."""
        raise NotImplementedError

    @operation(4, out="hresult", names={"count": "cConnections"})
    async def skip(self, count: U32) -> HRESULT:
        """Leave some out; S_FALSE where there are fewer."""
        raise NotImplementedError

    @operation(5)
    async def reset(self) -> None:
        """Begin again."""
        raise NotImplementedError

    @operation(6, out="ppEnum")
    async def clone(self) -> InterfacePointer[IEnumConnections]:
        """Another enumerator that stands at the same place."""
        raise NotImplementedError


@interface(IID_ICONNECTIONPOINT)
class IConnectionPoint(IUnknown):
    """Where sinks of one interface are handed in."""

    @operation(3, out="pIID")
    async def get_connection_interface(self) -> Guid:
        """The interface that its sinks must have."""
        raise NotImplementedError

    @operation(4, out="ppCPC")
    async def get_connection_point_container(self) -> InterfacePointer[IConnectionPointContainer]:
        """The object that it belongs to."""
        raise NotImplementedError

    @operation(5, out="pdwCookie", names={"sink": "pUnkSink"})
    async def advise(self, sink: InterfacePointer[IUnknown]) -> U32:
        """Send events to a sink from now on; the cookie by which that ends.

        CONNECT_E_CANNOTCONNECT for an object without the interface, CONNECT_E_ADVISELIMIT where there are enough.
        """
        raise NotImplementedError

    @operation(6, names={"cookie": "dwCookie"})
    async def unadvise(self, cookie: U32) -> None:
        """Send no more events to a sink. CONNECT_E_NOCONNECTION for an unknown cookie."""
        raise NotImplementedError

    @operation(7, out="ppEnum")
    async def enum_connections(self) -> InterfacePointer[IEnumConnections]:
        """All its sinks."""
        raise NotImplementedError
