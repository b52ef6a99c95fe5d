"""What an SAE's id says about it: layer, hook point and width, where that is certain, else None.

sae-lens's directory has no such fields, and each maker wrote ids in a form of their own. A
:class:`Listing` is one row of the directory; its ``format`` (sae-lens's loader) settles what the
form means, as each loader's and each paper's text documents:

================================  ========================================  =====================================
form                              example                                   made by
================================  ========================================  =====================================
TransformerLens name              ``blocks.8.hook_resid_pre_768``           SAELens; SAEBench with ``__trainer_3``
folders                           ``layer_20/width_16k/average_l0_71``      Gemma Scope
flat                              ``layer_22_width_65k_l0_medium_seed_1``   Gemma Scope 2
letters                           ``l12r_8x``                               Llama Scope (attention, MLP, residual)
``resid_post_layer_N_trainer_M``  ``resid_post_layer_15_trainer_1``         dictionary_learning
``layer_N``, ``layerN``           ``layer_50``                              Goodfire, Qwen Scope, transcoders
================================  ========================================  =====================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from raylens.catalog.points import from_transformer_lens, norms_contributions
from raylens.ids import HookPoint

_WIDTHS: Final = {
    "4k": 2**12,
    "16k": 2**14,
    "32k": 2**15,
    "65k": 2**16,
    "128k": 2**17,
    "131k": 2**17,
    "262k": 2**18,
    "524k": 2**19,
    "1m": 2**20,
}
"""Widths as releases abbreviate them; all of these mean a power of two."""

_LAYER: Final = re.compile(
    r"(?:transcoder/)?layers?[._]?([0-9]+)(?:[/_].*)?|blocks\.([0-9]+)\..+|resid_post_layer_([0-9]+)_.+|l([0-9]+)[amr]_.+"
    r"|model\.layers\.([0-9]+)(?:\..+)?"
)
_TRANSFORMER_LENS: Final = re.compile(
    r"(blocks\.[0-9]+\.(?:attn\.|mlp\.)?hook_[a-z]+(?:_[a-z]+)*)(?:_([0-9]+)|__trainer_.+)?"
)
_LETTER: Final = re.compile(r"l[0-9]+([amr])_.+")
_WIDTH: Final = re.compile(r"(?:^|[/_-])(?:width[_-]|w-?)([0-9]+[km])(?:[/_-]|$)", re.IGNORECASE)
_POWER: Final = re.compile(r"width-2pow([0-9]+)_")
_LLAMA_SCOPE: Final = re.compile(r"l[0-9]+[amr]_([0-9]+)x")
_SOURCE_WIDTH: Final = re.compile(r"[-_]([0-9]+[km])(?:-oai)?$")

_RESIDUAL_FORMATS: Final = frozenset({"goodfire", "qwen_scope", "deepseek_r1", "dictionary_learning_1", "temporal"})
_ARCHITECTURES: Final = {
    "deepseek_r1": "standard",
    "gemma_2": "jumprelu",
    "gemma_2_transcoder": "jumprelu_transcoder",
    "goodfire": "standard",
    "llama_scope": "jumprelu",
    "llama_scope_r1_distill": "jumprelu",
    "mntss_clt_layer_transcoder": "transcoder",
    "mwhanna_transcoder": "transcoder",
    "qwen_scope": "topk",
    "temporal": "temporal",
}
_LLAMA_D_MODEL: Final = 4096  # both Llama Scope releases are of Llama-3.1-8B's shape; ids give multiples of it


@dataclass(frozen=True, slots=True)
class Listing:
    """One row of sae-lens's directory, as it stands there."""

    release: str
    name: str
    path: str
    repo: str
    model: str
    format: str | None
    neuronpedia_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row's id, path and repository say."""

    layer: int | None
    hook: HookPoint | None
    width: int | None
    architecture: str | None


def read(listing: Listing) -> Reading:
    """Layer, hook point, width and architecture of a directory row; None for each that is not certain."""
    layer = layer_of(listing.name)
    return Reading(layer, hook_of(listing, layer), width_of(listing), architecture_of(listing))


def layer_of(name: str) -> int | None:
    """The block that an id names."""
    match = _LAYER.fullmatch(name)
    return int(next(group for group in match.groups() if group)) if match else None


def hook_of(listing: Listing, layer: int | None) -> HookPoint | None:
    """The tensor an SAE reads."""
    if match := _TRANSFORMER_LENS.fullmatch(listing.name):
        return from_transformer_lens(match[1], listing.model)
    if layer is None:
        return None
    name = _point_name(listing)
    return HookPoint(name, layer) if name else None


def _point_name(listing: Listing) -> str | None:
    if listing.format in _RESIDUAL_FORMATS:
        return "resid_post"
    if listing.format in ("llama_scope", "llama_scope_r1_distill"):
        match = _LETTER.fullmatch(listing.name)
        return {"a": "attn_out", "m": "mlp_out", "r": "resid_post"}[match[1]] if match else None
    if listing.format == "gemma_2":
        # The kind stands in the repository's name: google/gemma-scope-2b-pt-att.
        kind = listing.repo.rpartition("-")[2]
        return {"att": "z", "mlp": _contribution(listing.model), "res": "resid_post"}.get(kind)
    if listing.format == "gemma_3":
        # The kind stands in the path's first folder: resid_post_all/layer_0_width_16k_l0_big.
        kind = listing.path.partition("/")[0].removesuffix("_all")
        points = {
            "attn_out": "z",
            "mlp_out": _contribution(listing.model),
            "resid_post": "resid_post",
            "transcoder": "mlp_in",
        }
        return points.get(kind)
    if listing.format == "mwhanna_transcoder":
        return "mlp_in"
    return None


def _contribution(model: str) -> str:
    return "mlp_out_post" if norms_contributions(model) else "mlp_out"


def width_of(listing: Listing) -> int | None:
    """Number of latents, from the id, else the release, the repository or the Neuronpedia source."""
    if match := _LLAMA_SCOPE.fullmatch(listing.name):
        return int(match[1]) * _LLAMA_D_MODEL
    if (match := _TRANSFORMER_LENS.fullmatch(listing.name)) and match[2]:
        return int(match[2])
    if match := _POWER.search(listing.release):
        return 2 ** int(match[1])
    if listing.format == "goodfire":
        return 2**16
    if listing.format == "qwen_scope":
        # Qwen Scope counts in multiples of 1024: W80K is 81 920.
        match = re.search(r"-W([0-9]+)K-", listing.repo)
        return int(match[1]) * 1024 if match else None
    for text in (listing.name, listing.repo):
        if match := _WIDTH.search(text):
            return _WIDTHS.get(match[1].lower())
    return source_width(listing.neuronpedia_id or listing.release)


def source_width(source: str) -> int | None:
    """The width that a Neuronpedia id (``gemma-2-2b/20-gemmascope-res-16k``) or release name ends in."""
    match = _SOURCE_WIDTH.search(source.rpartition("/")[2].partition("__")[0])
    return _WIDTHS.get(match[1]) if match else None


def architecture_of(listing: Listing) -> str | None:
    """As sae-lens will load it, where the format has one; checkpoints that carry their own config: None."""
    if listing.format == "gemma_3":
        if not listing.path.startswith("transcoder"):
            return "jumprelu"
        return "jumprelu_skip_transcoder" if "affine" in listing.name else "jumprelu_transcoder"
    return _ARCHITECTURES.get(listing.format or "")
