"""Presentation contexts: which interface in which transfer syntax an id stands for. [MS-RPCE] 3.3.1.5.3, 3.3.1.5.6

    registry = InterfaceRegistry()
    registry.add(Registration(spec, handler))
    results, contexts = negotiate(elements, registry, contexts, limits)

The tables are immutable and shared by all connections that negotiated the same: most connections of a server do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

from oxid.errors import ConfigurationError, RemoteProtocolError
from oxid.ndr.syntax import Syntax
from oxid.rpc.pdu import NO_SYNTAX, ContextElement, ContextResult, SyntaxId

if TYPE_CHECKING:
    from oxid.rpc.calls import ServerCall

NDR20: Final = SyntaxId(UUID("8a885d04-1ceb-11c9-9fe8-08002b104860"), 2)
NDR64: Final = SyntaxId(UUID("71710533-beba-4937-8319-b5dbef9ccc36"), 1)

_FEATURE_PREFIX: Final = UUID("6cb71c2c-9812-4540-0000-000000000000").bytes_le[:8]
FEATURE_MULTIPLE_SECURITY: Final = 0x0001
"""Several security contexts on one connection. [MS-RPCE] 3.3.1.5.4"""
FEATURE_KEEP_ON_ORPHAN: Final = 0x0002
"""The connection survives an ORPHANED. [MS-RPCE] 3.3.1.5.10"""
FEATURE_LARGE_FRAGMENTS: Final = 0x4F58_0000_0000_0000
"""Private to oxid, "OX" in the two top bytes and nothing else there: fragments up to `Limits.large_fragment`."""

# Results and reasons of a presentation context. [C706] 12.6.3.1
ACCEPTANCE: Final = 0
USER_REJECTION: Final = 1
PROVIDER_REJECTION: Final = 2
NEGOTIATE_ACK: Final = 3
REASON_NONE: Final = 0
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 1
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 2
LOCAL_LIMIT_EXCEEDED: Final = 3

_REJECT_ABSTRACT: Final = ContextResult(PROVIDER_REJECTION, ABSTRACT_SYNTAX_NOT_SUPPORTED, NO_SYNTAX)
_REJECT_TRANSFER: Final = ContextResult(PROVIDER_REJECTION, TRANSFER_SYNTAXES_NOT_SUPPORTED, NO_SYNTAX)
_REJECT_LIMIT: Final = ContextResult(PROVIDER_REJECTION, LOCAL_LIMIT_EXCEEDED, NO_SYNTAX)

Handler: TypeAlias = "Callable[[ServerCall], Any]"
"""Gets a call, returns the reply buffer or a coroutine of it."""


def feature_syntax(features: int) -> SyntaxId:
    """The transfer syntax by which a client asks for bind-time features. [MS-RPCE] 3.3.1.5.3"""
    return SyntaxId(UUID(bytes_le=_FEATURE_PREFIX + features.to_bytes(8, "little")), 1)


def features_of(syntax: SyntaxId) -> int | None:
    """The features a syntax asks for, None where it is an ordinary transfer syntax."""
    raw = syntax.uuid.bytes_le
    if syntax.version == 1 and raw[:8] == _FEATURE_PREFIX:
        return int.from_bytes(raw[8:], "little")
    return None


def feature_result(features: int) -> ContextResult:
    """The answer to a bind-time feature element; the private bit comes back in the reason's top bit."""
    reason = features & (FEATURE_MULTIPLE_SECURITY | FEATURE_KEEP_ON_ORPHAN)
    if asks_large_fragments(features):
        reason |= REASON_LARGE_FRAGMENTS
    return ContextResult(NEGOTIATE_ACK, reason, NO_SYNTAX)


REASON_LARGE_FRAGMENTS: Final = 0x8000


def asks_large_fragments(features: int) -> bool:
    """All-ones, as a probing client sends, is not our signature."""
    return features >> 48 == FEATURE_LARGE_FRAGMENTS >> 48


