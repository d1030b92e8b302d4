"""The management interface of every endpoint: who is here, how busy, under which name. [C706] appendix Q

Read-only for remote callers: stopping a server is refused.
"""

from __future__ import annotations

from typing import Any, Final

from oxid.errors import BadStubData, OxidError
from oxid.interfaces.management import RpcIfId, RpcIfIdVector
from oxid.rpc.server_core import ServerCore
from oxid.values import status as s

RPC_S_UNKNOWN_AUTHN_SERVICE: Final = 1747
ERROR_INSUFFICIENT_BUFFER: Final = 122


class Management:
    """Answers about one server."""

    __slots__ = ("_core",)

    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def inq_if_ids(self) -> tuple[RpcIfIdVector, int]:
        return RpcIfIdVector(
            ids=[RpcIfId(r.syntax.uuid, r.syntax.major, r.syntax.minor) for r in self._core.registry]
        ), 0

    def inq_stats(self, count: int) -> tuple[list[int], int]:
        core = self._core
        counters = [core.calls_in, core.calls_out, core.packets_in, core.packets_out]
        return [value & 0xFFFF_FFFF for value in counters[:count]], 0

    def is_server_listening(self) -> tuple[int, int]:
        return 0, int(self._core.serving)

    def stop_server_listening(self) -> int:
        return s.ERROR_ACCESS_DENIED

    def inq_princ_name(self, authn_proto: int, princ_name_size: int) -> tuple[str, int]:
        if not princ_name_size:
            raise BadStubData("a principal name needs room for its terminator")
        acceptors: Any = self._core.acceptors
        try:
            name = acceptors.principal_name(authn_proto)
            acceptors.acceptor(authn_proto, 2).close()
        except (AttributeError, OxidError):
            return "", RPC_S_UNKNOWN_AUTHN_SERVICE
        if princ_name_size < len(name) + 1:
            return "", ERROR_INSUFFICIENT_BUFFER
        return name, 0
