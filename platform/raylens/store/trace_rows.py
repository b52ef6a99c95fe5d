"""Events of traces as rows of their log, and rows as what they say.

Three things happen: a span is written, what was read of it is kept, it is deleted. A later event of the same key (a
span's id; of an extraction span, model and SAE) takes the place of an earlier one; a deletion takes a span away with
all that was read of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import pyarrow as pa

from raylens.api.extraction import Extraction
from raylens.errors import InputError
from raylens.schema import TRACE_EVENTS
from raylens.store.parquet import Layout
from raylens.traces.span import Span, Turn, plain

EventKind = Literal["span", "deletion", "extraction"]

MOST_EVENTS: Final = 2**16
"""Events of one commit."""
SPAN_BYTES: Final = 32 * 2**20
"""Of all texts of a span together, as UTF-8."""

LAYOUT: Final = Layout(TRACE_EVENTS, rising=frozenset({"sequence"}), seek=("sequence",), group_rows=1024)
"""Of the log's files."""

_TEXTS: Final = ("name", "model", "provider", "input", "output", "input_messages", "output_messages", "attributes")
_NUMBER_BYTES: Final = 16  # of a feature, its activation and its position
_ROW_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event; made by :func:`span_written`, :func:`span_deleted` or :func:`extraction_kept`.

    Attributes:
        kind: What happened.
        span_id: To which span.
        row: The columns of :data:`raylens.schema.TRACE_EVENTS` that it has, but ``sequence``.
        n_bytes: About how much memory it takes.
    """

    kind: EventKind
    span_id: str
    row: Mapping[str, Any]
    n_bytes: int


def sequence_of(commit: int, place: int) -> int:
    """The number of an event in its log: later ones are larger.

    Args:
        commit: Counted from 1.
        place: Of the event in the commit, from 0.
    """
    return commit * MOST_EVENTS + place


def commit_of(sequence: int) -> int:
    """The commit of an event."""
    return sequence // MOST_EVENTS


def span_written(span: Span) -> TraceEvent:
    """A span is there from now on, in the place of what its id had.

    Raises:
        InputError: It is too large, or says something that cannot be kept.
    """
    row: dict[str, Any] = {
        "event": "span",
        "span_id": span.span_id,
        "trace_id": span.trace_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "kind": span.kind,
        "model": span.model,
        "provider": span.provider,
        "started_at": _utc(span.started_at, span),
        "ended_at": None if span.ended_at is None else _utc(span.ended_at, span),
        "status": span.status,
        "input": plain(span.input),
        "output": plain(span.output),
        "input_messages": _messages(span.input),
        "output_messages": _messages(span.output),
        "attributes": _json(span),
    }
    try:
        n_bytes = sum(len(row[name].encode()) for name in _TEXTS if row[name] is not None)
    except UnicodeEncodeError as error:
        raise InputError(f"span {span.span_id} holds half of a surrogate pair.", hint="send valid Unicode.") from error
    if n_bytes > SPAN_BYTES:
        raise InputError(
            f"span {span.span_id} has {n_bytes:,} bytes of text, and {SPAN_BYTES:,} are kept at most.",
            hint="cut its texts, or send it as several spans.",
        )
    said = json.dumps(list(row.values()), default=datetime.isoformat).encode()
    row["digest"] = hashlib.blake2b(said, digest_size=16).digest()
    return TraceEvent("span", span.span_id, row, n_bytes + _ROW_BYTES)


def span_deleted(span_id: str) -> TraceEvent:
    """A span is gone from now on, with all that was read of it."""
    return TraceEvent("deletion", span_id, {"event": "deletion", "span_id": span_id}, _ROW_BYTES)


def extraction_kept(extraction: Extraction) -> TraceEvent:
    """What a model and an SAE read of a span, in the place of what they read before.

    Raises:
        InputError: A number in it is out of range.
    """
    row = {
        "event": "extraction",
        "span_id": extraction.span_id,
        "model": extraction.model,
        "sae": extraction.sae,
        "layer": extraction.layer,
        "features": extraction.peaks.indices,
        "activations": extraction.peaks.activations,
        "positions": extraction.peaks.positions,
        "n_tokens": extraction.n_tokens,
        "n_dropped": extraction.n_dropped,
        "extracted_at": _utc(extraction.at, extraction),
    }
    try:
        pa.Table.from_pylist([row], TRACE_EVENTS)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        message = f"what was read of span {extraction.span_id} cannot be kept: {error}."
        raise InputError(message, hint="features, positions and counts are below 2,147,483,648.") from error
    return TraceEvent("extraction", extraction.span_id, row, _ROW_BYTES + _NUMBER_BYTES * len(extraction.peaks))


def rows_of(events: Sequence[TraceEvent], commit: int) -> pa.Table:
    """Events as rows of one commit."""
    rows = [{**event.row, "sequence": sequence_of(commit, place)} for place, event in enumerate(events)]
    return pa.Table.from_pylist(rows, TRACE_EVENTS)


def span_of(row: Mapping[str, Any]) -> Span:
    """The span that a row says.

    Raises:
        ValueError: It says none.
    """
    given = {name: row[name] for name in ("span_id", "trace_id", "parent_id", "name", "kind", "model", "provider")}
    return Span(
        **given,
        started_at=row["started_at"].astimezone(UTC),
        ended_at=row["ended_at"] and row["ended_at"].astimezone(UTC),
        status=row["status"],
        input=_said(row["input"], row["input_messages"]),
        output=_said(row["output"], row["output_messages"]),
        attributes=json.loads(row["attributes"]),
    )


def extraction_of(row: Mapping[str, Any]) -> Extraction:
    """The extraction that a row says.

    Raises:
        ValueError: It says none.
    """
    peaks = {"indices": row["features"], "activations": row["activations"], "positions": row["positions"]}
    return Extraction.model_validate(
        {
            **{name: row[name] for name in ("span_id", "model", "sae", "layer", "n_tokens", "n_dropped")},
            "peaks": peaks,
            "at": row["extracted_at"].astimezone(UTC),
        }
    )


def _messages(said: str | Sequence[Turn]) -> str | None:
    if isinstance(said, str):
        return None
    return json.dumps([turn.model_dump() for turn in said], ensure_ascii=False)


def _said(text: str, messages: str | None) -> str | tuple[Turn, ...]:
    return text if messages is None else tuple(Turn.model_validate(turn) for turn in json.loads(messages))


def _json(span: Span) -> str:
    try:
        return json.dumps(span.attributes, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"attributes of span {span.span_id} cannot be kept as JSON: {error}."
        raise InputError(message, hint="attributes are texts, finite numbers, booleans, lists and objects.") from error


def _utc(time: datetime, of: Span | Extraction) -> datetime:
    """A time without a zone is UTC already."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        message = f"span {of.span_id} has a time before the year 1, or after 9999."
        raise InputError(message, hint="send UTC.") from error
