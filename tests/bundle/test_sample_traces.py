"""The sample traces: each kind of span is there, and what pico is said to have written it writes."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

from raylens.bundle import paths
from raylens.bundle.traces import FILE, FOLDER, sample_spans
from raylens.engine.load import load_model
from raylens_jobs.bundle_traces import as_json, card, make_spans

HERE = paths.ROOT / FOLDER


def test_the_file_is_small_and_hashed() -> None:
    assert (HERE / FILE).stat().st_size < 30_000
    assert {f"{FOLDER}/{FILE}", f"{FOLDER}/README.md"} <= set(paths.bundle_hashes())


def test_every_kind_of_span_is_there() -> None:
    spans = sample_spans()
    calls = [span for span in spans if span.kind == "llm"]
    assert Counter(span.model for span in calls)[paths.PICO] >= 3  # A0.01: features of these can be read
    assert {"gpt-4o", "claude-sonnet-4-5"} < {span.model for span in calls}  # A0.06: of these they cannot
    assert None in {span.model for span in calls}  # A0.23: nor of one that names no model
    assert {"agent", "tool", "llm"} == {span.kind for span in spans}
    assert any(isinstance(span.input, tuple) and len(span.input) > 2 for span in calls), "turns of a chat"
    assert any(span.status == "error" for span in spans)
    assert 2 <= len({span.trace_id for span in spans}) <= 3


def test_traces_are_trees_in_order_of_time() -> None:
    spans = sample_spans()
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids)
    traces = {span.trace_id: [one for one in spans if one.trace_id == span.trace_id] for span in spans}
    assert [span for trace in traces.values() for span in trace] == list(spans)
    for trace in traces.values():
        starts = [span.started_at for span in trace]
        assert starts == sorted(starts)
        for span in trace:
            assert span.ended_at is not None
            assert span.started_at.utcoffset() == span.ended_at.utcoffset() == timedelta(0)
            if span.parent_id is not None:
                assert span.parent_id == trace[0].span_id
                assert trace[0].ended_at is not None
                assert span.ended_at <= trace[0].ended_at


def test_pico_writes_what_it_is_said_to_have_written() -> None:
    """The command that the card names gives the files that ship."""
    made = make_spans(load_model(paths.PICO, dtype="float32", device="cpu"))
    assert tuple(made) == sample_spans()
    assert as_json(made) == (HERE / FILE).read_text("utf-8")
    assert card(made) == (HERE / "README.md").read_text("utf-8")
    assert json.loads((HERE / FILE).read_text("utf-8"))["about"].endswith("python -m raylens_jobs.bundle traces")
