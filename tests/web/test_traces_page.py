"""Traces: the list, one trace as a tree, and one span with what went in and came out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app_here import app_on, html, page, run, said
from raylens.api.system import SupportedModel
from raylens.bundle.traces import sample_spans
from raylens.catalog import Catalog
from raylens.catalog.support import supported_models
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.span import Turn
from raylens_app.web.supported import supported
from raylens_app.web.traces.shelf import LOOK_S
from span_pages import write_traces
from trace_samples import a_span

EVIL = "<script>alert(1)</script> \u202eabc\u200b \x1b[31m 😀 ![x](http://127.0.0.1:9/x.png)"


@pytest.fixture
def sampled(empty: Workspace) -> Iterator[Workspace]:
    write_traces(empty, sample_spans())
    with app_on(empty.url):
        yield empty


def listed(app: Any) -> list[str]:
    return list(app.dataframe[0].value["name"])


def test_the_list_has_every_trace_the_latest_first(sampled: Workspace) -> None:
    app = page("traces")
    rows = app.dataframe[0].value
    assert listed(app) == ["text_completion raylens/pico", "answer a customer", "write a downloader"]
    assert list(rows["errors"]) == [0, 0, 1]
    assert [list(one) for one in rows["models"]] == [
        ["raylens/pico"],
        ["claude-sonnet-4-5", "gpt-4o"],
        ["raylens/pico"],
    ]
    assert list(rows["took"]) == [0.4, 6.0, 4.0]
    assert "1 to 3 of 3 traces" in said(app)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"holding": "ORDER 1042"}, ["answer a customer"]),
        ({"model": "raylens/pico"}, ["text_completion raylens/pico", "write a downloader"]),
        ({"since": "2026-01-05T10:30"}, ["text_completion raylens/pico"]),
        ({"until": "2026-01-05T09:30"}, ["write a downloader"]),
        ({"model": "raylens/pico", "holding": "copy_tree"}, ["write a downloader"]),
        ({"sheet": "99999999999999"}, ["text_completion raylens/pico", "answer a customer", "write a downloader"]),
        ({"sheet": "7"}, ["text_completion raylens/pico", "answer a customer", "write a downloader"]),
        ({"model": "no such"}, ["text_completion raylens/pico", "answer a customer", "write a downloader"]),
    ],
)
def test_filters_stand_in_the_address(sampled: Workspace, params: dict[str, str], names: list[str]) -> None:
    assert listed(page("traces", **params)) == names


def test_filters_that_leave_nothing_say_so(sampled: Workspace) -> None:
    assert "No trace is like that." in said(page("traces", holding="nowhere is this said"))


def test_pages_are_read_one_at_a_time(empty: Workspace) -> None:
    write_traces(empty, [a_span(f"s{one}", one, trace_id=f"t{one}", name=f"n{one}") for one in range(60)])
    with app_on(empty.url):
        app = page("traces", sheet="2")
        assert listed(app) == [f"n{one}" for one in range(34, 9, -1)]
        assert "26 to 50 of 60 traces" in said(app)


def test_what_comes_in_shows_at_the_next_look(sampled: Workspace) -> None:
    app = page("traces")
    write_traces(sampled, [a_span("fresh", 9 * 24 * 3600, name="just now", trace_id="fresh")])
    time.sleep(LOOK_S)
    assert listed(run(app))[0] == "just now"


# A0.02: Traces → one trace → one span.
def test_a_trace_is_a_tree_and_its_first_span_is_open(sampled: Workspace) -> None:
    app = page("traces", trace="2e40fbbbc74978b9ba3220d713bb4a9d")
    assert app.title[0].value == "write a downloader"
    tree = app.dataframe[0].value
    assert [one.strip("\N{NO-BREAK SPACE}") for one in tree["span"]] == [
        "write a downloader",
        "└ text_completion raylens/pico",
        "└ text_completion raylens/pico",
        "└ execute_tool run_tests ✗",
    ]
    assert list(tree["kind"]) == ["agent", "llm", "llm", "tool"]
    assert list(tree["took"]) == pytest.approx([4.0, 0.2, 0.2, 1.5])
    assert "4 spans · 1 failed" in said(app)
    assert "One test fails." in html(app)
    back = next(one for one in app.button if one.label == "All traces")
    back.click()
    run(app)
    assert app.title[0].value == "Traces"
    assert not {"trace", "span"} & set(app.query_params)


def test_a_span_is_enough_of_an_address(sampled: Workspace) -> None:
    app = page("traces", span="e522a28ce2a409c8")
    assert app.title[0].value == "answer a customer"
    assert app.subheader[0].value.replace("\\", "") == "chat claude-sonnet-4-5"
    shown = html(app)
    assert shown.index("You answer questions") < shown.index("I am looking it up.") < shown.index("It is packed")
    assert "4 turns" in said(app)
    app = page("traces", span="e522a28ce2a409c8", tab="attributes")
    assert "gen_ai.response.finish_reasons" in html(app)
    assert "[&quot;stop&quot;]" in html(app)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"trace": "<script>alert(1)</script>"}, "there is no trace"),
        ({"span": "<script>"}, "there is no span"),
        ({"trace": "2e40fbbbc74978b9ba3220d713bb4a9d", "span": "gone"}, "there is no span 'gone'"),
        ({"trace": "x" * 5000}, "there is no trace"),
    ],
)
def test_what_is_not_there_is_said(sampled: Workspace, params: dict[str, str], words: str) -> None:
    app = page("traces", **params)
    (error,) = app.error
    assert words in said(app)
    assert "<script>" not in error.value, "what was typed is no markup"


@pytest.mark.parametrize("part", ["input and output", "SAE", "ablation and counterfactuals", "attributes"])
def test_text_of_others_is_shown_and_not_obeyed(empty: Workspace, part: str) -> None:
    turns = (Turn(role=EVIL[:90], content=EVIL), Turn(role="user", content=" \n"))
    spans = [
        a_span("one", name=EVIL, input=turns, output=EVIL, kind=EVIL[:90], provider=EVIL, attributes={EVIL: [EVIL]}),
        a_span("two", 1, name="", input="", output="", model=None, parent_id="one"),
    ]
    write_traces(empty, spans)
    with app_on(empty.url):
        app = page("traces", trace="t", tab=part)
        assert "<script>" not in html(app)
        assert not any(
            "<script>" in str(one.value) for one in (*app.markdown, *app.caption, *app.title, *app.subheader)
        )
        assert not any("![x](" in str(one.value) for one in (*app.markdown, *app.caption, *app.title))
        assert "\u202e" not in html(app) + said(app), "nothing turns the line round"
        assert "⟨U+202E⟩abc" in said(app)
        if part == "input and output":
            assert "&lt;script&gt;" in html(app)
            assert "nothing but space" in said(app)
        app = page("traces", span="two", tab=part)
        assert not app.error
        assert "⟨U+202E⟩" in app.dataframe[0].value["span"][0]
        assert "⟨U+202E⟩" in page("traces").dataframe[0].value["name"][0]


def test_a_long_text_is_shown_in_part(empty: Workspace) -> None:
    write_traces(empty, [a_span("long", input="a" * 20_000, output="b" * 300_000)])
    with app_on(empty.url):
        app = page("traces", span="long")
        assert "the first 8,000 of 20,000 characters" in said(app)
        assert len(html(app)) < 20_000
        app.toggle[0].set_value(True)
        assert "a" * 20_000 in html(run(app))
        assert "b" * 8_001 not in html(app), "what is longer than a browser shows is a file"


# A0.07: the empty state renders the catalogue verbatim; A0.08: with a chip where there are labels.
def test_without_traces_it_says_how_they_come_in_and_lists_the_catalogue(empty: Workspace) -> None:
    app = page("traces")
    text = said(app)
    assert f"raylens --workspace {empty.url} traces send --sample" in text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9" in text
    rows = app.dataframe[-1].value.to_dict("records")
    served = supported_models(Catalog.load(None))
    assert len(rows) == len(served) > 100
    shown = [{key: _plain(row[key]) for key in one} for row, one in zip(rows, served, strict=True)]
    assert [SupportedModel.model_validate(one) for one in shown] == [SupportedModel.model_validate(o) for o in served]
    assert [list(row["labels"]) for row in rows] == [["labels"] if one["labels_available"] else [] for one in served]
    assert {bool(one["labels_available"]) for one in served} == {True, False}
    assert supported.__module__ == "raylens_app.web.supported", "Home shows the same part"


def _plain(value: Any) -> Any:
    """A cell of a data frame as it was given to it."""
    if hasattr(value, "__len__") and not isinstance(value, str):
        return list(value)
    return None if value != value else value


def test_a_damaged_log_is_said_and_other_pages_work(sampled: Workspace) -> None:
    store = TraceStore(sampled)
    path = store.log.commits.covering()[0].path
    sampled.files.commit(path, b"nothing of the kind")
    with app_on(sampled.url):
        app = page("traces")
        assert len(app.error) == 1
        assert "traces" in said(app)
        assert not page("workbench").exception
