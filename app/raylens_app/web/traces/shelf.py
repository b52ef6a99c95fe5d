"""Traces of the workspace as pages read them: by the log's own reader, which all sessions share, without services."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.api.extraction import Extraction, SpanFeature
from raylens.catalog import Catalog
from raylens.errors import DamagedFileError
from raylens.labels.own_features import OwnFeatures
from raylens.labels.span_labels import SpanLabels
from raylens.store.trace_reader import TraceReader
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_app.web.desk import Desk
from raylens_app.web.traces.tree import Step, ordered

LOOK_S: Final = 1.0
"""Seconds within which nobody looks for what others sent."""
_MODELS_S: Final = 5.0
_STEP: Final = ("span_id", "parent_id", "name", "kind", "model", "started_at", "ended_at", "status")
"""Of a span, what a tree needs; no texts."""


class _Shelf:
    """The reader of one workspace, opened when it is first asked for; it sees what others sent within a second."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._turn = threading.Lock()
        self._reader: TraceReader | None = None
        self._looked = 0.0

    def reader(self, *, now: bool) -> TraceReader:
        with self._turn:
            if self._reader is None:
                self._reader = TraceReader(self._workspace)
            elif now or time.monotonic() > self._looked + LOOK_S:
                self._reader.refresh()
            else:
                return self._reader
            self._looked = time.monotonic()
            return self._reader


def traces_of(desk: Desk, *, now: bool = False) -> TraceReader:
    """The workspace's traces as they were at most a second ago.

    Args:
        desk: Whose workspace.
        now: Look once more: this session has just had something written.

    Raises:
        DamagedFileError: A segment of the log is missing, truncated, or fails a checksum.
    """
    return _shelf(desk.workspace.url, desk.workspace).reader(now=now)


def steps_of(reader: TraceReader, trace_id: str, limit: int, offset: int) -> tuple[list[Step], int]:
    """Some spans of a trace as a tree, the earliest first, and how many it has; none of their texts is read.

    Args:
        reader: Of the workspace.
        trace_id: Of the trace.
        limit: Spans at most, of those in order of their start.
        offset: How many come before them.

    Raises:
        DamagedFileError: A segment of the log cannot be read.
    """
    entries = {span_id: entry for span_id in reader.spans_of(trace_id) if (entry := reader.entry(span_id)) is not None}
    there = sorted(entries, key=lambda span_id: (entries[span_id].started, span_id))
    sequences = [entries[span_id].sequence for span_id in there[offset : offset + limit]]
    try:
        rows = reader.log.rows(reader.log.commits.covering(), sequences, _STEP)
    except DamagedFileError:
        # Segments may have been rolled into another one since they were listed: once more tells.
        rows = reader.log.rows(reader.log.commits.covering(), sequences, _STEP)
    steps = [Step(**{name: rows[one][name] for name in _STEP}) for one in sequences if one in rows]
    return ordered(steps), len(there)


def models_of(desk: Desk) -> Sequence[str]:
    """Models that spans name, as they were at most some seconds ago."""
    return _models(desk.workspace.url, desk.workspace)


def labelled(desk: Desk, extraction: Extraction, top_k: int) -> tuple[SpanFeature, ...]:
    """The largest features of what is kept of a span, with what this workspace knows of them; nobody is asked."""
    labels = _labels(desk.workspace.url, desk.workspace, desk.catalog, desk.features.own)
    return asyncio.run(labels.label(extraction, top_k))


@st.cache_resource(show_spinner=False, max_entries=8)
def _shelf(url: str, _workspace: Workspace) -> _Shelf:
    return _Shelf(_workspace)


@st.cache_data(ttl=_MODELS_S, show_spinner=False, max_entries=8)
def _models(url: str, _workspace: Workspace) -> list[str]:
    with connect(_workspace, only=["spans"]) as connection:
        rows = connection.execute("SELECT DISTINCT model FROM spans WHERE model IS NOT NULL ORDER BY 1").fetchall()
    return [name for (name,) in rows]


@st.cache_resource(show_spinner=False, max_entries=8, on_release=SpanLabels.close)
def _labels(url: str, _workspace: Workspace, _catalog: Catalog, _own: OwnFeatures) -> SpanLabels:
    # Asking Neuronpedia is the services' business: a page that is looked at sends nothing anywhere.
    return SpanLabels(_workspace, _catalog, enabled=False, own=_own)
