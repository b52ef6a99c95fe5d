"""What explainers say of a feature, each with what scorers measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from raylens.labels.page_shapes import HEADLINES
from raylens.store.feature_card import Explained
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import score
from raylens_app.web.plain import plain
from raylens_app.web.states import empty


def explanations(subject: Subject) -> None:
    """Every explanation, the latest first."""
    found = subject.card.explanations
    if not found:
        empty(
            "No explainer has looked at this feature, or none found anything to say.",
            "This has it explained and scored without a language model:",
            command=f"raylens --workspace {subject.desk.workspace.url} explain --explainer lexical --features "
            f"{subject.index} --sae {subject.one.sae}",
        )
        return
    for one in found:
        _explanation(one)


def _explanation(one: Explained) -> None:
    row = one.row
    who = row["model"] or row["explainer"]
    with st.container(border=True):
        st.markdown(f"**{plain(row['explanation'])}**")
        at = f" · {row['created_at']:%Y-%m-%d %H:%M} UTC" if row["created_at"] else ""
        st.caption(plain(f"{row['explainer']} explainer" + (f", {who}" if who != row["explainer"] else "") + at))
        own = headlines(one.figures)
        if not own:
            st.caption("not scored: `raylens score` tests it on text that the explainer did not see")
            return
        with st.container(horizontal=True):
            for figure in own:
                st.metric(
                    plain(f"{figure['scorer']} {figure['metric']}"),
                    score(figure),
                    help=plain(_about(figure)),
                    width="content",
                )
        with st.expander("All figures"):
            _details(one)


def headlines(figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each scorer and judge the one figure that is its score; of equal ones that of the last run."""
    by_scorer: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for one in figures:
        if one["value"] is not None:
            by_scorer.setdefault((one["scorer"], one["judge"] or ""), {})[one["metric"]] = one
    return [
        found[next((name for name in HEADLINES if name in found), min(found))] for _, found in sorted(by_scorer.items())
    ]


def _about(figure: Mapping[str, Any]) -> str:
    judge = f", judged by {figure['judge']}" if figure["judge"] else ""
    failed = f", {figure['n_failed']:,} unanswered" if figure["n_failed"] else ""
    return f"{figure['metric']} of the {figure['scorer']} scorer{judge}; 95 % interval; n {figure['n']:,}{failed}."


def _details(one: Explained) -> None:
    rows = [
        {
            "scorer": figure["scorer"],
            "judge": figure["judge"],
            "metric": figure["metric"],
            "value": figure["value"],
            "from": figure["ci_low"],
            "to": figure["ci_high"],
            "n": figure["n"],
            "unanswered": figure["n_failed"],
        }
        for figure in one.figures
    ]
    three = st.column_config.NumberColumn(format="%.3f", help="95 % interval")
    columns = {"value": st.column_config.NumberColumn(format="%.3f"), "from": three, "to": three}
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="–", alt="all figures of this explanation")
    if one.row["rule"]:
        st.caption("The rule that it stands for, as it is run:")
        st.code(_indented(one.row["rule"]), language="json", wrap_lines=True)


def _indented(rule: str) -> str:
    try:
        return json.dumps(json.loads(rule), indent=1, ensure_ascii=False)
    except ValueError:
        return rule
