"""Who we are to a server: frozen, comparable, hashable (they are part of a connection pool's key).

    Password("admin", "secret")     Password("admin", "secret", domain="LAB")
    NtHash("admin", bytes(16))      Anonymous()
    Ticket()                        Ticket("FILE:/tmp/krb5cc_1000")
    Keytab("/etc/oxid.keytab", principal="host/web@LAB.EXAMPLE")

No secret is ever in a `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from oxid.auth.md4 import md4
from oxid.errors import ConfigurationError


def nt_hash(password: str) -> bytes:
    """MD4 of the UTF-16 password: all NTLM ever needs of it. [MS-NLMP] 3.3.1"""
    return md4(password.encode("utf-16-le", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Password:
    """A user with a password; NTLM, SPNEGO, and Kerberos where a KDC answers."""

    user: str
    password: str = field(repr=False)
    domain: str = ""

    def nt_hash(self) -> bytes:
        """What NTLM knows of the password, 16 bytes."""
        return nt_hash(self.password)


@dataclass(frozen=True, slots=True)
class NtHash:
    """A user whose password is known only by its NT hash (16 bytes); NTLM."""

    user: str
    hash: bytes = field(repr=False)
    domain: str = ""

    def __post_init__(self) -> None:
        if len(self.hash) != 16:
            raise ConfigurationError(f"an NT hash has 16 bytes, not {len(self.hash)}")

    def nt_hash(self) -> bytes:
        """What NTLM knows of the password, 16 bytes."""
        return self.hash


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Nobody: an NTLM null session, which proves and protects nothing."""

    user: str = field(default="", init=False)
    domain: str = field(default="", init=False)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Kerberos tickets of a credential cache; without a name, the user's default cache."""

    ccache: str | None = None
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class Keytab:
    """A Kerberos principal whose keys are in a keytab file."""

    path: str
    principal: str | None = None


Credentials: TypeAlias = Password | NtHash | Anonymous | Ticket | Keytab
NtlmCredentials: TypeAlias = Password | NtHash | Anonymous
