"""Frozen, strict configurations: unknown keys are refused, units are in the names.

One class a job. They are what a run record stores and what the CLI fills in; whatever is left
``None`` is decided from the machine when the run starts, never when it is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raylens.errors import InputError

DType = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["bnb-8bit", "bnb-4bit"]


class Config(BaseModel):
    """Base: immutable, no unknown keys, no coercion between kinds of value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``; the first problem becomes one sentence.

        With ``hide_input_in_errors`` it repeats nothing that was given.

        Raises:
            InputError: a key is unknown, missing, or has a value out of range.
        """
        hidden = bool(cls.model_config.get("hide_input_in_errors"))
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_input=not hidden, include_url=False)[0]
        # Raised past pydantic's error, which holds the values.
        where = ".".join(str(part) for part in first["loc"]) or cls.__name__
        got = "" if hidden else f" (got {first['input']!r})"
        said = first["msg"].removeprefix("Value error, ")
        known = ", ".join(cls.model_fields)
        raise InputError(
            f"{where} is not valid: {said[0].lower()}{said[1:]}{got}.",
            hint=f"there is {known}." if first["type"] == "extra_forbidden" else f"give {where} another value.",
        )


class ModelConfig(Config):
    """Which causal LM to load, and how."""

    model: str = "raylens/pico"
    """``raylens/pico``, a local folder, or a hub id."""
    revision: str | None = None
    dtype: DType = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device):
            raise ValueError("it is one of auto, cpu, cuda, cuda:1 and mps")
        return device


class TextConfig(Config):
    """Which text to read, and how it is cut into windows."""

    texts: tuple[str, ...] = ("stdlib",)
    column: str | None = None
    ctx_len: Annotated[int, Field(ge=4, le=1_000_000)] = 128
    """Tokens per window, the BOS a tokenizer adds included."""
    pack: bool = False
    """Let windows run across documents, joined by the separator token."""
    seed: int = 22
    """Order of documents; a negative seed keeps the order of the source."""

    @field_validator("texts")
    @classmethod
    def _some_text(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not texts:
            raise ValueError("name at least one text source")
        return texts


class PoolConfig(ModelConfig):
    """A model run by a pool of workers."""

    workers: Annotated[int, Field(gt=0)] | None = None
    """Encoder actors; by default one a GPU, or one a CPU core."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads per worker; by default the cores divided by the workers."""
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """Upper bound on GPUs; fewer present is no error, and 0 keeps to the CPU."""
    address: str | None = None
    """A running Ray cluster; by default a local one is started and stopped."""


class CacheConfig(PoolConfig, TextConfig):
    """``raylens cache``: encode text into sparse SAE activations."""

    saes: Annotated[tuple[str, ...], Field(min_length=1)]
    n_tokens: Annotated[int, Field(gt=0)] = 10_000_000
    """Text tokens to encode; special tokens do not count."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 32
    """Windows per forward pass."""
    shard_windows: Annotated[int, Field(gt=0, le=65_536)] = 512
    """Windows per shard: the unit of work, of resuming and of memory."""
    filter_bos: bool = False
    """Leave out activations on special tokens altogether (statistics never count them)."""
    min_activation: Annotated[float, Field(ge=0)] = 0.0
    """Only activations above this are kept."""
    name: str | None = None
    catalog_file: str | None = None
    """The user's own SAEs and model aliases; by default catalog.yaml in the workspace."""
    override_guard: bool = False
    """Allow an SAE that was trained on another model of the same shape."""


class AuditConfig(PoolConfig):
    """``raylens audit``: what a candidate is compared with, on what, and how. ``model`` is the reference."""

    sae: str | None = None
    """None for no mechanistic evidence, and no score that reads features."""
    suite: str = "minimal"
    score_method: str | None = None
    """The one that gives the verdict; by default RAYLENS_SCORE_METHOD, else the default method."""
    k: Annotated[int, Field(ge=1, le=1000)] = 20
    """Features listed, and summed by the methods that sum the largest."""
    pooling: Literal["mean", "max", "last", "answer", "prompt"] = "mean"
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    texts: tuple[str, ...] = ()
    """Held-out text for the capability panel; of the embedded model its own by default."""
    column: str | None = None
    panel_windows: Annotated[int, Field(ge=0, le=4096)] = 24
    """Windows of 128 tokens of that text."""
    target_fpr: Annotated[float, Field(ge=1e-6, lt=1)] = 0.01
    calibration: str | None = None
    """A JSON file with scores of benign fine-tunes; by default those of the workspace, else of the bundle."""
    trigger_search: bool = True
    catalog_file: str | None = None
    override_guard: bool = False
    """Allow an SAE that was trained on another model of the same shape."""
    hide_low_similarity: bool = False
    """Show no text of a proxy explanation that is far away."""


