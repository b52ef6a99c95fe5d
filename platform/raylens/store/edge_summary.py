"""Rows of edges over many texts, summed up: which features cause one, in how many texts, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """One source of a feature over texts; figures are shares of the feature's activation.

    Attributes:
        source: ``<sae>/<index>``, or ``<sae>/error``.
        layer: Where its SAE reads.
        n: Texts in which it is among the reported sources.
        attribution: Mean over all texts of what all its tokens together do; 0 where it is not reported.
        ablation_effect: Likewise, of what ablation says of each.
        confirmed: Share of its edges that ablation confirms.
    """

    source: str
    layer: int | None
    n: int
    attribution: float
    ablation_effect: float
    confirmed: float


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """What a layer does for a feature: means over texts of shares of its activation.

    Attributes:
        sae: Whose.
        layer: Where that reads.
        features: Of all its features.
        errors: Of all that it does not reconstruct.
        rest: Of what neither does.
    """

    sae: str
    layer: int | None
    features: float
    errors: float
    rest: float


@dataclass(frozen=True, slots=True)
class EdgeSummary:
    """A feature's sources over texts.

    Attributes:
        n_texts: Texts.
        n_edges: Edges in them, those between other features included.
        agreement: Share of these that ablation confirms; None without any.
        sources: Those of the feature itself, the strongest mean first.
        layers: The first layer first.
    """

    n_texts: int
    n_edges: int
    agreement: float | None
    sources: tuple[SourceSummary, ...]
    layers: tuple[LayerSummary, ...]


def summarise(rows: Sequence[Mapping[str, Any]]) -> EdgeSummary:
    """Sum up rows of :data:`raylens.store.edges.EDGES` about one feature."""
    texts = {row["provenance_id"] for row in rows}
    own = [row for row in rows if (row["target"], row["target_token"]) == (row["origin"], row["origin_token"])]
    by_source: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    shares: dict[tuple[str, int | None], dict[str, tuple[float, float, float]]] = defaultdict(dict)
    for row in own:
        by_source[row["source"]].append(row)
        of = row["origin_activation"]
        share = row["layer_features"] / of, row["layer_errors"] / of, row["layer_rest"] / of
        shares[row["source_sae"], row["layer"]][row["provenance_id"]] = share
    n = max(1, len(texts))
    sources = [_source(source, found, n) for source, found in by_source.items()]
    layers = [
        LayerSummary(sae, layer, *(sum(part) / len(found) for part in zip(*found.values(), strict=True)))
        for (sae, layer), found in shares.items()
    ]
    return EdgeSummary(
        n_texts=len(texts),
        n_edges=len(rows),
        agreement=sum(row["confirmed"] for row in rows) / len(rows) if rows else None,
        sources=tuple(sorted(sources, key=lambda one: (-abs(one.attribution), one.source))),
        layers=tuple(sorted(layers, key=lambda one: (-1 if one.layer is None else one.layer, one.sae))),
    )


def _source(source: str, rows: Sequence[Mapping[str, Any]], n_texts: int) -> SourceSummary:
    return SourceSummary(
        source=source,
        layer=rows[0]["layer"],
        n=len({row["provenance_id"] for row in rows}),
        attribution=sum(row["attribution"] / row["origin_activation"] for row in rows) / n_texts,
        ablation_effect=sum(row["ablation_effect"] / row["origin_activation"] for row in rows) / n_texts,
        confirmed=sum(row["confirmed"] for row in rows) / len(rows),
    )
