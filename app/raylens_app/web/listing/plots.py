"""Features as points: density against F1, and the map of decoder directions. Choosing a point opens the feature."""

from __future__ import annotations

from typing import Any, Final

import altair as alt
import streamlit as st

from raylens import schema
from raylens.ids import FeatureId
from raylens_app.web.charts import scatter
from raylens_app.web.desk import Desk
from raylens_app.web.listing.filters import Asked
from raylens_app.web.registry import go
from raylens_app.web.states import empty

MOST: Final = 4000
"""Points that a browser draws and lets choose without a pause; of more features always the same ones are shown."""

_SAID: Final = (
    alt.Tooltip("name:N", title="feature"),
    alt.Tooltip("said:N", title="said of it"),
    alt.Tooltip("density:Q", format=".3%"),
    alt.Tooltip("score:Q", format=".2f"),
    alt.Tooltip("bucket:N"),
)


def density_and_f1(desk: Desk, asked: Asked) -> None:
    """How good explanations are, by how often their features fire."""
    _note_search(asked)
    rows, total = desk.features.sample(asked.chosen, asked.wanted, MOST, with_f1=True)
    points = [_point(asked, row) for row in rows if row["density"] > 0]
    if not points:
        empty(
            "No feature that the filters leave has an F1.",
            "Explanations get one from scorers that ask yes or no: detection, fuzzing, rule.",
            command=f"raylens --workspace {desk.workspace.url} score",
        )
        return
    chosen = scatter(
        points,
        alt.X(
            "density:Q",
            scale=alt.Scale(type="log"),
            title="density (share of tokens, log scale)",
            axis=alt.Axis(format="~g"),
        ),
        alt.Y("f1:Q", scale=alt.Scale(domain=[0, 1]), title="F1 of the best explanation, mean over scorers"),
        title="Density × F1",
        subtitle=_of(len(points), total, "explained and scored features"),
        key=f"scatter-{asked.signature}",
        tooltip=(*_SAID, alt.Tooltip("f1:Q", title="F1", format=".2f")),
    )
    _open(asked, chosen)


def decoder_map(desk: Desk, asked: Asked) -> None:
    """Decoder directions in two dimensions: by t-SNE near points write alike; of wide SAEs there is only PCA."""
    _note_search(asked)
    one = asked.chosen[0]
    if len(asked.chosen) > 1:
        st.info(f"A map is of one SAE: this is {one.sae}. Choose another above.")
    rows, total = desk.features.sample(asked.chosen[:1], asked.wanted, MOST)
    places = desk.features.map_of(one, [row["feature"] for row in rows])
    points = [
        _point(asked, row) | dict(zip(("x", "y"), places[row["feature"]], strict=True))
        for row in rows
        if row["feature"] in places
    ]
    if not points:
        empty(
            "There is no map of these features.",
            "It is made when a cache is merged with its SAE's weights at hand; merging again adds it.",
            command=f"raylens --workspace {desk.workspace.url} merge {one.cache_id}",
        )
        return
    by_tsne = one.d_sae <= schema.MAP_BY_TSNE
    axis, meaning = (
        ("t-SNE", "near ones write alike, distances between groups mean nothing")
        if by_tsne
        else ("principal component", "too many for t-SNE: near ones need not write alike")
    )
    bare = alt.Axis(labels=False, ticks=False, grid=False)
    chosen = scatter(
        points,
        alt.X("x:Q", title=f"{axis} 1 (no unit)", axis=bare, scale=alt.Scale(zero=False)),
        alt.Y("y:Q", title=f"{axis} 2 (no unit)", axis=bare, scale=alt.Scale(zero=False)),
        title=f"Decoder directions of {one.sae}",
        subtitle=_of(len(points), total, f"features; {meaning}"),
        key=f"map-{asked.signature}",
        tooltip=_SAID,
    )
    _open(asked, chosen)


def _note_search(asked: Asked) -> None:
    if asked.query:
        st.info("Charts show what the filters leave, not what the search finds; the table shows that.")


def _point(asked: Asked, row: dict[str, Any]) -> dict[str, Any]:
    one = asked.chosen[row["sae"]]
    return {
        "feature_id": str(FeatureId(one.sae, row["feature"])),
        "name": one.short(row["feature"]),
        "said": row["said"] or "nothing yet",
        "density": row["density"],
        "score": row["score"],
        "f1": row["f1"],
        "bucket": row["bucket"],
    }


def _of(shown: int, total: int, what: str) -> str:
    return f"{shown:,} {what}" if shown >= total else f"{shown:,} of {total:,} {what}; always the same ones"


def _open(asked: Asked, feature_id: str | None) -> None:
    if feature_id is not None:
        go("feature", id=feature_id, cache=asked.chosen[0].cache_id)
