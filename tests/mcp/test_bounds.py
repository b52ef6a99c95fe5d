"""Answers fit their bound whatever is in them, and say what is left out and how to get it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_calls import Ask
from raylens.reports.report_md import report_md
from raylens_app.mcp.answers import LIMIT_BYTES, Document, Text, paged
from raylens_app.mcp.report_sections import SECTIONS, sections_of

LIMIT = 600
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=20), VALUES, max_size=4), max_size=40)


@given(says=st.text(max_size=200), fields=st.dictionaries(st.text(max_size=20), VALUES, max_size=3), rows=ROWS)
def test_a_document_fits_and_is_json(says: str, fields: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    text = Document(says, fields, "rows", rows, paged(0, len(rows))).render(LIMIT)
    assert len(text.encode()) <= LIMIT
    found = json.loads(text)
    assert "answer" in found
    if len(found.get("rows", rows)) < len(rows):
        assert found["more"]


@given(n=st.integers(0, 200), offset=st.integers(0, 50))
def test_pages_lead_through_all_rows(n: int, offset: int) -> None:
    every = [{"at": at, "text": "x" * 20} for at in range(n + offset)]
    seen = list(range(offset))
    while True:
        found = json.loads(Document("", {}, "rows", every[offset:], paged(offset, len(every))).render(LIMIT))
        seen += [row["at"] for row in found.get("rows", [])]
        if "more" not in found:
            break
        ahead = int(found["more"].partition("offset=")[2].rstrip("."))
        assert ahead > offset
        offset = ahead
    assert seen == list(range(len(every)))


def test_one_row_too_large_is_shortened() -> None:
    text = Document("x", {}, "rows", [{"text": "é" * 5000}]).render(LIMIT)
    assert len(text.encode()) <= LIMIT
    assert json.loads(text)["rows"][0]["text"].endswith("…")


@given(st.text(alphabet="aé\n😀`", min_size=0, max_size=5000))
def test_text_is_read_on_to_its_end(text: str) -> None:
    offset, seen = 0, ""
    while True:
        page = Text(text[offset:], offset).render(LIMIT)
        assert len(page.encode()) <= LIMIT
        head, cut, note = page.rpartition("\n… cut at character ")
        if not cut:
            assert seen + page == text
            return
        seen += head
        ahead = int(note.rpartition("offset=")[2].rstrip(". "))
        assert ahead == len(seen)
        offset = ahead


def test_nothing_steers_a_terminal() -> None:
    text = Document("\x1b]0;owned\x07", {"\u202e": "\x9b31m\u2028"}, "rows", ["\x7f\ud800"]).render()
    assert not set(text) & set("\x1b\x07\u202e\x9b\u2028\x7f")
    assert json.loads(text)["\u202e"] == "\x9b31m\u2028"


def test_an_answer_of_the_door_is_bounded(ask: Ask) -> None:
    query = f"SELECT '{'x' * 500}' AS text, i FROM range(1000) t(i)"
    answered = ask("sql", query=query, max_rows=1000)
    assert len(answered.text.encode()) <= LIMIT_BYTES
    shown = len(answered.document["rows"])
    assert 0 < shown < 1000
    assert answered.document["more"].startswith("the rest does not fit")
    assert f"OFFSET {shown}" in answered.document["more"]


def test_sections_of_a_report_are_those_of_its_own_headings() -> None:
    from audit_runs import artefacts

    made = artefacts()
    results = made.suite_results
    says = "```\n## Decision\n```\n## Raw score payload\n"
    first = results.results[0]
    hostile = first.model_copy(update={"candidate": first.candidate.model_copy(update={"text": says})})
    changed = results.model_copy(update={"results": (hostile, *results.results[1:])})
    whole = report_md(made.model_copy(update={"suite_results": changed}))
    parts = sections_of(whole)
    assert "## Raw score payload\n" in parts["outputs"]
    assert parts["decision"].count("\n## ") == 0
    assert "\n\n".join(parts[name] for name in SECTIONS) == whole.strip("\n")


@pytest.mark.parametrize("length", [0, 1, 3])
def test_rows_of_nothing_are_left_out(length: int) -> None:
    found = json.loads(Document("x", {"a": None}, "rows", [1] * length).render())
    assert found == {"answer": "x"} | ({"rows": [1] * length} if length else {})
