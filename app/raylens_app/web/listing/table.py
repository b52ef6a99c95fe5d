"""A page of features as a table; choosing a row opens the feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import streamlit as st

from raylens.ids import FeatureId
from raylens.reports.visible import one_line
from raylens.search.features import Hit
from raylens.store.selection import Readable
from raylens_app.web.desk import Desk
from raylens_app.web.listing.filters import BOUND, PAGE, Asked
from raylens_app.web.numbers import score
from raylens_app.web.registry import go
from raylens_app.web.rows import chosen_row
from raylens_app.web.states import empty

_DIGITS: Final = 9
_STAR: Final = "★"


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of rows.

    Attributes:
        rows: Of :meth:`raylens.labels.workspace_features.WorkspaceFeatures.page`.
        total: Features in all.
        hits: Of a search: how well each row fits; else empty.
    """

    rows: Sequence[Mapping[str, Any]]
    total: int
    hits: Sequence[Hit] = ()


def table(desk: Desk, asked: Asked) -> None:
    """The page that the address names, with what leads to the others."""
    number = _number()
    offset = (number - 1) * asked.size
    listed = _searched(desk, asked, offset) if asked.query else _listed(desk, asked, offset)
    if not listed.rows and listed.total:  # a link to a page that is not there any more
        number, offset = 1, 0
        listed = _searched(desk, asked, offset) if asked.query else _listed(desk, asked, offset)
    if not listed.rows:
        _nothing(desk, asked)
        return
    chosen = _drawn(desk, asked, listed, f"rows-{asked.signature}-{number}")
    _pages(asked, listed, offset)
    if chosen is not None:
        row = listed.rows[chosen]
        one = asked.chosen[row["sae"]]
        go("feature", id=str(FeatureId(one.sae, row["feature"])), cache=one.cache_id)


def _number() -> int:
    """The page that is asked for; the widget that says so stands below the table, and is not there at first."""
    said = str(st.session_state.get(PAGE) or st.query_params.get(PAGE) or 1)
    return max(1, int(said)) if said.isascii() and said.isdecimal() and len(said) < _DIGITS else 1


def _listed(desk: Desk, asked: Asked, offset: int) -> Listed:
    rows, total = desk.features.page(asked.chosen, asked.wanted, asked.size, offset)
    return Listed(rows, total)


def _searched(desk: Desk, asked: Asked, offset: int) -> Listed:
    embed = desk.embedding() if asked.by_meaning else None
    if asked.by_meaning and embed is None:
        st.info("Searching by words alone: `pip install 'raylens[app]'` adds what reads the embedding.")
    among = desk.features.matching(asked.chosen, asked.wanted) if asked.is_filtered else None
    found = desk.features.search(asked.chosen, asked.query, embed, asked.size, offset, among)
    place = {one.sae: at for at, one in enumerate(asked.chosen)}
    rows = desk.features.rows_of(asked.chosen, [(place[hit.sae], hit.feature) for hit in found.hits])
    return Listed(rows, found.n_features, found.hits)


def _nothing(desk: Desk, asked: Asked) -> None:
    if asked.query:
        rows, _ = desk.features.page(asked.chosen, asked.wanted, 1, 0)
        n_said = desk.features.sample(asked.chosen, asked.wanted, 0)[1] if rows else 0
        empty(
            "Nothing that is said of a feature fits.",
            "Other words may, or fewer filters. Only explanations and labels are searched; this makes more of them:"
            if n_said
            else "The filters leave nothing to search in.",
            command=f"raylens --workspace {desk.workspace.url} explain" if n_said else "",
        )
    else:
        empty("No feature is like that.", "Take a filter away; scores are there only of explanations that were scored.")


def _pages(asked: Asked, listed: Listed, offset: int) -> None:
    n_pages = max(1, -(-listed.total // asked.size))
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{offset + 1:,} to {offset + len(listed.rows):,} of {listed.total:,} features", width="content")
        st.pagination(n_pages, key=PAGE, bind=BOUND)


def _drawn(desk: Desk, asked: Asked, listed: Listed, key: str) -> int | None:
    """The table; the place of the row that was chosen, if one was."""
    rows = _cells(desk, asked, listed)
    several = len(asked.chosen) > 1
    columns = {
        "feature": st.column_config.TextColumn(width="small", pinned=True),
        "fits": st.column_config.NumberColumn(
            format="%.2f", help="Of the ranking by words and by meaning: 1 where both put it first."
        ),
        "meaning": st.column_config.NumberColumn(format="%.2f", help="Cosine between the query and the text."),
        "said": st.column_config.TextColumn(
            "explanation or label", width="large", help="The best that is said of it: by score, then by length."
        ),
        "score": st.column_config.ProgressColumn(
            format="%.2f", min_value=0, max_value=1, width="small", help="Mean of the headline figures of its scorers."
        ),
        "density": st.column_config.NumberColumn(
            format="%.3g %%", help="Share of the cache's text tokens on which it fires, in per cent."
        ),
        "maximum": st.column_config.NumberColumn(format="%.3g", help="In units of the SAE's activations."),
        "activations": st.column_config.BarChartColumn(
            y_min=0, y_max=1, help="Histogram of its activations, log-spaced; one scale for the page, a height a row."
        ),
        "bucket": st.column_config.TextColumn(width="small", help="By the words of what is said."),
    }
    order = [name for name in rows[0] if name != "SAE" or several]
    return chosen_row(rows, columns, key=key, alt="features; choosing a row opens one", order=order, missing="")


def _cells(desk: Desk, asked: Asked, listed: Listed) -> list[dict[str, Any]]:
    histograms = _histograms(desk, asked.chosen, listed.rows)
    scorers = list(
        dict.fromkeys(f"{one['scorer']} {one['metric']}" for row in listed.rows for one in row["scores"] or ())
    )
    cells: list[dict[str, Any]] = []
    for at, row in enumerate(listed.rows):
        one = asked.chosen[row["sae"]]
        hit = listed.hits[at] if listed.hits else None
        said = hit.text if hit else row["label"] or row["explanation"]
        figures = {f"{each['scorer']} {each['metric']}": each for each in row["scores"] or ()}
        cells.append(
            {
                "feature": one.short(row["feature"]) + (f" {_STAR}" if row["starred"] else ""),
                **({"fits": hit.score, "meaning": hit.similarity} if hit else {}),
                "said": one_line(said) if said else None,
                "score": row["score"],
                **{name: score(figures.get(name)) for name in scorers},
                "density": 100 * row["density"],
                "maximum": row["max_activation"],
                "activations": histograms[at],
                "bucket": row["bucket"],
                "SAE": str(one.sae),
            }
        )
    return cells


def _histograms(desk: Desk, chosen: Sequence[Readable], rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Shares of each row's largest bin, of the bins between the first and the last that anything on the page has."""
    counts = np.zeros((len(rows), 0))
    for place, one in enumerate(chosen):
        own = [at for at, row in enumerate(rows) if row["sae"] == place]
        if own:
            found = desk.features.histograms(one, [rows[at]["feature"] for at in own])
            if not counts.shape[1]:
                counts = np.zeros((len(rows), len(found[0])))
            counts[own] = found
    filled = np.flatnonzero(counts.sum(axis=0))
    if not len(filled):
        return [[] for _ in rows]
    kept = counts[:, filled[0] : filled[-1] + 1]
    return (kept / np.maximum(1, kept.max(axis=1, keepdims=True))).round(3).tolist()
