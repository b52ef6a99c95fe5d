"""Features beside this one: those that write alike, and those that fire with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from raylens.ids import FeatureId
from raylens.reports.visible import one_line
from raylens_app.web.feature.subject import Subject
from raylens_app.web.registry import go


def relatives(subject: Subject) -> None:
    """Draw both lists; choosing a row opens that feature."""
    left, right = st.columns(2)
    with left:
        _list(
            subject,
            "Decoder neighbours",
            subject.card.relatives("neighbours", "neighbour", "cosine"),
            "cosine",
            "Cosine of the decoder directions: how alike they write.",
        )
    with right:
        _list(
            subject,
            "Fires with",
            subject.card.relatives("cofiring", "other", "jaccard"),
            "jaccard",
            "Jaccard index on sampled tokens: both fire, divided by either fires.",
        )


def _list(subject: Subject, title: str, rows: Sequence[Mapping[str, Any]], measure: str, says: str) -> None:
    st.markdown(f"**{title}**", help=says)
    if not rows:
        st.caption("none: they are made when a cache is merged with its SAE's weights at hand.")
        return
    said = subject.desk.features.rows_of([subject.one], [(0, row["feature"]) for row in rows])
    by_index = {row["feature"]: one_line(row["label"] or row["explanation"] or "") or None for row in said}
    shown = [{"feature": row["id"], measure: row[measure], "said of it": by_index.get(row["feature"])} for row in rows]
    columns = {
        measure: st.column_config.ProgressColumn(format="%.2f", min_value=0, max_value=1, width="small", help=says),
        "said of it": st.column_config.TextColumn(width="large"),
    }
    found = st.dataframe(
        shown,
        hide_index=True,
        column_config=columns,
        placeholder="",
        key=f"{measure}-{subject.id}",
        on_select="rerun",
        selection_mode="single-row",
        alt=f"{title}; choosing a row opens that feature",
    )
    if chosen := found["selection"]["rows"]:
        other = FeatureId(subject.one.sae, rows[chosen[0]]["feature"])
        go("feature", id=str(other), cache=subject.one.cache_id)
