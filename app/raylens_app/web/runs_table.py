"""Runs of a workspace with how far they are, looked at again every few seconds while the page is open."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import streamlit as st

from raylens.store.runs import RunRecord
from raylens_app.cli.output import duration
from raylens_app.web.desk import Desk
from raylens_app.web.numbers import ago, figure
from raylens_app.web.plain import plain
from raylens_app.web.states import explained
from raylens_app.web.theme import STATUS

_SHOWN: Final = 8
_AGAIN_S: Final = 3.0


@st.fragment(run_every=_AGAIN_S)
def runs_table(desk: Desk, *, kind: str | None = None, shown: int = _SHOWN) -> None:
    """The newest runs; one that works has a bar, one that failed says why.

    Args:
        desk: Whose workspace.
        kind: Only runs of this kind (``audit``, ``explain`` …).
        shown: How many at most.
    """
    with explained():
        runs = [run for run in desk.runs() if kind is None or run.kind == kind]
        for run in runs[:shown]:
            _run(run)
        if len(runs) > shown:
            st.caption(f"{len(runs) - shown:,} older ones: `raylens runs --limit {len(runs)}`")


def _run(run: RunRecord) -> None:
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(run.status, color=STATUS.get(run.status, "gray"))
            st.markdown(f"**{plain(run.run_id)}**", width="content")
            st.caption(f"{plain(run.kind)} · began {ago(run.started_at)} · {_took(run)}", width="content")
        if run.error:
            st.markdown(plain(run.error))
        if run.status == "running" and (done := _share(run.progress)) is not None:
            st.progress(done, text=plain(_progress(run.progress)))
        elif run.status == "running" and run.progress:
            st.caption(plain(_progress(run.progress)))
        elif run.status == "lost":
            st.markdown("Its process is gone and nothing says how it ended; the same command again goes on from there.")


def _took(run: RunRecord) -> str:
    # A lost run worked until it was last heard of.
    last = run.finished_at or (run.heartbeat_at if run.status == "lost" else datetime.now(UTC))
    seconds = duration((last - run.started_at).total_seconds())
    return f"{'has worked' if run.status == 'running' else 'took'} {seconds}"


def _totals(progress: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """What is counted, how much is done, and of how much."""
    found: list[tuple[str, float, float]] = []
    for name, value in progress.items():
        total = progress.get(f"{name}_total", progress.get(f"{name}_wanted"))
        if isinstance(value, int | float) and isinstance(total, int | float) and total > 0:
            found.append((name, float(value), float(total)))
    return found


def _share(progress: Mapping[str, Any]) -> float | None:
    totals = _totals(progress)
    return min(1.0, totals[0][1] / totals[0][2]) if totals else None


def _progress(progress: Mapping[str, Any]) -> str:
    totals = _totals(progress)
    parts = [f"{done:,.0f} of {total:,.0f} {name.replace('_', ' ')}" for name, done, total in totals]
    known = {name for name, _, _ in totals}
    for name, value in progress.items():
        plain_value = isinstance(value, int | float | str) and not name.endswith(("_total", "_wanted"))
        if plain_value and value != 0 and name not in known:
            shown = figure(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return " · ".join(parts)
