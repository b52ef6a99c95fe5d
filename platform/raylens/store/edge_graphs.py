"""Stored edges of one feature, put together again to the graphs that were worked out, a text each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raylens.api.provenance import LayerShare, Provenance, ProvenanceEdge, ProvenanceNode
from raylens.errors import UnknownNameError
from raylens.ids import FeatureId
from raylens.store.edge_summary import EdgeSummary, summarise
from raylens.store.examples import pieces
from raylens.store.reader import CacheReader
from raylens.store.views import connect
from raylens.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FollowedText:
    """A text in which a feature was followed back.

    Attributes:
        provenance_id: Names it.
        cache_id: Where it is a window of a cache; else None, as the next.
        window_id: Which window.
        token: Place of the feature's token.
        activation: Of the feature there.
        method: ``gradient`` or ``integrated-10``.
        n_edges: Edges that are stored.
        recorded_at: When, UTC.
    """

    provenance_id: str
    cache_id: str | None
    window_id: int | None
    token: int
    activation: float
    method: str
    n_edges: int
    recorded_at: datetime


def followed_texts(workspace: Workspace, feature: FeatureId, limit: int = 50) -> list[FollowedText]:
    """Texts in which ``feature`` was followed back, the largest activation first.

    Raises:
        DamagedFileError: A file of edges is damaged.
    """
    columns = "provenance_id, cache_id, window_id, origin_token AS token, origin_activation AS activation, method"
    with connect(workspace, only=["edges"]) as connection:
        rows = connection.sql(
            f"SELECT {columns}, count(*) AS n_edges, max(recorded_at) AS recorded_at FROM edges WHERE origin = ? "
            "GROUP BY ALL ORDER BY activation DESC, provenance_id LIMIT ?",
            params=[str(feature), limit],
        ).to_arrow_table()
    return [FollowedText(**row) for row in rows.to_pylist()]


def edge_summary(workspace: Workspace, feature: FeatureId) -> EdgeSummary:
    """What causes ``feature`` over all texts in which it was followed back; raises as :func:`followed_texts`."""
    with connect(workspace, only=["edges"]) as connection:
        rows = (
            connection.sql("SELECT * FROM edges WHERE origin = ?", params=[str(feature)]).to_arrow_table().to_pylist()
        )
    return summarise(rows)


def followed_text(workspace: Workspace, feature: FeatureId, provenance_id: str) -> Provenance:
    """The graph of one text.

    Of each layer, features and errors are stored, and what is left: ``rest`` holds what special tokens and biases do,
    too, which are 0 here. The text is there where it is a window of a cache that still exists.

    Raises:
        UnknownNameError: There is no such text of this feature.
        DamagedFileError: A file is damaged.
    """
    with connect(workspace, only=["edges"]) as connection:
        query = "SELECT * FROM edges WHERE origin = ? AND provenance_id = ? ORDER BY abs(attribution) DESC, edge_id"
        rows = connection.sql(query, params=[str(feature), provenance_id]).to_arrow_table().to_pylist()
    if not rows:
        raise UnknownNameError(
            f"{feature} was not followed back in a text {provenance_id}.", hint="raylens provenance follows it back."
        )
    first = rows[0]
    token_ids, tokens = _text(workspace, first["cache_id"], first["window_id"], int(first["origin_token"]))
    edges = tuple(_edge(row, tokens) for row in rows)
    own = {edge.target.key: edge.target for edge in edges} | {edge.source.key: edge.source for edge in edges}
    layer = next((row["target_layer"] for row in rows if row["target"] == first["origin"]), None)
    target = own.get((first["origin"], first["origin_token"])) or ProvenanceNode(
        sae=str(feature.sae),
        layer=layer,
        feature=feature.index,
        token=first["origin_token"],
        text=_at(tokens, first["origin_token"]),
        activation=first["origin_activation"],
    )
    _, _, steps = str(first["method"]).partition("-")
    return Provenance(
        model=first["model"],
        revision=first["revision"],
        target=target,
        offset=0.0,
        integrated=int(steps) if steps else None,
        top=first["top"],
        token_ids=token_ids,
        tokens=tokens or (target.text,),
        layers=_layers(rows),
        edges=edges,
        provenance_id=provenance_id,
    )


def _text(
    workspace: Workspace, cache_id: str | None, window_id: int | None, last: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and texts of the tokens up to ``last``; none of a text that lies in no cache."""
    if cache_id is None or window_id is None:
        return (), ()
    try:
        reader = CacheReader(workspace, cache_id)
    except UnknownNameError:  # edges outlive caches
        return (), ()
    try:
        [row] = reader.windows([window_id], ["token_ids", "token_offsets", "text"]).to_pylist()
    finally:
        reader.close()
    return tuple(row["token_ids"][: last + 1]), pieces(row["text"], row["token_offsets"])[: last + 1]


def _edge(row: Mapping[str, Any], tokens: Sequence[str]) -> ProvenanceEdge:
    target = FeatureId.parse(row["target"])
    return ProvenanceEdge(
        source=ProvenanceNode(
            sae=row["source_sae"],
            layer=row["layer"],
            feature=row["source_feature"],
            token=row["source_token"],
            text=_at(tokens, row["source_token"]),
            activation=row["source_activation"],
        ),
        target=ProvenanceNode(
            sae=row["target_sae"],
            layer=row["target_layer"],
            feature=target.index,
            token=row["target_token"],
            text=_at(tokens, row["target_token"]),
            activation=row["target_activation"],
        ),
        attribution=row["attribution"],
        ablation_effect=row["ablation_effect"],
        ablated_activation=row["ablated_activation"],
    )


def _at(tokens: Sequence[str], place: int) -> str:
    return tokens[place] if 0 <= place < len(tokens) else ""


def _layers(rows: Sequence[Mapping[str, Any]]) -> tuple[LayerShare, ...]:
    """A share of each SAE that a source is of, the first layer first."""
    shares: dict[str, LayerShare] = {}
    for row in rows:
        n_sources = len({one["source"] for one in rows if one["source_sae"] == row["source_sae"]})
        shares.setdefault(
            row["source_sae"],
            LayerShare(
                sae=row["source_sae"],
                layer=row["layer"],
                features=row["layer_features"],
                errors=row["layer_errors"],
                special=0.0,
                bias=0.0,
                rest=row["layer_rest"],
                n_sources=n_sources,
            ),
        )
    return tuple(sorted(shares.values(), key=lambda one: (-1 if one.layer is None else one.layer, one.sae)))
