"""A resolver's tables turned by hand: what `oxid.rpcss.reclaimer` does on a loop, in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oxid.com.reference_table import Verdict
from oxid.rpcss.oxid_resolver import OxidResolver

Reclaim = Callable[[int, Sequence[int]], Sequence[Verdict]]


def sweep(resolver: OxidResolver, now: float, reclaim: Reclaim) -> tuple[int, ...]:
    """Let everything happen that is due, with exporters that answer at once; the OIDs that went."""
    gone: list[int] = []
    while True:
        deadline = resolver.next_deadline()
        if deadline is not None and deadline <= now:
            resolver.expire(now)
        elif not resolver.has_questions:
            return tuple(gone)
        for question in list(resolver.questions()):
            verdicts = reclaim(question.oxid, question.oids)
            resolver.answered(question, verdicts, now)
            gone += [oid for oid in question.oids if resolver.exporter_of(oid) is None]
