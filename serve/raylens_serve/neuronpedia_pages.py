"""Pages and sources as Neuronpedia's API gives them, for the gateway and for ``raylens labels serve`` alike."""

from __future__ import annotations

from typing import Any, Final

from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, is_part
from raylens.labels.own_features import OwnFeatures

_LAST_INDEX: Final = 2**31 - 1


def sources(own: OwnFeatures, kept: LabelStore) -> dict[str, Any]:
    """What ``GET /api/sources`` answers: the workspace's own, and those that labels are kept of.

    Raises:
        DamagedFileError: A manifest cannot be read.
    """
    mine = own.sources()
    kept.refresh()
    rows = [
        {"modelId": one.model, "source": one.source, "sae": str(mine[one].sae) if one in mine else None}
        for one in sorted({*mine, *kept.sources()})
    ]
    return {"sources": rows}


def feature(own: OwnFeatures, kept: LabelStore, model: str, source: str, index: str) -> tuple[int, dict[str, Any]]:
    """What ``GET /api/feature/{model}/{source}/{index}`` answers: a status and a page, or ``error``."""
    if not is_part(model) or not is_part(source):
        return 400, {"error": "a model or source id has letters, digits and . _ - in it."}
    if not (index.isascii() and index.isdecimal() and len(index) <= 10 and int(index) <= _LAST_INDEX):
        return 400, {"error": f"{index[:40]!r} is no index of a feature: features count from 0."}
    page = feature_page(own, kept, NeuronpediaId(model, source), int(index))
    if page is None:
        return 404, {"error": f"nothing is known of feature {int(index)} of {model}/{source}."}
    return 200, page


def feature_page(own: OwnFeatures, kept: LabelStore, source: NeuronpediaId, index: int) -> dict[str, Any] | None:
    """What is known of one feature: its own page where a cache has it, with the explanations kept from elsewhere.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    kept.refresh()
    elsewhere = kept.page(source, index)
    mine = own.page(source, index)
    if mine is None or elsewhere is None:
        return mine or elsewhere
    return mine | {"explanations": [*mine["explanations"], *elsewhere["explanations"]]}
