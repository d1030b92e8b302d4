"""One operation of Netlogon, which Samba's raw protocol tests call: it takes long requests from anybody."""

from __future__ import annotations

from typing import Annotated

from oxid import PlainInterface
from oxid.ndr.types import NTSTATUS, ArrayOf, Str, Unique
from oxid.rpc.interface import interface, operation

Credential = Annotated[bytes, ArrayOf(8)]


@interface("12345678-1234-abcd-ef00-01234567cffb", version=(1, 0), name="netlogon")
class INetlogon:
    """[MS-NRPC] 3.5.4"""

    @operation(4, out=("credential", "status"))
    async def netr_server_req_challenge(
        self, server_name: Unique[Str], computer_name: Str, challenge: Credential
    ) -> tuple[Credential, NTSTATUS]:
        """Exchange challenges. [MS-NRPC] 3.5.4.4.1"""
        raise NotImplementedError


class Netlogon:
    def netr_server_req_challenge(
        self, server_name: str | None, computer_name: str, challenge: bytes
    ) -> tuple[bytes, int]:
        return challenge[::-1], 0


NETLOGON = PlainInterface(INetlogon, Netlogon())
