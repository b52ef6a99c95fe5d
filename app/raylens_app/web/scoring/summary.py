"""The card in figures: medians beside chance, what an SAE comes to, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import streamlit as st

from raylens.reports.visible import one_line
from raylens.score.aggregate import GOOD_F1, GOOD_PRECISION, GOOD_RECALL
from raylens_app.cli.score_card import AGGREGATES
from raylens_app.web.numbers import score
from raylens_app.web.plain import plain
from raylens_app.web.scoring.passes import ScoredPass

_TILES: Final = {
    "good_rate": (
        "good features",
        f"F1 > {GOOD_F1}, precision > {GOOD_PRECISION}, recall > {GOOD_RECALL}, and a concept rather than grammar.",
    ),
    "threshold_rate": (
        "above the thresholds",
        f"F1 > {GOOD_F1}, precision > {GOOD_PRECISION}, recall > {GOOD_RECALL}; concept or grammar alike.",
    ),
    "frequency_weighted_f1": ("frequency-weighted F1", "What a token met at random can expect."),
    "mean_is_concept": ("name a concept", "Share of explanations that a judge takes for a concept and not grammar."),
}
_THREE: Final = "%.3f"


def summary(found: Sequence[ScoredPass]) -> None:
    """Draw tiles and tables of each pass."""
    for one in found:
        if len(found) > 1:
            st.subheader(plain(f"{one.explainer} explainer"), anchor=False)
        _tiles(one)
        _medians(one)
        _aggregates(one)


def failures(found: Sequence[ScoredPass]) -> None:
    """What explainers could not say, and what scorers were not answered."""
    for one in found:
        st.markdown(f"**{plain(one.explainer)} explainer**: what became of features")
        rows = [
            {"status": each.status, "features": each.n, "most often": one_line(each.error)} for each in one.outcomes
        ]
        if rows:
            wide = {"most often": st.column_config.TextColumn(width="large")}
            st.dataframe(rows, hide_index=True, column_config=wide, alt="features by what the explainer made of them")
        else:
            st.caption("Its explanations are not there any more.")
        st.markdown("Scores: questions that nobody answered, and features without a value")
        spreads = [each for each in one.scored.spreads if each.control is None]
        st.dataframe(
            [
                {
                    "scorer": each.scorer,
                    "metric": each.metric,
                    "features with a value": len(each.values),
                    "without": each.n_without,
                    "answers": each.n_asked,
                    "unanswered": each.n_unanswered,
                }
                for each in spreads
            ],
            hide_index=True,
            alt="what scorers could not measure",
        )


def _tiles(one: ScoredPass) -> None:
    rows = [row for row in one.card["aggregates"] if row["metric"] in _TILES and row["n"]]
    if not rows:
        return
    with st.container(horizontal=True):
        for row in rows:
            name, says = _TILES[row["metric"]]
            note = f"{says} {row['scorer']} scorer; 95 % interval; n {row['n']:,} features."
            st.metric(plain(f"{name} ({row['scorer']})"), score(row), help=plain(note), border=True)
    if not any(row["metric"] == "good_rate" for row in rows):
        st.caption(
            "The good-feature rate needs the concept scorer, which asks a language model: "
            "`raylens score --scorer concept`."
        )


def _medians(one: ScoredPass) -> None:
    st.markdown("**Medians over features**", help="Shuffled: the same with each explanation given to another feature.")
    rows = [
        {
            "scorer": row["scorer"],
            "metric": row["metric"],
            "median": row["median"],
            "from": row["ci_low"],
            "to": row["ci_high"],
            "features": row["n"],
            "without a value": row["n_without_value"],
            "shuffled": row["shuffled"],
        }
        for row in one.card["figures"]
    ]
    _table(rows, ("median", "from", "to", "shuffled"), "medians of all metrics")


def _aggregates(one: ScoredPass) -> None:
    rows: list[dict[str, Any]] = [
        {
            "scorer": row["scorer"],
            "over the SAE": AGGREGATES[row["metric"]],
            "value": row["value"],
            "from": row["ci_low"],
            "to": row["ci_high"],
            "features": row["n"],
        }
        for row in one.card["aggregates"]
        if row["metric"] in AGGREGATES and row["n"]
    ]
    if rows:
        st.markdown("**Over the SAE**")
        _table(rows, ("value", "from", "to"), "aggregates over the SAE")


def _table(rows: list[dict[str, Any]], numbers: Sequence[str], alt: str) -> None:
    interval = "95 % interval"
    columns = {
        name: st.column_config.NumberColumn(format=_THREE, help=interval if name in ("from", "to") else None)
        for name in numbers
    }
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="–", alt=alt)
