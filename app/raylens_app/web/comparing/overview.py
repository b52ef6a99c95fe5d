"""What is known of each feature, a column each, and how alike every two are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import streamlit as st

from raylens.ids import FeatureId
from raylens.reports.markup import Child, Markup, element, joined
from raylens.reports.page import table
from raylens_app.web.desk import Desk
from raylens_app.web.feature.explanations import headlines
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import count, figure, score, share
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.theme import report_style

_EXPLANATIONS: Final = 3
_KEPT: Final = 64


def overview(subjects: Sequence[Subject]) -> None:
    """Draw the table, and that of pairs."""
    with st.container(horizontal=True):
        for one in subjects:
            link("feature", plain(one.short), icon="center_focus_strong", id=str(one.id), cache=one.one.cache_id)
    st.html(report_style())
    st.html(element("div", _table(subjects), class_="rl-report"))
    if len(subjects) > 1:
        _pairs(subjects)


def _table(subjects: Sequence[Subject]) -> Markup:
    def said(one: Subject, name: str) -> Child:
        found = one.card.statistics[name]
        return count(found) if isinstance(found, int) else figure(found)

    rows: list[list[Child]] = [
        ["said of it", *(one.said or element("em", "nothing yet") for one in subjects)],
        ["explanations", *(_explanations(one) for one in subjects)],
        ["bucket", *(_bucket(one) for one in subjects)],
        ["density, of tokens", *(share(one.card.statistics["density"]) for one in subjects)],
        ["tokens it fires on", *(f"{said(one, 'n_active')} of {count(one.card.n_tokens)}" for one in subjects)],
        ["windows", *(said(one, "n_windows") for one in subjects)],
        ["mean activation", *(said(one, "mean_activation") for one in subjects)],
        ["largest activation", *(said(one, "max_activation") for one in subjects)],
        ["SAE", *(str(one.one.sae) for one in subjects)],
        ["cache", *(one.one.name or one.one.cache_id for one in subjects)],
    ]
    return table("features side by side", ["", *(one.short for one in subjects)], rows)


def _bucket(one: Subject) -> Markup:
    return element("span", element("span", class_=f"rl-bucket rl-bucket-{one.bucket}"), one.bucket)


def _explanations(one: Subject) -> Markup:
    """The latest of each, with the scores of each scorer."""
    found: list[Child] = []
    for each in one.card.explanations[:_EXPLANATIONS]:
        figures = [f"{row['scorer']} {row['metric']} {score(row)}, n {row['n']:,}" for row in headlines(each.figures)]
        said = f"{each.row['explainer']}: {'; '.join(figures) or 'not scored'}"
        found.append(element("p", str(each.row["explanation"]), element("br"), element("span", said, class_="soft")))
    more = len(one.card.explanations) - _EXPLANATIONS
    return joined(*found, f"and {more} more" if more > 0 else None) if found else joined("none")


def _pairs(subjects: Sequence[Subject]) -> None:
    st.markdown("**How alike they are**")
    rows = [_pair(first, second) for first, second in combinations(subjects, 2)]
    columns = {
        "decoder cosine": st.column_config.NumberColumn(
            format="%.3f", help="How alike they write; none where weights are not at hand or widths differ."
        ),
        "Jaccard": st.column_config.NumberColumn(
            format="%.3f", help="Tokens on which both fire, divided by those on which either does; of one cache."
        ),
        "both fire on": st.column_config.NumberColumn(format="localized", help="Tokens; beginnings of texts left out."),
    }
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="–", alt="pairs of features")
    if any(row["Jaccard"] is None for row in rows):
        st.caption("No Jaccard index: no cache holds both, or it keeps the strongest windows alone.")


def _pair(first: Subject, second: Subject) -> dict[str, Any]:
    names = str(first.id), str(second.id)
    generations = first.desk.features.own.generations()
    caches = first.one.cache_id, second.one.cache_id
    cosine, n_both, jaccard = _measured(first.desk.workspace.url, generations, names, caches, first.desk)
    return {
        "feature": first.short,
        "and": second.short,
        "decoder cosine": cosine,
        "Jaccard": jaccard,
        "both fire on": n_both,
    }


@st.cache_data(show_spinner="Comparing …", max_entries=_KEPT)
def _measured(
    url: str, generations: object, names: tuple[str, str], caches: tuple[str, str], _desk: Desk
) -> tuple[float | None, int | None, float | None]:
    """Cosine, tokens in common, and their share of all; all rows of both are read for it."""
    first, second = (
        _desk.features.find(str(FeatureId.parse(name)), cache) for name, cache in zip(names, caches, strict=True)
    )
    cosine, shared = _desk.features.pair(first, second)
    return cosine, shared.n_both if shared else None, shared.jaccard if shared else None