class Registration:
    """An interface that a server offers: who may call it and what answers.

    `min_level` is the least authentication level, 0 or 1 for anyone. `allow_anonymous` admits authenticated
    sessions without an identity. `access` sees each call before its arguments are unmarshalled and says no by
    returning False. `strict` refuses context handles that another interface made.
    """

    __slots__ = (
        "access",
        "allow_anonymous",
        "handler",
        "interface",
        "min_level",
        "strict",
        "syntax",
        "syntaxes",
    )

    def __init__(
        self,
        interface: Any,
        handler: Handler,
        *,
        min_level: int = 0,
        allow_anonymous: bool | None = None,
        access: Callable[[ServerCall], bool] | None = None,
        strict: bool = True,
        ndr64: bool = True,
    ) -> None:
        self.interface = interface
        self.handler = handler
        self.min_level = min_level
        self.allow_anonymous = min_level <= 1 if allow_anonymous is None else allow_anonymous
        self.access = access
        self.strict = strict
        major, minor = interface.version
        self.syntax = SyntaxId(interface.uuid, major | minor << 16)
        self.syntaxes: Mapping[SyntaxId, Syntax] = _BOTH_SYNTAXES if ndr64 else _NDR20_ONLY

    @property
    def open(self) -> bool:
        """Nothing has to be asked about a caller."""
        return self.min_level <= 1 and self.access is None and self.allow_anonymous

    def __repr__(self) -> str:
        return f"<Registration {self.interface.name} {self.syntax.uuid} v{self.syntax.major}.{self.syntax.minor}>"


_BOTH_SYNTAXES: Final[Mapping[SyntaxId, Syntax]] = {NDR20: Syntax.NDR20_LE, NDR64: Syntax.NDR64}
_NDR20_ONLY: Final[Mapping[SyntaxId, Syntax]] = {NDR20: Syntax.NDR20_LE}


class PresentationContext:
    """An accepted presentation context; immutable and shared between connections."""

    __slots__ = (
        "context_id",
        "echoed_id",
        "handler",
        "interface",
        "open",
        "registration",
        "syntax",
        "transfer",
    )

    def __init__(self, context_id: int, registration: Registration, transfer: SyntaxId) -> None:
        self.context_id = context_id
        self.echoed_id = context_id & 0xFF
        """What responses carry: Windows truncates it (raw_protocol.py, orphaned_no_request), nobody looks."""
        self.registration = registration
        self.transfer = transfer
        self.syntax = registration.syntaxes[transfer]
        self.interface = registration.interface
        self.handler = registration.handler
        self.open = registration.open

    def __repr__(self) -> str:
        return (
            f"<PresentationContext {self.context_id} {self.registration.interface.name} {self.syntax.name}>"
        )


Contexts: TypeAlias = Mapping[int, PresentationContext]
NO_CONTEXTS: Final[Contexts] = {}


SHARED_CONTEXTS: Final = 16
"""Contexts in a table that is kept to be shared; a client that has more is one of a kind."""
SHARED_TABLES: Final = 1024
"""Tables kept to be shared, the oldest given up first: clients with ids of their own making must not fill memory,
nor keep others from sharing."""


