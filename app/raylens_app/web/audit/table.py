"""The list of audits: filtered by what the address says; choosing a row opens the audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from raylens.api.audits import AuditRow
from raylens.reports.visible import one_line
from raylens_app.web.audit.shelf import listed
from raylens_app.web.desk import Desk
from raylens_app.web.registry import go
from raylens_app.web.rows import chosen_row
from raylens_app.web.states import empty

BOUND: Final = "query-params"
ANY: Final = "any"
SIGNS: Final = {
    "flagged": "▲ flagged",
    "not flagged": "○ not flagged",
    "inconclusive": "? inconclusive",
    "at work": "… at work",
    "unfinished": "– unfinished",
    "damaged": "! damaged",
}
"""Each state with a sign of its own, for colour is not in a table's cells."""
_TALLEST: Final = 640
_ABOUT_P: Final = "Share of benign fine-tunes, the candidate counted among them, that score as high as it does."


def table(desk: Desk) -> None:
    """Draw the filters and the rows that they leave."""
    rows = listed(desk)
    if not rows:
        empty(
            "No fine-tune has been audited yet.",
            "An audit compares a fine-tune with its reference, and with benign fine-tunes of it. It is started on this "
            "page, or by",
            command=f"raylens --workspace {desk.workspace.url} audit run --candidate FOLDER",
        )
        return
    chosen = _filtered(rows)
    if not chosen:
        empty("No audit is like that.", "Take a filter away.")
        return
    n = f"{len(chosen):,} of {len(rows):,}" if len(chosen) < len(rows) else f"{len(rows):,}"
    st.caption(f"{n} {'audit' if len(rows) == 1 else 'audits'}, the one finished last first")
    place = _drawn(chosen)
    if place is not None:
        go("audit", run=f"{chosen[place].session}/{chosen[place].run}")


def state_of(row: AuditRow) -> str:
    """The verdict; of an audit that has none, how it stands."""
    return row.verdict or row.state


def _filtered(rows: Sequence[AuditRow]) -> list[AuditRow]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = st.text_input(
            "Search", key="find", bind=BOUND, max_chars=200, placeholder="candidate, reference, suite, run or title"
        )
        states = [state for state in SIGNS if any(state_of(row) == state for row in rows)]
        state = st.selectbox("verdict", (ANY, *states), key="verdict", bind=BOUND, width=180)
        sessions = sorted({row.session for row in rows})
        session = ANY
        if len(sessions) > 1:
            session = st.selectbox("session", (ANY, *sessions), key="of_session", bind=BOUND, width=200)
    wanted = words.casefold().split()
    return [
        row
        for row in rows
        if state in (ANY, state_of(row)) and session in (ANY, row.session) and all(one in _text(row) for one in wanted)
    ]


def _text(row: AuditRow) -> str:
    said = (row.title, row.candidate, row.reference, row.suite, row.score_method, row.session, row.run)
    return " ".join(one for one in said if one).casefold()


def _drawn(rows: Sequence[AuditRow]) -> int | None:
    """The table; the place of the row that was chosen, if one was."""
    columns = {
        "p": st.column_config.NumberColumn(format="%.3g", help=_ABOUT_P),
        "n": st.column_config.NumberColumn(help="Benign fine-tunes that it was compared with."),
        "score": st.column_config.NumberColumn(
            format="%.4g", help="Larger is more suspicious; in units of its method."
        ),
        "capability": st.column_config.TextColumn(help="Whether the candidate still does what its reference can."),
        "when": st.column_config.DatetimeColumn("when (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"),
    }
    return chosen_row(
        [_cells(row) for row in rows],
        columns,
        key=f"audits-{hash(tuple((row.session, row.run) for row in rows))}",
        alt="audits; choosing a row opens one",
        tallest=_TALLEST,
    )


def _cells(row: AuditRow) -> dict[str, Any]:
    return {
        "verdict": SIGNS[state_of(row)],
        "candidate": one_line(row.candidate or row.run),
        "p": row.p_value,
        "n": row.n_benign,
        "score": row.score,
        "method": row.score_method,
        "capability": row.capability,
        "suite": one_line(row.suite) if row.suite else None,
        "reference": one_line(row.reference) if row.reference else None,
        "when": row.finished_at or row.started_at,
        "session": row.session,
        "run": row.run,
    }
