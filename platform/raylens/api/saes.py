"""Which SAEs there are: in caches, and in the catalogue."""

from __future__ import annotations

from raylens.api.base import Answer


class StoredSae(Answer):
    """An SAE in a cache.

    Attributes:
        sae: Its id.
        cache_id: The cache.
        cache_name: The name that was given to it.
        model: That was read, as the cache has it.
        hook: Where.
        layer: Likewise.
        d_sae: Number of its features.
        neuronpedia_id: ``<model>/<source>`` where Neuronpedia has its labels.
        source: What its features go by in the Neuronpedia-compatible routes.
    """

    sae: str
    cache_id: str
    cache_name: str
    model: str | None
    hook: str | None
    layer: int | None
    d_sae: int
    neuronpedia_id: str | None
    source: str


class OfferedSae(Answer):
    """An SAE of the catalogue.

    Attributes:
        sae: Its id.
        model: That it was trained on.
        hook: Where it reads.
        layer: Likewise.
        width: Number of its features.
        labels_available: Whether Neuronpedia has labels of it (A0.08).
        stored: Whether a cache of this workspace holds it.
        note: What to know before using it.
    """

    sae: str
    model: str
    hook: str | None
    layer: int | None
    width: int | None
    labels_available: bool
    stored: bool
    note: str = ""


class Saes(Answer):
    """What caches hold, the one merged last first, and what the catalogue has for their models and those served."""

    stored: tuple[StoredSae, ...]
    offered: tuple[OfferedSae, ...]
