"""Provenances made up: what stores and pictures are tried on."""

from __future__ import annotations

from typing import Any

from raylens.api.provenance import LayerShare, Provenance, ProvenanceEdge, ProvenanceNode


def node(layer: int, feature: int | None, token: int, activation: float = 2.0, text: str = " return") -> ProvenanceNode:
    return ProvenanceNode(
        sae=f"tiny-res/layer_{layer}", layer=layer, feature=feature, token=token, text=text, activation=activation
    )


def made_up(*, provenance_id: str = "a" * 16, text: str = " return", top: int = 10, **more: Any) -> Provenance:
    """Feature 7 of layer 5, caused by features of layers 1 and 3 and an error; one edge is not confirmed."""
    target, middle = node(5, 7, 3, 4.0, text), node(3, 2, 3, 1.5, text)
    edges = (
        ProvenanceEdge(source=middle, target=target, attribution=2.0, ablation_effect=2.5, ablated_activation=1.5),
        ProvenanceEdge(
            source=node(1, 4, 1), target=target, attribution=-1.0, ablation_effect=-0.5, ablated_activation=4.5
        ),
        ProvenanceEdge(
            source=node(1, 4, 2), target=target, attribution=0.5, ablation_effect=0.25, ablated_activation=3.75
        ),
        ProvenanceEdge(
            source=node(1, 4, 1), target=middle, attribution=0.25, ablation_effect=-0.1, ablated_activation=1.6
        ),
        ProvenanceEdge(
            source=node(3, None, 2), target=target, attribution=0.2, ablation_effect=0.2, ablated_activation=3.8
        ),
    )
    shares = (
        LayerShare(
            sae="tiny-res/layer_1", layer=1, features=2.0, errors=1.0, special=0.0, bias=0.5, rest=1.5, n_sources=9
        ),
        LayerShare(
            sae="tiny-res/layer_3", layer=3, features=3.0, errors=0.4, special=0.0, bias=0.2, rest=1.4, n_sources=8
        ),
    )
    values: dict[str, Any] = {
        "model": "raylens/tiny",
        "revision": "r",
        "target": target,
        "offset": -1.0,
        "integrated": None,
        "top": top,
        "token_ids": (0, 5, 6, 7),
        "tokens": ("", "def", " f", text),
        "layers": shares,
        "edges": edges,
        "provenance_id": provenance_id,
    }
    return Provenance.model_validate(values | more)
