"""Ids of spans that come by OTLP: unique within their trace there, within the workspace here.

A span keeps the id that its instrumentation gave it, so that it is found by what other tools show. Those ids are 64
random bits; two traces with one in common come from replays and from programs that count. The second of them is then
kept as ``<trace id>.<span id>`` and takes the place of nothing. Who sends a batch again finds the same ids given to
it, so it is written once.

References to parents go by the same rule. A child may come before its parent: where the parent's id is later taken
by a third trace, the child's reference stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raylens.traces.span import Span
from raylens_serve.services import LedgerClient


async def told_apart(ledger: LedgerClient, spans: Sequence[Span]) -> list[Span]:
    """Spans with ids that are no other trace's.

    Args:
        ledger: Knows which ids there are.
        spans: With ids as they were sent.
    """
    names = {(span.trace_id, name) for span in spans for name in (span.span_id, span.parent_id) if name}
    asked = {name for _, name in names} | {_long(*pair) for pair in names}
    owners = dict(await ledger.traces_of(sorted(asked)))
    own = []
    for span in spans:
        name = _given(owners, span.trace_id, span.span_id)
        owners[name] = span.trace_id
        own.append(name)
    told = []
    for span, name in zip(spans, own, strict=True):
        parent = span.parent_id and _given(owners, span.trace_id, span.parent_id)
        same = (name, parent) == (span.span_id, span.parent_id)
        # Both are ids already, so nothing is checked again.
        told.append(span if same else span.model_copy(update={"span_id": name, "parent_id": parent}))
    return told


def _given(owners: Mapping[str, str], trace_id: str, name: str) -> str:
    """The id that a span of a trace has, or will have."""
    long = _long(trace_id, name)
    return long if long in owners or owners.get(name, trace_id) != trace_id else name


def _long(trace_id: str, name: str) -> str:
    return f"{trace_id}.{name}"
