"""Rows of the log of traces: what was said comes back as it was, and what cannot be kept is refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.api.extraction import Extraction
from raylens.api.reading import Peaks
from raylens.errors import InputError
from raylens.store import trace_rows
from raylens.store.trace_rows import (
    MOST_EVENTS,
    commit_of,
    extraction_kept,
    extraction_of,
    rows_of,
    sequence_of,
    span_deleted,
    span_of,
    span_written,
)
from raylens.traces.span import Span, Turn
from trace_samples import START, a_span, an_extraction

_TEXT = st.text(max_size=20)
_TURNS = st.lists(st.builds(Turn, role=_TEXT, content=_TEXT), max_size=3).map(tuple)
_ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,9}", fullmatch=True)
_TIME = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
SPANS = st.builds(
    Span,
    span_id=_ID,
    trace_id=_ID,
    parent_id=st.none() | _ID,
    name=_TEXT,
    kind=_TEXT,
    model=st.none() | _TEXT,
    provider=st.none() | _TEXT,
    started_at=_TIME,
    ended_at=st.none() | _TIME,
    input=_TEXT | _TURNS,
    output=_TEXT | _TURNS,
    status=st.sampled_from(["ok", "error", "unset"]),
    attributes=st.dictionaries(_TEXT, _JSON, max_size=3),
)
_INT = st.integers(0, 2**31 - 1)


def peaks_of_rows(rows: Sequence[tuple[int, float, int]]) -> Peaks:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return Peaks(**dict(zip(("indices", "activations", "positions"), columns, strict=True)))


EXTRACTIONS = st.builds(
    Extraction,
    span_id=_ID,
    model=_ID,
    sae=_ID,
    layer=st.none() | _INT,
    peaks=st.lists(st.tuples(_INT, st.floats(0), _INT), max_size=5).map(peaks_of_rows),
    n_tokens=_INT,
    n_dropped=_INT,
    at=_TIME,
)


@given(SPANS)
def test_a_span_comes_back_as_it_was(span: Span) -> None:
    (row,) = rows_of([span_written(span)], 3).to_pylist()
    assert span_of(row) == span
    assert row["sequence"] == sequence_of(3, 0)


@given(EXTRACTIONS)
def test_an_extraction_comes_back_as_it_was(extraction: Extraction) -> None:
    (row,) = rows_of([extraction_kept(extraction)], 1).to_pylist()
    assert extraction_of(row) == extraction


@given(SPANS, SPANS)
def test_digests_are_equal_where_all_that_is_said_is(one: Span, other: Span) -> None:
    assert (span_written(one).row["digest"] == span_written(other).row["digest"]) == (one == other)
    again = one.model_copy(update={"attributes": dict(reversed(one.attributes.items()))})
    assert span_written(again).row["digest"] == span_written(one).row["digest"]


def test_turns_are_text_for_sql_and_turns_for_models() -> None:
    span = a_span("a", input=(Turn(role="user", content="hi\nthere"), Turn(role="tool", content="7")), output="")
    (row,) = rows_of([span_written(span)], 1).to_pylist()
    assert row["input"] == "user: hi\nthere\ntool: 7"
    assert row["input_messages"] == '[{"role": "user", "content": "hi\\nthere"}, {"role": "tool", "content": "7"}]'
    assert (row["output"], row["output_messages"]) == ("", None)


def test_times_are_utc() -> None:
    east = timezone(timedelta(hours=2))
    span = a_span("a").model_copy(update={"started_at": datetime(2026, 1, 1, 2, tzinfo=east), "ended_at": None})
    assert span_written(span).row["started_at"] == START
    naive = span.model_copy(update={"started_at": datetime(2026, 1, 1)})
    assert span_written(naive) == span_written(span)
    early = span.model_copy(update={"started_at": datetime(1, 1, 1, tzinfo=east)})
    with pytest.raises(InputError, match="span a has a time before the year 1"):
        span_written(early)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, object()])
def test_attributes_that_are_no_json_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="attributes of span a cannot be kept as JSON"):
        span_written(a_span("a", attributes={"x": {"y": [value]}}))


def test_attributes_that_never_end_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="cannot be kept as JSON"):
        span_written(a_span("a").model_copy(update={"attributes": {"x": deep}}))
    while deep:  # taken apart by hand: Python would recurse
        deep = deep.pop()


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        span_written(a_span("a", attributes={"x": "\ud800"}))


def test_a_span_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_rows, "SPAN_BYTES", 1000)
    span_written(a_span("a", input="ä" * 400))
    with pytest.raises(InputError, match=r"span a has 1,\d\d\d bytes of text, and 1,000 are kept at most.*hint: cut"):
        span_written(a_span("a", input="ä" * 600))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="what was read of span a cannot be kept"):
        extraction_kept(an_extraction("a", peaks=Peaks(indices=(2**31,), activations=(1.0,), positions=(0,))))
    with pytest.raises(InputError, match="what was read of span a cannot be kept"):
        extraction_kept(an_extraction("a", n_tokens=2**40))


@given(st.integers(1, 2**37 - 1), st.integers(0, MOST_EVENTS - 1))
def test_a_sequence_says_its_commit(commit: int, place: int) -> None:
    assert commit_of(sequence_of(commit, place)) == commit
    assert float(sequence_of(commit, place)) == sequence_of(commit, place), "exact in a footer's statistics"


def test_a_deletion_is_an_id_alone() -> None:
    (row,) = rows_of([span_deleted("a")], 1).to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "sequence": sequence_of(1, 0),
        "event": "deletion",
        "span_id": "a",
    }
