"""Spans as plain JSON: what may be sent, and what is filled in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raylens.api.spans import MOST_SPANS, SpanOut, SpansIn
from raylens.traces.bounds import NOTES
from raylens.traces.span import Span, Turn

CAME = datetime(2026, 2, 3, tzinfo=UTC)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,20}\Z")
names = texts.map(str.strip).filter(bool)
said = texts | st.lists(st.builds(Turn, role=texts, content=texts), max_size=3).map(tuple)
whens = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones())
values = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
spans = st.builds(
    Span,
    span_id=ids,
    trace_id=ids,
    parent_id=st.none() | ids,
    name=texts,
    kind=texts.filter(bool),
    model=st.none() | names,
    provider=st.none() | names,
    started_at=whens.map(lambda at: at.astimezone(UTC)),
    ended_at=st.none() | whens.map(lambda at: at.astimezone(UTC)),
    input=said,
    output=said,
    status=st.sampled_from(["ok", "error", "unset"]),
    attributes=st.dictionaries(texts, values | st.lists(values, max_size=2), max_size=3),
)


@settings(max_examples=60)
@given(st.lists(spans, min_size=1, max_size=4))
def test_what_is_read_can_be_sent_and_is_the_same_span(kept: list[Span]) -> None:
    shown = [SpanOut.of(span).model_dump_json() for span in kept]
    sent = SpansIn.model_validate_json(f'{{"spans": [{", ".join(shown)}]}}')
    assert list(sent.as_spans(CAME)) == kept


def one(**fields: Any) -> Span:
    (span,) = SpansIn.model_validate({"spans": [{"input": "a", "output": "b", **fields}]}).as_spans(CAME)
    return span


def test_the_least_that_can_be_sent_is_input_and_output() -> None:
    span, other = SpansIn.model_validate({"spans": [{"input": "a", "output": "b"}] * 2}).as_spans(CAME)
    assert span == Span(
        span_id=span.span_id, trace_id=span.trace_id, started_at=CAME, input="a", output="b", kind="llm", model=None
    )
    assert (len(span.span_id), len(span.trace_id)) == (16, 32)
    assert span.trace_id == other.trace_id, "what is sent together belongs together"
    assert span.span_id != other.span_id


def test_what_no_format_holds_is_replaced() -> None:
    body = (
        r'{"spans": [{"input": "a\u0000\ud800", "output": [{"role": "\udfff", "content": ""}],'
        r' "attributes": {"\u0000": NaN}}]}'
    )
    (span,) = SpansIn.model_validate(json.loads(body)).as_spans(CAME)
    assert (span.input, span.output) == ("a\ufffd\ufffd", (Turn(role="\ufffd", content=""),))
    assert span.attributes == {"\ufffd": "NaN"}
    span.model_dump_json().encode()


def test_times_are_utc() -> None:
    east = datetime(2026, 1, 5, 10, tzinfo=timezone(timedelta(hours=1)))
    for sent in ("2026-01-05T10:00:00+01:00", "2026-01-05T09:00:00", "2026-01-05T09:00:00Z", 1767603600, east):
        found = one(started_at=sent).started_at
        assert (found, found.tzinfo) == (datetime(2026, 1, 5, 9, tzinfo=UTC), UTC)
    assert one(started_at="0001-01-01T00:00:00+14:00").started_at == datetime(1, 1, 1, tzinfo=UTC)
    assert one(ended_at="9999-12-31T23:59:59-10:00").ended_at == datetime.max.replace(tzinfo=UTC)


def test_a_blank_model_is_none() -> None:  # A0.23
    assert one(model=" ", provider="").model is None
    assert one(model=" gpt-4o ").model == "gpt-4o"  # A0.06


def test_long_attributes_are_cut_and_it_is_said() -> None:
    assert one(attributes={"a": "x" * 10**6}).attributes[NOTES] == ["cut to fit: a."]


@pytest.mark.parametrize(
    "span",
    [
        {"inputs": "a"},
        {"span_id": ""},
        {"span_id": "a b"},
        {"span_id": "a" * 129},
        {"trace_id": "\0"},
        {"parent_id": 7},
        {"status": "fine"},
        {"kind": ""},
        {"name": "n" * 1001},
        {"input": "x" * 4_000_001},
        {"input": None},
        {"output": [{"role": "user", "text": "no content"}]},
        {"started_at": "yesterday"},
        {"started_at": 10**40},
        {"attributes": [1]},
        {"attributes": {"deep": json.loads("[" * 70 + "]" * 70)}},
    ],
    ids=lambda span: str(span)[:40],
)
def test_what_cannot_be_kept_is_refused(span: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        one(**span)


@pytest.mark.parametrize(
    "sent",
    [{}, {"spans": []}, {"spans": [{"input": "a"}]}, [], {"spans": [{"input": "", "output": ""}] * (MOST_SPANS + 1)}],
    ids=lambda sent: str(sent)[:20],
)
def test_a_request_without_spans_or_with_too_many_is_refused(sent: Any) -> None:
    with pytest.raises(ValidationError):
        SpansIn.model_validate(sent)
