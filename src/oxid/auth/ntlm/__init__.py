"""NTLM, version 2 responses only. [MS-NLMP]

messages   the three messages and AV pairs
keys       what is derived from what
initiator, acceptor   the two ends of the handshake
session    signatures on PDUs
"""

from oxid.auth.ntlm.acceptor import AcceptorHandshake, ServerNames, check_proof
from oxid.auth.ntlm.initiator import InitiatorHandshake
from oxid.auth.ntlm.session import NtlmContext

__all__ = ["AcceptorHandshake", "InitiatorHandshake", "NtlmContext", "ServerNames", "check_proof"]
