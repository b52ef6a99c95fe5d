"""The store of traces against the obvious: two dicts, whatever is written, rolled, purged, collected and reopened."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raylens.api.extraction import Extraction
from raylens.errors import UnknownNameError
from raylens.store import trace_rolling
from raylens.store.sql import query
from raylens.store.trace_rows import TraceEvent, extraction_kept, span_deleted, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter
from raylens.traces.span import Span
from trace_samples import a_span, an_extraction

_NAMES = st.sampled_from("abcd")
_SAYS = st.tuples(
    st.sampled_from(["span", "span", "extraction", "extraction", "deletion"]),
    _NAMES,
    st.integers(0, 2),  # when it started, or by which SAE
    st.sampled_from(["one", "two"]),  # its trace, and its text
)


class Model:
    """What stands, in dicts."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.readings: dict[str, dict[str, Extraction]] = {}

    def say(self, kind: str, name: str, number: int, word: str) -> TraceEvent | None:
        """Take something in, and give it as an event; None where it is refused."""
        if kind == "deletion":
            self.spans.pop(name, None)
            self.readings.pop(name, None)
            return span_deleted(name)
        if kind == "span":
            span = a_span(name, number, trace_id=word, input=word)
            if name in self.spans and self.spans[name].input != word:
                self.readings.pop(name, None)
            self.spans[name] = span
            return span_written(span)
        extraction = an_extraction(name, len(word), sae=f"sae/{number}")
        if name not in self.spans:
            return None
        self.readings.setdefault(name, {})[extraction.sae] = extraction
        return extraction_kept(extraction)

    def listed(self, trace: str | None = None) -> list[Span]:
        found = sorted(self.spans.values(), key=lambda one: (one.started_at, one.span_id), reverse=True)
        return [span for span in found if trace in (None, span.trace_id)]


class Traces(RuleBasedStateMachine):
    """Two stores of one workspace, which take turns in writing."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(trace_rolling, "FAN", 2)
        self.folder = tempfile.mkdtemp()
        self.workspace = Workspace.open(f"{self.folder}/w", create=True)
        self.stores = [TraceStore(self.workspace), TraceStore(self.workspace)]
        self.model = Model()

    def teardown(self) -> None:
        self.sees_the_same_by_sql()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(who=st.integers(0, 1), says=st.lists(_SAYS, min_size=1, max_size=4))
    def write(self, who: int, says: list[tuple[str, str, int, str]]) -> None:
        events = [event for one in says if (event := self.model.say(*one))]
        self.stores[who].write(events, "test")

    @rule(who=st.integers(0, 1), name=_NAMES)
    def is_refused(self, who: int, name: str) -> None:
        if name not in self.model.spans:
            with pytest.raises(UnknownNameError):
                self.stores[who].write([extraction_kept(an_extraction(name))], "test")

    @rule(who=st.integers(0, 1))
    def purge(self, who: int) -> None:
        store = self.stores[who]
        store.refresh()
        store.purge(time.time() + 60)

    @rule(who=st.integers(0, 1))
    def collect(self, who: int) -> None:
        self.stores[who].collect(time.time() + 60)
        for store in self.stores:
            store.log._open.clear()  # an open file would outlive its name

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.stores[who] = TraceStore(self.workspace)

    @rule(who=st.integers(0, 1))
    def see(self, who: int) -> None:
        store, model = self.stores[who], self.model
        store.refresh()
        for trace in (None, "one", "two"):
            expected = model.listed(trace)
            assert store.spans(SpanFilter(trace_id=trace), 9) == (expected, len(expected))
            assert store.spans(SpanFilter(text=trace), 2, 1) == (expected[1:3], len(expected))
        for name in "abcd":
            readings = model.readings.get(name, {})
            assert store.extractions(name) == [readings[sae] for sae in sorted(readings)]
        assert store.counts() == (len(model.spans), sum(map(len, model.readings.values())))
        starts = {
            trace: min(one.started_at for one in model.listed(trace)) for trace in {s.trace_id for s in model.listed()}
        }
        found, total = store.traces(SpanFilter(), 9)
        assert total == len(starts)
        assert [one.trace_id for one in found] == sorted(starts, key=lambda one: (starts[one], one), reverse=True)
        assert {one.trace_id: (one.started_at, one.n_spans) for one in found} == {
            trace: (start, len(model.listed(trace))) for trace, start in starts.items()
        }

    @invariant()
    def reads_what_it_has_seen(self) -> None:
        """Also where its files are no longer the ones that there are."""
        for store in self.stores:
            assert len(store.spans(SpanFilter(), 9)[0]) <= 4

    def sees_the_same_by_sql(self) -> None:
        def rows(sql: str) -> list[tuple[Any, ...]]:
            return [tuple(row.values()) for row in query(self.workspace, sql).table.to_pylist()]

        spans = rows("SELECT span_id, trace_id, input, started_at FROM spans ORDER BY span_id")
        assert spans == [
            (one.span_id, one.trace_id, one.input, one.started_at)
            for one in sorted(self.model.spans.values(), key=lambda one: one.span_id)
        ]
        columns = "span_id, sae, feature, activation, position"
        found = rows(f"SELECT {columns} FROM sae_feature_activations ORDER BY ALL")
        assert found == sorted(
            (name, sae, peak.index, peak.activation, peak.position)
            for name, readings in self.model.readings.items()
            for sae, one in readings.items()
            for peak in one.peaks.first(99)
        )


TestTraces = Traces.TestCase
TestTraces.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)