class InterfaceRegistry:
    """The interfaces of one server, by UUID and major version."""

    __slots__ = ("_by_key", "_tables")

    def __init__(self) -> None:
        self._by_key: dict[tuple[UUID, int], Registration] = {}
        self._tables: dict[tuple[tuple[int, Registration, SyntaxId], ...], Contexts] = {}

    def add(self, registration: Registration) -> None:
        key = registration.syntax.uuid, registration.syntax.major
        if key in self._by_key:
            raise ConfigurationError(f"interface {key[0]} version {key[1]} is registered already")
        self._by_key[key] = registration

    def remove(self, registration: Registration) -> None:
        """Take an interface back; existing presentation contexts of it stay valid."""
        key = registration.syntax.uuid, registration.syntax.major
        if self._by_key.get(key) is registration:
            del self._by_key[key]
            self._tables.clear()

    def find(self, abstract: SyntaxId) -> Registration | None:
        """Same UUID and major version; our minor version must be at least the client's."""
        found = self._by_key.get((abstract.uuid, abstract.major))
        return found if found is not None and abstract.minor <= found.syntax.minor else None

    def __iter__(self) -> Any:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def table(self, contexts: Contexts) -> Contexts:
        """The one shared table equal to `contexts`."""
        if len(contexts) > SHARED_CONTEXTS:
            return contexts
        key = tuple((id_, c.registration, c.transfer) for id_, c in contexts.items())
        shared = self._tables.get(key)
        if shared is None:
            if len(self._tables) >= SHARED_TABLES:
                del self._tables[next(iter(self._tables))]
            shared = self._tables[key] = contexts
        return shared

    def __repr__(self) -> str:
        return f"<InterfaceRegistry {len(self._by_key)} interfaces, {len(self._tables)} context tables>"


class Negotiation:
    """What came of the presentation contexts in one BIND or ALTER_CONTEXT."""

    __slots__ = ("contexts", "features", "results")

    def __init__(self, results: list[ContextResult], contexts: Contexts, features: int | None) -> None:
        self.results = results
        self.contexts = contexts
        self.features = features


class BadProposal(RemoteProtocolError):
    """A context list that is refused as a whole; `nak` is the bind_nak reason."""

    def __init__(self, message: str, nak: int) -> None:
        super().__init__(message)
        self.nak = nak


def negotiate(
    elements: tuple[ContextElement, ...],
    registry: InterfaceRegistry,
    existing: Contexts,
    *,
    supported_features: int | None,
    max_contexts: int,
) -> Negotiation:
    """Answer proposed contexts one by one, in order. `supported_features` is None in an ALTER_CONTEXT.

    Raises BadProposal where the whole list is wrong.
    """
    if not elements:
        raise BadProposal("no presentation context proposed", 4)
    results: list[ContextResult] = []
    accepted: dict[int, PresentationContext] = {}
    taken: set[Registration | int] = set()
    features: int | None = None
    for element in elements:
        if not element.transfers:
            raise BadProposal(f"presentation context {element.context_id} offers no transfer syntax", 0)
        asked = features_of(element.transfers[0]) if supported_features is not None else None
        if asked is not None:
            if features is not None:
                raise BadProposal("bind-time features proposed twice", 0)
            features = asked if asks_large_fragments(asked) else asked & 0xFFFF
            features &= supported_features or 0
            results.append(feature_result(features))
            continue
        results.append(_answer(element, registry, existing, accepted, taken, max_contexts))
    if not accepted:
        return Negotiation(results, existing, features)
    return Negotiation(results, registry.table({**existing, **accepted}), features)


def _answer(
    element: ContextElement,
    registry: InterfaceRegistry,
    existing: Contexts,
    accepted: dict[int, PresentationContext],
    taken: set[Registration | int],
    max_contexts: int,
) -> ContextResult:
    registration = registry.find(element.abstract)
    if registration is None:
        return _REJECT_ABSTRACT
    transfer = next((t for t in element.transfers if t in registration.syntaxes), None)
    if transfer is None:
        return _REJECT_TRANSFER
    if element.context_id in taken or registration in taken:
        return _REJECT_TRANSFER
    before = existing.get(element.context_id)
    if before is not None:
        if before.registration is not registration or before.transfer != transfer:
            raise BadProposal(
                f"presentation context {element.context_id} proposed anew with other syntaxes", 0
            )
        taken.add(element.context_id)
        return ContextResult(ACCEPTANCE, REASON_NONE, transfer)
    if len(existing) + len(accepted) >= max_contexts:
        return _REJECT_LIMIT
    taken.update((registration, element.context_id))
    accepted[element.context_id] = PresentationContext(element.context_id, registration, transfer)
    return ContextResult(ACCEPTANCE, REASON_NONE, transfer)
