"""Who is calling, and nobody changed what they said: NTLM, SPNEGO and Kerberos as step machines.

credentials    who we are                    accounts, account_file   who may come
authenticator  the two doors                 context                  what every context looks like
ntlm, kerberos, spnego                       the providers
"""

from oxid.auth.accounts import Account, AccountStore, MemoryAccountStore, find_account
from oxid.auth.authenticator import Authenticator, initiator
from oxid.auth.context import SEC_TRAILER_SIZE, AuthLevel, AuthType, Impersonation, SecurityContext
from oxid.auth.credentials import Anonymous, Credentials, Keytab, NtHash, Password, Ticket, nt_hash
from oxid.auth.failures import FailureLimiter
from oxid.auth.ntlm import ServerNames, check_proof

__all__ = [
    "SEC_TRAILER_SIZE",
    "Account",
    "AccountStore",
    "Anonymous",
    "AuthLevel",
    "AuthType",
    "Authenticator",
    "Credentials",
    "FailureLimiter",
    "Impersonation",
    "Keytab",
    "MemoryAccountStore",
    "NtHash",
    "Password",
    "SecurityContext",
    "ServerNames",
    "Ticket",
    "check_proof",
    "find_account",
    "initiator",
    "nt_hash",
]
