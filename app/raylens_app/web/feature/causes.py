"""What caused a feature: graphs that ``raylens provenance`` left in the view ``edges``, and one made on the spot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import streamlit as st

from raylens.api.provenance import Provenance
from raylens.ids import FeatureId
from raylens.reports.markup import element
from raylens.reports.provenance_graph import provenance_graph
from raylens.store.edge_graphs import FollowedText, edge_summary, followed_text, followed_texts
from raylens.store.edge_summary import EdgeSummary
from raylens.store.feature_names import names_of
from raylens_app.web.feature.follow import follow
from raylens_app.web.feature.subject import Subject
from raylens_app.web.framed import framed
from raylens_app.web.numbers import figure
from raylens_app.web.states import empty

_SOURCES: Final = 20
_TALLEST: Final = 1100
_ERROR: Final = "/error"


def causes(subject: Subject) -> None:
    """Draw the sources over all texts and the graph of one; and a form that follows it back in a text of one's own."""
    _stored(subject)
    follow(subject, graph)


def _stored(subject: Subject) -> None:
    workspace = subject.desk.workspace
    texts = followed_texts(workspace, subject.id)
    if not texts:
        empty(
            "Nobody has followed this feature back yet.",
            "This does, in the window where it fires most, and keeps what it finds; below the services do it in a text "
            "that you name. Either runs the model and needs SAEs of earlier layers.",
            command=f"raylens --workspace {workspace.url} provenance {subject.id}",
        )
        return
    chosen = st.selectbox("text", texts, format_func=_title, key=f"followed-{subject.id}")
    found = followed_text(workspace, subject.id, chosen.provenance_id)
    graph(subject, found)
    _sources(subject, edge_summary(workspace, subject.id))


def graph(subject: Subject, found: Provenance) -> None:
    """Draw the graph of one text, features by what is said of them."""
    nodes = [found.target, *(node for edge in found.edges for node in (edge.source, edge.target))]
    said = _said(subject, {node.name for node in nodes if node.feature is not None})
    st.caption(
        "Each column is a layer, each line an edge, the wider the stronger: orange speaks for the feature, blue "
        "against it; ablation does not confirm the sign of dashed ones. Point at a line for its figures."
    )
    drawn = element("div", provenance_graph(found, said), class_="rl-graph")
    framed(drawn, height=_height(found), label=f"What caused {found.target.short}: {len(found.edges)} edges")


def _said(subject: Subject, names: Collection[str]) -> Mapping[str, str]:
    found = names_of(subject.desk.workspace, [FeatureId.parse(name) for name in names])
    return {str(feature): text for feature, text in found.items()}


def _height(found: Provenance) -> int:
    """Of the frame, in pixels: as many boxes as the fullest layer has."""
    nodes = {(node.layer, node.key) for edge in found.edges for node in (edge.source, edge.target)}
    fullest = max((sum(layer == own for layer, _ in nodes) for own in {layer for layer, _ in nodes}), default=1)
    return min(_TALLEST, 40 + 50 * fullest)


def _title(one: FollowedText) -> str:
    where = "a text of its own" if one.window_id is None else f"window {one.window_id:,}"
    return f"{where}, token {one.token}: activation {figure(one.activation)}, {one.n_edges} edges"


def _sources(subject: Subject, summary: EdgeSummary) -> None:
    said = _said(subject, {one.source for one in summary.sources[:_SOURCES] if not one.source.endswith(_ERROR)})
    agreement = "" if summary.agreement is None else f"; ablation confirms {summary.agreement:.0%} of edges"
    texts = "text" if summary.n_texts == 1 else "texts"
    st.markdown(f"**Sources over {summary.n_texts:,} {texts}**{agreement}")
    rows = [
        {
            "source": one.source,
            "texts": one.n,
            "attribution": one.attribution,
            "ablation": one.ablation_effect,
            "confirmed": one.confirmed,
            "said of it": said.get(one.source),
        }
        for one in summary.sources[:_SOURCES]
    ]
    share = st.column_config.NumberColumn(format="percent", help="Share of the feature's activation, mean over texts.")
    sure = st.column_config.NumberColumn(format="percent", help="Edges whose sign ablation confirms.")
    columns = {"attribution": share, "ablation": share, "confirmed": sure}
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="", alt="sources of the feature")
