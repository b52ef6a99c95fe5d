"""The flags of the one-command form: one field a flag, with its default, its help, and what it changes.

Names and defaults are those of the pipeline that users come from (A1.04); what RayLens adds stands in the
same table. ``--help``, the parser, the presets, ``run_config.json`` and the question which results a
setting makes others (:class:`About`) are all read off this class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from raylens.config import Config, DType, Quantization, ScorerName
from raylens.store.results import Stage

Preset = Literal["dev", "production", "research"]

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "dev": {"n_tokens": 50_000, "max_latents": 20, "scorers": ("detection",), "filter_bos": True},
        "production": {"n_tokens": 2_000_000, "max_latents": 200, "scorers": ("detection", "recall")},
        "research": {
            "n_tokens": 10_000_000,
            "max_latents": 1000,
            "scorers": ("detection", "recall", "fuzz", "simulation"),
        },
    }
)
"""Three sizes of run (A1.12); a flag that is given wins over its preset."""

PICO: Final[Mapping[str, Any]] = MappingProxyType({"sparse_model": "raylens-pico-res", "dataset_repo": "stdlib"})
"""Defaults where raylens/pico is explained: its own SAEs, and the text that it was trained on, which need no hub."""


@dataclass(frozen=True, slots=True)
class About:
    """What a flag is, beside its type and default.

    Attributes:
        group: Under which heading ``--help`` lists it.
        stage: The first results that it makes others; None where it changes none that are there.
        aliases: Other names it is known by.
        option: Its name, where that is not the field's.
    """

    group: str
    stage: Stage | None = None
    aliases: tuple[str, ...] = ()
    option: str | None = None


ADDED: Final = "Added by RayLens"

_Count = Annotated[int, Field(ge=1)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Autointerp(Config):
    """Everything that the one-command form can be told. A field is a flag; its docstring is the flag's help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, About("What is explained", "cache")] = "meta-llama/Meta-Llama-3-8B"
    """Language model: a hub id, a folder, or raylens/pico."""
    sparse_model: Annotated[str, About("What is explained", "cache")] = "EleutherAI/sae-llama-3-8b-32x"
    """Its SAEs: a release, a hub repository, a folder of SAEs, or one SAE (release/id, a folder). Of raylens/pico, its
    own."""
    hookpoints: Annotated[tuple[str, ...], About("What is explained")] = ()
    """Which of these SAEs: layers.16, layers.16.mlp, resid_post.16, blocks.16.hook_resid_post, or an id in the
    release. By default all."""
    max_latents: Annotated[_Count | None, About("What is explained")] = None
    """Explain at most so many latents of each SAE, the first by number."""

    explainer_model: Annotated[str, About("Who explains and judges", "explanations")] = (
        "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
    )
    """The language model that explains, and that judges where a scorer needs a judge."""
    explainer_model_max_len: Annotated[
        Annotated[int, Field(ge=256)], About("Who explains and judges", "explanations")
    ] = 5120
    """Tokens of its context; examples are left out until a prompt fits."""
    explainer_provider: Annotated[
        Literal["offline", "openrouter", "openai"], About("Who explains and judges", "explanations")
    ] = "offline"
    """offline: on this Ray cluster. openrouter, openai: an endpoint; openai is any that speaks its protocol
    (--base_url), with the key in OPENROUTER_API_KEY or OPENAI_API_KEY."""
    explainer: Annotated[
        Literal["default", "contrastive", "cot", "logits", "lexical"], About("Who explains and judges", "explanations")
    ] = "default"
    """How. default becomes contrastive where negatives come from faiss; lexical asks no model and gives a rule."""
    load_in_8bit: Annotated[bool, About("Who explains and judges", "cache")] = False
    """Load the language model, and an offline explainer that is not quantised already, in 8 bits (on a GPU)."""

    scorers: Annotated[Annotated[tuple[ScorerName, ...], Field(min_length=1)], About("Scores")] = ("fuzz", "detection")
    """How explanations are measured. rule and embedding ask no model, and are what --explainer lexical is scored
    with where none are named."""
    num_examples_per_scorer_prompt: Annotated[Annotated[int, Field(ge=1, le=100)], About("Scores", "scores")] = 5
    """Excerpts in one question to the judge."""
    log_probs: Annotated[bool, About("Scores", "scores")] = False
    """Ask the judge for log-probabilities, from which there is a ROC-AUC."""

    dataset_repo: Annotated[str, About("Text", "cache")] = "EleutherAI/SmolLM2-135M-10B"
    """A data set of the hub, a file, folder or glob of .txt, .jsonl, .parquet or .csv, or stdlib, which is
    what raylens/pico reads where nothing is named."""
    dataset_split: Annotated[str, About("Text", "cache")] = "train[:1%]"
    """Split or slice, of a data set of the hub."""
    dataset_name: Annotated[str, About("Text", "cache")] = ""
    """Configuration of a data set of the hub; empty for its default."""
    dataset_column: Annotated[str, About("Text", "cache")] = "text"
    """Column with the text, or with chat messages."""
    n_tokens: Annotated[_Count, About("Text", "cache")] = 10_000_000
    """Tokens of text to encode."""
    cache_ctx_len: Annotated[Annotated[int, Field(ge=4)], About("Text", "cache")] = 256
    """Tokens of a window that the model reads at once."""
    batch_size: Annotated[Annotated[int, Field(ge=1, le=65_536)], About("Text", "cache")] = 32
    """Windows a forward pass. Part of what a cache is: sums come out differently in the last bit."""
    filter_bos: Annotated[bool, About("Text", "cache")] = False
    """Leave out activations on BOS and other special tokens (statistics never count them)."""
    n_splits: Annotated[_Count, About("Text")] = 5
    """Files that the latents of one SAE are exported in, at most."""

    min_examples: Annotated[_Count, About("Examples", "explanations")] = 200
    """Skip a latent that fires in fewer excerpts."""
    n_examples_train: Annotated[Annotated[int, Field(ge=1, le=10_000)], About("Examples", "explanations")] = 40
    """Excerpts that the explainer sees."""
    n_examples_test: Annotated[Annotated[int, Field(ge=1, le=10_000)], About("Examples", "explanations")] = 50
    """Excerpts, of other documents, that explanations are tested on."""
    n_non_activating: Annotated[Annotated[int, Field(ge=0, le=10_000)], About("Examples", "explanations")] = 50
    """Excerpts beside them in which the latent is silent."""
    example_ctx_len: Annotated[Annotated[int, Field(ge=4, le=4096)], About("Examples", "explanations")] = 32
    """Tokens of an excerpt."""
    center_examples: Annotated[bool, About("Examples", "explanations")] = True
    """Put the peak at three quarters of the excerpt; else excerpts are pieces as they lie in the window."""
    non_activating_source: Annotated[Literal["random", "faiss", "neighbours"], About("Examples", "explanations")] = (
        "random"
    )
    """Where silent excerpts come from: anywhere, near in meaning, or where a related latent fires."""
    neighbours_type: Annotated[Literal["co-occurrence", "decoder", "encoder"], About("Examples", "explanations")] = (
        "co-occurrence"
    )
    """What relates latents, for --non_activating_source neighbours."""

    pipeline_num_proc: Annotated[_Count, About("Machine")] = 120
    """CPU cores to use at most, of a Ray that this command starts; fewer present is no error."""
    num_gpus: Annotated[Annotated[int, Field(ge=0)], About("Machine")] = 8
    """GPUs to use at most; fewer present is no error, and 0 keeps to the CPU."""
    seed: Annotated[int, About("Machine", "cache")] = 22
    """Order of documents, the split by document, and every choice of examples."""
    verbose: Annotated[bool, About("Machine")] = True
    """Progress and notes on stderr; False leaves results and errors."""
    hf_token: Annotated[str | None, About("Machine")] = None
    """Token for gated models. It goes into this run's environment and nowhere else; HF_TOKEN is the better place
    (on a running cluster the only one: its nodes read their own)."""
    overwrite: Annotated[tuple[Stage, ...], About("Output")] = ()
    """What to make anew, with all that follows from it: cache, then neighbours (the index of near excerpts), then
    explanations, then scores."""
    name: Annotated[str | None, About("Output")] = None
    """Results go to results/NAME; by default model and SAE make the name."""

    preset: Annotated[Preset | None, About("Output")] = None
    """A size of run: dev (50 000 tokens, 20 latents, detection, --filter_bos), production (2 000 000, 200, detection
    and recall) or research (10 000 000, 1000, detection, recall, fuzz and simulation). Flags that are given win."""
    results_dir: Annotated[str, About(ADDED)] = "results"
    """Folder that holds results/NAME."""
    workspace: Annotated[str | None, About(ADDED)] = None
    """Where caches and runs are kept; like raylens --workspace."""
    feature_num: Annotated[tuple[Annotated[int, Field(ge=0)], ...], About(ADDED)] = ()
    """Explain these latents, by number; --max_latents then bounds how many of them."""
    sampling: Annotated[Literal["quantiles", "top", "random", "mix"], About(ADDED, "explanations")] = "quantiles"
    """Which excerpts of a latent are shown."""
    n_quantiles: Annotated[Annotated[int, Field(ge=1, le=1000)], About(ADDED, "explanations")] = 10
    """Bands of strength that quantiles and mix draw from."""
    prompt_dir: Annotated[str | None, About(ADDED, "explanations")] = None
    """Folder with prompt files of your own, in place of those of the same name."""
    embedding_model: Annotated[str | None, About(ADDED, "explanations", ("--faiss_embedding_model",))] = None
    """Sentence-transformers model for faiss; by default the embedded one, which needs no hub."""
    explainer_quantization: Annotated[Quantization | None, About(ADDED, "explanations")] = None
    """How an offline explainer alone is loaded; wins over --load_in_8bit."""
    base_url: Annotated[str | None, About(ADDED, "explanations", ("--explainer_api_base_url",))] = None
    """Address of an endpoint up to and with /v1, for --explainer_provider openai: vLLM, Ollama, TGI, LM Studio …"""
    budget_usd: Annotated[_Amount | None, About(ADDED)] = None
    """Stop before more than this is spent; needs the two prices."""
    max_calls: Annotated[Annotated[int, Field(ge=0)] | None, About(ADDED)] = None
    """Stop before more requests than this are sent, retries included."""
    prompt_price: Annotated[_Amount | None, About(ADDED)] = None
    """USD for a million tokens that are sent."""
    answer_price: Annotated[_Amount | None, About(ADDED)] = None
    """USD for a million tokens that come back."""
    max_concurrency: Annotated[Annotated[int, Field(ge=1, le=4096)], About(ADDED)] = 32
    """Requests to an endpoint under way at a time."""
    requests_per_minute: Annotated[_Positive | None, About(ADDED)] = None
    """Requests to an endpoint at most, evenly spaced."""
    timeout: Annotated[_Positive, About(ADDED)] = 120.0
    """Seconds for one whole answer of an endpoint."""
    device: Annotated[str, About(ADDED)] = "auto"
    """Where the language model runs: auto, cpu or cuda."""
    dtype: Annotated[DType, About(ADDED, "cache")] = "auto"
    """Of the language model's weights."""
    revision: Annotated[str | None, About(ADDED, "cache")] = None
    """Branch, tag or commit of the language model on the hub."""
    override_guard: Annotated[bool, About(ADDED)] = False
    """Allow an SAE trained on another model of the same shape."""
    catalog_file: Annotated[str | None, About(ADDED)] = None
    """Your own SAEs and aliases (YAML)."""
    address: Annotated[str | None, About(ADDED)] = None
    """A running Ray cluster; by default one starts on this machine and ends with the command."""
    as_json: Annotated[bool, About(ADDED, option="--json")] = False
    """One JSON document on stdout."""
