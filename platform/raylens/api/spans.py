"""Spans as plain JSON: sent, listed, read and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, model_validator

from raylens.api.base import Answer, Asked
from raylens.errors import InputError
from raylens.traces.bounds import bounded, clean_json
from raylens.traces.span import NAME_LIMIT, Id, Span, Text, Turn, new_span_id, new_trace_id, now

MOST_SPANS: Final = 1000
"""Of one request."""
PAGE: Final = 100
"""Of a list, where nothing else is asked for."""


def _utc(at: datetime) -> datetime:
    """A time without a zone is UTC; one that UTC has no year for is the first or the last that it has."""
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        return (datetime.min if at.year == 1 else datetime.max).replace(tzinfo=UTC)


def _none_if_blank(text: str | None) -> str | None:
    return text.strip() or None if text is not None else None


Time = Annotated[datetime, AfterValidator(_utc)]
Named = Annotated[str, Field(max_length=NAME_LIMIT), AfterValidator(_none_if_blank)]
Page = Annotated[int, Field(ge=1, le=1000, description="How many at most.")]
Offset = Annotated[int, Field(ge=0, le=2**31 - 1, description="How many are passed over.")]


class SpanIn(Asked):
    """A span as it is sent.

    Attributes:
        span_id: Made where it is missing; the same id sent again takes the place of what was there.
        trace_id: Spans of one request that name none get one together.
        parent_id: The span that it is a part of.
        name: What to call it.
        kind: ``llm`` for a call of a language model, or any other word.
        model: That was called; without it, its features cannot be read.
        provider: Who runs the model.
        started_at: By default when it came. Without a zone: UTC.
        ended_at: Likewise UTC; may be missing.
        input: What went in: a text, or turns of a chat, which the model's own template renders.
        output: What came out.
        status: How it went.
        attributes: Any JSON; what is longer than :mod:`raylens.traces.bounds` says is cut, and noted.
    """

    span_id: Id | None = None
    trace_id: Id | None = None
    parent_id: Id | None = None
    name: Annotated[str, Field(max_length=NAME_LIMIT)] = ""
    kind: Annotated[str, Field(min_length=1, max_length=100)] = "llm"
    model: Named | None = None
    provider: Named | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    input: Text | tuple[Turn, ...]
    output: Text | tuple[Turn, ...]
    status: Literal["ok", "error", "unset"] = "unset"
    attributes: dict[str, Any] = Field(default_factory=dict)


class SpansIn(Asked):
    """Spans as they are sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"spans": [{"model": "raylens/pico", "input": "def add(a, b):\n", "output": "    return a + b\n"}]},
                {
                    "spans": [
                        {
                            "span_id": "9f3ad2c1b07e4455",
                            "trace_id": "support-42",
                            "name": "answer",
                            "model": "gpt-4o",
                            "provider": "openai",
                            "started_at": "2026-01-05T09:00:00Z",
                            "input": [{"role": "user", "content": "Where is my order?"}],
                            "output": "It ships tomorrow.",
                            "attributes": {"customer": 42},
                        }
                    ]
                },
            ]
        }
    )

    spans: Annotated[tuple[SpanIn, ...], Field(min_length=1, max_length=MOST_SPANS)]

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, sent: Any) -> Any:
        """Null characters, lone surrogates and the like do come, and are replaced before anything is checked."""
        if not isinstance(sent, Mapping):
            return sent
        try:
            return clean_json(sent)
        except InputError as error:
            raise ValueError(error.message.removesuffix(".")) from error

    def as_spans(self, at: datetime | None = None) -> tuple[Span, ...]:
        """What is written: whatever is missing is filled in.

        Args:
            at: When they came; now by default.
        """
        came, together = at or now(), new_trace_id()
        return tuple(
            Span(
                span_id=span.span_id or new_span_id(),
                trace_id=span.trace_id or together,
                started_at=span.started_at or came,
                attributes=bounded(span.attributes, []),
                **{name: getattr(span, name) for name in _SAME},
            )
            for span in self.spans
        )


_SAME: Final = ("parent_id", "name", "kind", "model", "provider", "ended_at", "input", "output", "status")


class SpanIds(Answer):
    """Ids of what was written, in the order it was sent; it is on disk."""

    span_ids: tuple[str, ...]


class SpanOut(Span):
    """A span as it is kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    started_at: AwareDatetime

    @classmethod
    def of(cls, span: Span) -> SpanOut:
        """The same, without checking it once more."""
        return cls.model_construct(**dict(span))


class SpanPage(Answer):
    """Spans, the latest first.

    Attributes:
        spans: Of this page.
        total: All that were asked for.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end. A page of long texts ends before ``limit``.
    """

    spans: tuple[SpanOut, ...]
    total: int
    offset: int
    next_offset: int | None


class TraceRow(Answer):
    """A trace in a list.

    Attributes:
        trace_id: Which.
        name: Of its first span.
        started_at: When that began.
        ended_at: When the last one ended; None where none says so.
        n_spans: How many it has.
        models: That were called.
        n_errors: Spans that failed.
    """

    trace_id: str
    name: str
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    n_spans: int
    models: tuple[str, ...]
    n_errors: int


class TracePage(Answer):
    """Traces, the latest first.

    Attributes:
        traces: Of this page.
        total: All that were asked for.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end.
    """

    traces: tuple[TraceRow, ...]
    total: int
    offset: int
    next_offset: int | None


class TraceOut(Answer):
    """A trace: its spans, the oldest first, each with the id of the one that it is a part of.

    Attributes:
        trace_id: Which.
        spans: Of this page; a span whose ``parent_id`` is None, or of no span of the trace, is at the top.
        total: All that it has.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end.
    """

    trace_id: str
    spans: tuple[SpanOut, ...]
    total: int
    offset: int
    next_offset: int | None


class Deleted(Answer):
    """How many spans were deleted, with all that was read of them."""

    deleted: int
