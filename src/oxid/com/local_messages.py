"""How DCOM's things are written in messages between processes of one machine: as plain JSON values.

What a process tells its machine's resolver, by part:

    hello       who it is                                          export       an exporter listens
    target      a resolver elsewhere, and who we are to it         reserve      identifiers for its objects
    hold        objects there that it holds; let_go ends it        objects      what was exported, marshalled, dropped
    gone        a call found these dead                            withdraw     the exporter ends
    suspect     their exporter may be gone                         endpoint     a plain interface listens
    learn       an identity that was accepted                      register     a class object is ready; revoke, suspend
    goodbye     tell what was let go, now                          listen       where the resolver is to be reached

and what it is asked and told: `reclaim`, `activate`, `dead`, `record`, `counts`, `stop`.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from oxid.auth.context import AuthType, Impersonation
from oxid.auth.credentials import Anonymous, Credentials, Keytab, NtHash, Password, Ticket
from oxid.com.activation_properties import ActivationOut, InterfaceResult
from oxid.com.options import Blanket, Capabilities
from oxid.com.orpc import ComVersion
from oxid.com.ping_agent import PingTarget
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding

VERSION: Final = 1
"""Of these messages. Processes of one machine may be of different releases while one is installed."""

ENVIRONMENT_CHANNEL: Final = "OXID_RPCSS"
"""Tells a local server where its resolver's local channel is."""
ENVIRONMENT_LAUNCH: Final = "OXID_LAUNCH"
"""Tells a local server which launch it is the answer to."""


def bindings_to_json(bindings: DualStringArray) -> dict[str, Any]:
    return {
        "strings": [[b.tower_id, b.host, b.endpoint] for b in bindings.strings],
        "security": [[b.authn_service, b.principal] for b in bindings.security],
    }


def bindings_of(raw: Any) -> DualStringArray:
    return DualStringArray(
        tuple(DcomBinding(int(tower), str(host), str(endpoint)) for tower, host, endpoint in raw["strings"]),
        tuple(SecurityBinding(int(service), str(name)) for service, name in raw["security"]),
    )


def credentials_to_json(credentials: Credentials | None) -> dict[str, Any] | None:
    """Secrets included: a channel leads only to processes of the same user, or of root."""
    match credentials:
        case None:
            return None
        case Password(user, password, domain):
            return {"as": "password", "user": user, "password": password, "domain": domain}
        case NtHash(user, nt_hash, domain):
            return {"as": "hash", "user": user, "hash": nt_hash.hex(), "domain": domain}
        case Anonymous():
            return {"as": "anonymous"}
        case Ticket(ccache, principal):
            return {"as": "ticket", "ccache": ccache, "principal": principal}
        case Keytab(path, principal):
            return {"as": "keytab", "path": path, "principal": principal}
    raise TypeError(f"{type(credentials).__name__} are no credentials")


def credentials_of(raw: Any) -> Credentials | None:
    if raw is None:
        return None
    match raw["as"]:
        case "password":
            return Password(raw["user"], raw["password"], raw["domain"])
        case "hash":
            return NtHash(raw["user"], bytes.fromhex(raw["hash"]), raw["domain"])
        case "anonymous":
            return Anonymous()
        case "ticket":
            return Ticket(raw["ccache"], raw["principal"])
        case "keytab":
            return Keytab(raw["path"], raw["principal"])
    raise ValueError(f"credentials of kind {raw['as']!r} are not known")


def blanket_to_json(blanket: Blanket) -> dict[str, Any]:
    return {
        "who": credentials_to_json(blanket.credentials),
        "level": int(blanket.level),
        "provider": None if blanket.auth_type is None else int(blanket.auth_type),
        "target": blanket.target_name,
        "impersonation": int(blanket.impersonation),
        "capabilities": int(blanket.capabilities),
    }


def blanket_of(raw: Any) -> Blanket:
    provider = raw["provider"]
    return Blanket(
        credentials_of(raw["who"]),
        int(raw["level"]),
        None if provider is None else AuthType(provider),
        str(raw["target"]),
        Impersonation(raw["impersonation"]),
        Capabilities(raw["capabilities"]),
    )


def target_to_json(target: PingTarget) -> dict[str, Any]:
    return {
        "resolver": [list(place) for place in target.resolver],
        "fallback": [list(place) for place in target.fallback],
        "ladder": [blanket_to_json(blanket) for blanket in target.ladder],
        "period": target.period,
    }


def target_of(raw: Any) -> PingTarget:
    return PingTarget(
        tuple((str(host), int(port)) for host, port in raw["resolver"]),
        tuple(blanket_of(blanket) for blanket in raw["ladder"]),
        float(raw["period"]),
        tuple((str(host), int(port)) for host, port in raw["fallback"]),
    )


def activation_to_json(out: ActivationOut) -> dict[str, Any]:
    return {
        "oxid": out.oxid,
        "bindings": bindings_to_json(out.bindings),
        "unknown": str(out.ipid_rem_unknown),
        "hint": out.authn_hint,
        "version": list(out.version),
        "interfaces": [
            [str(i.iid), i.hresult, None if i.objref is None else i.objref.hex()] for i in out.interfaces
        ],
    }


def activation_of(raw: Any) -> ActivationOut:
    major, minor = raw["version"]
    return ActivationOut(
        int(raw["oxid"]),
        bindings_of(raw["bindings"]),
        UUID(raw["unknown"]),
        int(raw["hint"]),
        ComVersion(int(major), int(minor)),
        tuple(
            InterfaceResult(UUID(iid), int(code), None if objref is None else bytes.fromhex(objref))
            for iid, code, objref in raw["interfaces"]
        ),
    )