def _without_repeats(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """What is named twice is done once, or its rows would be stored twice."""
    return None if values is None else tuple(dict.fromkeys(values))


class ExampleConfig(Config):
    """Which excerpts of a feature explainers and scorers see."""

    example_ctx_len: Annotated[int, Field(ge=4, le=4096)] = 32
    """Tokens of an excerpt."""
    center_examples: bool = True
    """Put the peak at three quarters of the excerpt, reaching into neighbouring windows; else pieces as they lie."""
    sampling: Literal["quantiles", "top", "random", "mix"] = "quantiles"
    n_quantiles: Annotated[int, Field(ge=1, le=1000)] = 10
    n_examples_train: Annotated[int, Field(ge=1, le=10_000)] = 40
    n_examples_test: Annotated[int, Field(ge=1, le=10_000)] = 50
    n_non_activating: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Of each side: explainers may see as many as scorers, of other documents."""
    non_activating_source: Literal["random", "faiss", "neighbours"] = "random"
    neighbours_type: Literal["co-occurrence", "decoder", "encoder"] = "co-occurrence"
    embedding_model: str | None = None
    """What ``faiss`` negatives are alike by: a sentence-transformers model or folder; by default the bundled one."""
    min_examples: Annotated[int, Field(ge=1)] = 200
    """Pieces in which a feature must fire; one with fewer is reported and skipped."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of documents that belong to scorers."""
    seed: int = 22


class ExplainConfig(ExampleConfig):
    """``raylens explain``: say what features mean, from excerpts of one half of the documents."""

    explainer: Literal["lexical", "default", "contrastive", "cot", "logits"] = "lexical"
    """``lexical`` asks nobody; the others ask a language model."""
    max_model_len: Annotated[int, Field(ge=256)] = 5120
    """Tokens of an explainer's context, its answer included: examples are dropped until the request fits."""
    prompt_dir: str | None = None
    """Folder with prompt files that take the place of those of the same name."""
    features: tuple[int, ...] | None = None
    """Which; by default all of the SAE."""
    max_latents: Annotated[int, Field(ge=1)] | None = None
    """At most so many, the first by number."""
    address: str | None = None

    _once = field_validator("features")(_without_repeats)


ScorerName = Literal[
    "detection", "fuzz", "recall", "simulation", "intruder", "concept", "surprisal", "embedding", "rule"
]


class ScoreConfig(ExampleConfig):
    """``raylens score``: measure explanations on excerpts of the other half."""

    scorers: Annotated[tuple[ScorerName, ...], Field(min_length=1)] = ("rule", "embedding")
    features: tuple[int, ...] | None = None
    """Which; by default all that the pass has explained."""
    num_examples_per_scorer_prompt: Annotated[int, Field(ge=1, le=100)] = 5
    """Excerpts in one question of detection, fuzz and recall."""
    log_probs: bool = False
    """Ask for log-probabilities, from which detection, fuzz and recall get an AUC."""
    domain: str | None = None
    """Glob over documents' domain or path (``http/*``): how much more strongly features fire on those that match."""
    shuffled: bool = True
    """Score another feature's explanation beside each, which shows what chance gives."""
    prompt_dir: str | None = None
    address: str | None = None

    _once = field_validator("scorers", "features")(_without_repeats)


class MergeConfig(Config):
    """``raylens merge``: turn shards into range files, statistics and views."""

    cache: str
    memory_rows: Annotated[int, Field(gt=0)] = 4_000_000
    """Rows a merge task may hold; a range with more is sorted on disk."""
    workers: Annotated[int, Field(gt=0)] | None = None
    address: str | None = None


class RecordConfig(PoolConfig, TextConfig):
    """``raylens record``: dense activations at hook points, as the model computes them."""

    hooks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Hook points, all recorded from one forward."""
    max_samples: Annotated[int, Field(gt=0)] | None = None
    """Windows to record at most; a window is one sample of up to ``ctx_len`` tokens."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 32
    """Windows per forward pass."""
    shard_windows: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Windows per shard; by default as many as make about 64 MB."""
    stored_dtype: Literal["float16", "float32"] = "float16"
    """Of the activations on disk; float16 ends at 65 504, beyond which recording refuses to go on."""


class SaeRecipe(Config):
    """Everything that determines how an SAE is trained, given its activations."""

    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = "topk"
    d_sae: Annotated[int, Field(gt=0)] | None = None
    """Latents; by default 8 times the width of the activations."""
    k: Annotated[float, Field(gt=0)] = 32
    """Latents that may be active on a token: exactly (TopK) or on average (BatchTopK)."""
    sparsity_coef: Annotated[float, Field(ge=0)] | None = None
    """Weight of the L1 penalty (standard) or of the L0 penalty (JumpReLU); by default one that suits."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    tokens: Annotated[int, Field(gt=0)] = 10_000_000
    """Tokens to train on; the activations are gone through as often as that takes."""
    batch_size: Annotated[int, Field(gt=0)] = 1024
    """Tokens per step."""
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of steps over which the learning rate, and the penalty's weight, rise from zero."""
    decay_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of steps, at the end, over which the learning rate falls to zero."""
    aux_coef: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss that revives dead latents (TopK, BatchTopK)."""
    dead_after: Annotated[int, Field(gt=0)] = 500_000
    """Tokens without firing after which a latent counts as dead while training."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return max(1, self.tokens // self.batch_size)


class TrainConfig(SaeRecipe):
    """``raylens train``: an SAE from recorded activations."""

    hook: str | None = None
    """Which recorded hook point; needed only where several were recorded."""
    device: str = "auto"
    threads: Annotated[int, Field(gt=0)] | None = None
    autocast: bool = False
    """Multiply in bfloat16: faster where the hardware has it, a little less exact."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Of the saved weights; they are loaded as float32 either way."""
    checkpoint_steps: Annotated[int, Field(gt=0)] = 1000
    """Steps between checkpoints."""
    buffer_bytes: Annotated[int, Field(gt=0)] = 512 * 2**20
    """Activations held in memory and shuffled together."""


class EvaluateConfig(ModelConfig):
    """``raylens evaluate``: how well an SAE stands for what it reads."""

    texts: tuple[str, ...] = ()
    """Text to run the model on; empty where recorded activations are given instead."""
    column: str | None = None
    ctx_len: Annotated[int, Field(ge=4, le=1_000_000)] | None = None
    """Tokens per window; by default what the SAE was trained on, else 128."""
    pack: bool = False
    seed: int = 22
    hook: str | None = None
    """The tensor to read; by default what the SAE's config names."""
    n_tokens: Annotated[int, Field(gt=0)] = 100_000
    """Text tokens to evaluate on."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 8
    """Windows per forward pass."""
    allow_seen: bool = False
    """Go on where the text was trained on, and say so in the result."""
    threads: Annotated[int, Field(gt=0)] | None = None


class ProvenanceConfig(PoolConfig):
    """``raylens provenance``: which features of earlier layers caused one."""

    feature: str
    """``f_<layer>_<index>`` of a cache, or ``<sae>/<index>``."""
    saes: tuple[str, ...] = ()
    """Earlier SAEs; by default those of the cache, else of the target's release."""
    windows: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Of a cache: those in which the feature fires most."""
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    """Sources of each layer that are reported."""
    integrated: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Steps of integrated gradients; None for the gradient at the text itself."""
    catalog_file: str | None = None


class SteerConfig(ModelConfig):
    """``raylens steer``: what a model says of a text with an edit, and without."""

    adapter: str | None = None
    """A LoRA folder, merged into the model."""
    saes: tuple[str, ...] = ()
    """SAEs whose features are edited; by default the catalogue's first for each layer that is named."""
    override_guard: bool = False
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10
    """Likely next tokens of each model."""
    max_new_tokens: Annotated[int, Field(ge=0, le=4096)] = 40
    """Written after the text; 0 for none."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
