"""What is known of a model and of an SAE before any weight is loaded.

``engine.describe_model`` and ``engine.describe_sae`` return these; the guard compares them
(:mod:`raylens.catalog.guard`), and a dry run counts with them. No I/O, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from raylens.ids import HookPoint, SaeId


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A causal language model, as its config tells it.

    Attributes:
        name: The reference it was asked for by: ``raylens/pico``, a hub id or a local folder.
        revision: What fixes its weights: the hub's commit, or a hash of the local files.
        d_model: Width of the residual stream.
        n_layers: Number of decoder blocks; layers count from 0.
        vocab_size: Rows of the embedding.
        architecture: Class name in its config, for example ``LlamaForCausalLM``.
        max_positions: Longest context in tokens; None where the architecture sets none.
    """

    name: str
    revision: str
    d_model: int
    n_layers: int
    vocab_size: int
    architecture: str
    max_positions: int | None


@dataclass(frozen=True, slots=True)
class SaeSpec:
    """One sparse autoencoder, as its config tells it.

    Attributes:
        id: Release and id; ``local/<folder>-<hash>`` for a folder on disk.
        model_name: The model it says it was trained on, as its config writes it; None where it does not say.
        hook: The tensor that it reads.
        d_in: Width of that tensor.
        d_sae: Number of latents.
        architecture: ``standard``, ``topk``, ``jumprelu`` …
        neuronpedia_id: ``<model>/<source>`` where labels live; None without labels.
        prepend_bos: Whether it was trained on windows that begin with BOS.
        dtype: Of its weights as stored, for example ``float32``.
        fingerprint: Hash of config and weights, or of what names them where they are not on disk yet.
    """

    id: SaeId
    model_name: str | None
    hook: HookPoint
    d_in: int
    d_sae: int
    architecture: str
    neuronpedia_id: str | None
    prepend_bos: bool
    dtype: str
    fingerprint: str
