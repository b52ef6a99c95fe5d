"""Score card: how good the explanations of an SAE are, beside what chance gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import streamlit as st

from raylens.store.selection import Readable
from raylens_app.web.desk import Desk
from raylens_app.web.scoring.passes import ScoredPass, scored_caches, scored_passes, scored_saes
from raylens_app.web.scoring.summary import failures, summary
from raylens_app.web.states import empty, explained

_BOUND: Final = "query-params"
_ALL: Final = "all"


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("Score card")
    with explained():
        caches = scored_caches(desk)
        if not caches:
            empty(
                "Nothing is scored yet.",
                "Scorers test explanations on text that explainers did not see. These ask nobody:",
                command=f"raylens --workspace {desk.workspace.url} score --scorer rule --scorer embedding",
            )
            return
        with st.container(horizontal=True, vertical_alignment="bottom"):
            one = _sae(desk, caches)
            found = scored_passes(desk, one)
            chosen = _pass(found)
            part = st.segmented_control(
                "show", tuple(_PARTS), default=_FIRST, required=True, key="card_part", bind=_BOUND
            )
        _PARTS[part or _FIRST](chosen)


def _sae(desk: Desk, caches: Sequence[str]) -> Readable:
    cache = caches[0]
    if len(caches) > 1:
        cache = st.selectbox("cache", caches, key="card_cache", bind=_BOUND, width=200)
    saes = {str(one.sae): one for one in scored_saes(desk, cache)}
    return saes[st.selectbox("SAE", list(saes), key="card_sae", bind=_BOUND, width=280)]


def _pass(found: Sequence[ScoredPass]) -> list[ScoredPass]:
    names = [one.explainer for one in found]
    if len(names) < 2:
        return list(found)
    name = st.selectbox("explainer", (_ALL, *names), key="card_explainer", bind=_BOUND, width=220)
    return [one for one in found if name in (_ALL, one.explainer)]


# Charts are imported where they are wanted: that takes a quarter of a second.


def _spreads(found: Sequence[ScoredPass]) -> None:
    from raylens_app.web.scoring.spread_charts import spread_charts

    every = st.toggle("all metrics", key="card_metrics", bind=_BOUND, help="Not only the one that is a scorer's score.")
    spread_charts(found, all_metrics=every)


def _precision(found: Sequence[ScoredPass]) -> None:
    from raylens_app.web.scoring.point_charts import precision_and_recall

    if not any(len(points) for one in found for points in one.scored.points.values()):
        empty("No scorer has precision and recall.", "Those that say yes or no do: rule, detection, fuzz.")
        return
    precision_and_recall(found)


def _density(found: Sequence[ScoredPass]) -> None:
    from raylens_app.web.scoring.point_charts import by_density

    if not any(one.card["by_density"] for one in found):
        empty("No scorer has an F1.", "Those that say yes or no do: rule, detection, fuzz.")
        return
    by_density(found)


_FIRST: Final = "summary"
_PARTS: Final[Mapping[str, Callable[[Sequence[ScoredPass]], None]]] = {
    _FIRST: summary,
    "distributions": _spreads,
    "precision and recall": _precision,
    "by density": _density,
    "failures": failures,
}
"""Only the chosen one is drawn."""
