"""A span: one step of an agent, most often a call of a language model, as instrumentation reports it.

What went in is either a text or the turns of a chat; which of the two decides how it is rendered before it is read:
turns by the model's own template where it has one, a text as it stands.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

ID_LIMIT: Final = 128
"""Characters of an id."""
NAME_LIMIT: Final = 1000
TEXT_LIMIT: Final = 4_000_000
"""Characters of one text."""
_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]*$"

Id = Annotated[str, Field(min_length=1, max_length=ID_LIMIT, pattern=_ID)]
Text = Annotated[str, Field(max_length=TEXT_LIMIT)]


class Turn(BaseModel):
    """One turn of a chat, as it was reported: roles are the reporter's words (``tool``, ``developer`` …)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Annotated[str, Field(max_length=100)]
    content: Text


class Span(BaseModel):
    """One span.

    Attributes:
        span_id: Unique in a workspace; the same id written again takes the place of what was there.
        trace_id: What it belongs to.
        parent_id: The span that it is a part of.
        name: What the reporter calls it.
        kind: ``llm`` for a call of a language model; whatever else the reporter says.
        model: The model that was called; None where the span does not say.
        provider: Who runs it, likewise.
        started_at: UTC.
        ended_at: UTC.
        input: What went in.
        output: What came out.
        status: ``ok``, ``error``, or ``unset``.
        attributes: All else that was reported, JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    span_id: Id
    trace_id: Id
    parent_id: Id | None = None
    name: Annotated[str, Field(max_length=NAME_LIMIT)] = ""
    kind: Annotated[str, Field(max_length=100)] = "llm"
    model: Annotated[str, Field(max_length=NAME_LIMIT)] | None = None
    provider: Annotated[str, Field(max_length=NAME_LIMIT)] | None = None
    started_at: datetime
    ended_at: datetime | None = None
    input: Text | tuple[Turn, ...] = ""
    output: Text | tuple[Turn, ...] = ""
    status: Literal["ok", "error", "unset"] = "unset"
    attributes: dict[str, Any] = Field(default_factory=dict)


def plain(said: str | Sequence[Turn]) -> str:
    """For people, and for models without a template: a text as it is, turns as ``role: content`` lines."""
    return said if isinstance(said, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in said)


def new_span_id() -> str:
    """16 hexadecimal digits, as OpenTelemetry's are."""
    return secrets.token_hex(8)


def new_trace_id() -> str:
    """32 hexadecimal digits."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether a text may be an id of a span or a trace."""
    return len(text) <= ID_LIMIT and re.fullmatch(_ID, text) is not None


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
