"""Which model a name means, and what its configuration says: no weights are read here.

A model reference is ``raylens/pico`` (or another model of the bundle), a local folder in
transformers format, or a hub id. Remote code is never run, and only safetensors are accepted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raylens.bundle.paths import list_models, model_path
from raylens.engine import fingerprint, hub
from raylens.errors import InputError, UnknownNameError
from raylens.specs import ModelInfo

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_CONFIG_FILES = ("config.json", "generation_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
)
_WEIGHT_FILES = ("model*.safetensors", "model*.safetensors.index.json")
# What transformers needs to run a checkpoint that was stored in fewer bits: package, and what it is imported as.
_LOADERS = {
    "awq": {"gptqmodel": "gptqmodel"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "auto-round": {"auto-round": "auto_round"},
    "hqq": {"hqq": "hqq"},
    "torchao": {"torchao": "torchao"},
}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies on this machine.

    ``name`` is the bundle's or hub's id, or a folder's absolute path, so that it means the same to a
    worker that was started elsewhere. ``revision`` identifies the weights: the hub's commit hash, or
    the content hash of a folder's configuration and safetensors (:mod:`raylens.engine.fingerprint`).
    """

    name: str
    revision: str
    folder: Path


def locate(ref: str, *, revision: str | None = None, weights: bool = True) -> ModelFiles:
    """Find the files of ``ref``, downloading those of a hub model that are not cached.

    With ``weights=False`` only configuration and tokenizer are fetched; of a folder, the weights
    are still hashed, as they are its identity. Weights that nothing here can load are not fetched.

    Raises:
        UnknownNameError: no such folder, bundled model, hub repository or revision.
        InputError: the folder or repository holds no configuration, or no safetensors; or they are stored in a
            quantization whose package is not installed (see :func:`require_loader`).
        HubUnreachableError: no hub, and not all of it is cached.
    """
    bundled = model_path(ref)
    if bundled is not None:
        return ModelFiles(ref, _folder_revision(bundled), bundled)
    folder = Path(ref).expanduser()
    if folder.is_dir():
        _require_config(folder, ref)
        folder = folder.resolve()
        if weights:
            _require_loader(folder, ref)
        return ModelFiles(str(folder), _folder_revision(folder), folder)
    if not _HUB_ID.fullmatch(ref):
        raise UnknownNameError.among(
            "model", ref, list_models(), hint="Or give a folder that exists, or a hub id such as google/gemma-2-2b."
        )
    return _locate_on_hub(ref, revision, weights)


def describe_model(ref: str, *, revision: str | None = None) -> ModelInfo:
    """What ``ref`` is, from its configuration: enough for the guard and for estimates.

    Raises:
        UnknownNameError, InputError, HubUnreachableError: as :func:`locate`.
    """
    return describe_files(locate(ref, revision=revision, weights=False))


def describe_files(files: ModelFiles) -> ModelInfo:
    """:class:`ModelInfo` of files that were located already.

    Raises:
        InputError: the configuration is not one of a language model that transformers knows, or is an encoder's.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{files.name} has no configuration that transformers can read ({_first_line(error)}).",
            hint="RayLens runs transformers' own architectures, and never code that comes with a model.",
        ) from error
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    sizes = [size for size in found if isinstance(size, int)]
    if len(sizes) != 3:
        raise InputError(
            f"{files.name} is not a causal language model ({config.model_type}).", hint="name a text-generating model."
        )
    if _is_encoder(config):
        raise InputError(
            f"{files.name} is an encoder ({_architecture(config)}): it reads texts both ways and writes none.",
            hint="name a text-generating model; an encoder can be an embedding model (--embedding-model).",
        )
    d_model, n_layers, vocab_size = sizes
    positions = getattr(text, "max_position_embeddings", None)
    return ModelInfo(
        name=files.name,
        revision=files.revision,
        d_model=d_model,
        n_layers=n_layers,
        vocab_size=vocab_size,
        architecture=_architecture(config),
        max_positions=positions if isinstance(positions, int) and positions > 0 else None,
    )


def _architecture(config: Any) -> str:
    return (config.architectures or [type(config).__name__])[0]


def _is_encoder(config: Any) -> bool:
    """Whether it is BERT's kind: a token's vector depends on what follows it, and nothing comes next."""
    from transformers.models.auto import modeling_auto

    is_masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return is_masked and not getattr(config, "is_decoder", False) and _architecture(config) not in causal


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights, in order of name (none: an empty list)."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted(folder / name for name in set(json.loads(index.read_text())["weight_map"].values()))
    return sorted(folder.glob("model*.safetensors"))


def sidecar_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer of the model in ``folder``: what a copy of it needs beside the weights."""
    return [path for name in (*_CONFIG_FILES, *_TOKENIZER_FILES) if (path := folder / name).is_file()]


def require_safetensors(files: ModelFiles) -> None:
    """Raise InputError where a model has no safetensors weights, naming the pickles it has instead."""
    if weight_files(files.folder):
        return
    pickles = sorted(path.name for pattern in _PICKLED for path in files.folder.glob(pattern))
    found = f"only pickled ones ({', '.join(pickles[:3])})" if pickles else "none at all"
    raise InputError(
        f"{files.name} has no model*.safetensors weights, but {found}.",
        hint="pickles can run code; take a revision with safetensors, or: raylens convert FOLDER --out NEW.",
    )


def require_loader(files: ModelFiles) -> None:
    """Raise InputError where a model is stored quantized (AWQ, GPTQ …) and the package that runs it is missing."""
    _require_loader(files.folder, files.name)


def _require_loader(folder: Path, name: str) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:  # said by transformers, where the configuration is read
        return
    stored = config.get("quantization_config") if isinstance(config, dict) else None
    method = str(stored.get("quant_method")) if isinstance(stored, dict) else ""
    missing = [package for package, module in _LOADERS.get(method, {}).items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{name} is stored in {method.upper()}, which needs {' and '.join(missing)}, not installed here.",
            hint=f"pip install {' '.join(missing)} on every node, or serve it with vLLM and name that endpoint, "
            "or name the model it was made from and load that in 4 bits (bnb-4bit).",
        )


def _locate_on_hub(ref: str, revision: str | None, weights: bool) -> ModelFiles:
    folder, commit = hub.fetch(ref, [*_CONFIG_FILES, *_TOKENIZER_FILES], revision=revision)
    _require_config(folder, ref)
    if weights:
        _require_loader(folder, ref)
        folder, commit = hub.fetch(ref, [*_CONFIG_FILES, *_TOKENIZER_FILES, *_WEIGHT_FILES], revision=commit)
    return ModelFiles(ref, commit, folder)


def _require_config(folder: Path, ref: str) -> None:
    if not (folder / "config.json").is_file():
        adapter = " but a LoRA adapter" if (folder / "adapter_config.json").is_file() else ""
        raise InputError(
            f"{ref} holds no model{adapter}: there is no config.json.",
            hint="name a folder written by save_pretrained (merge an adapter into its base model first).",
        )


def _folder_revision(folder: Path) -> str:
    return fingerprint.of_files([folder / "config.json", *weight_files(folder)])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
