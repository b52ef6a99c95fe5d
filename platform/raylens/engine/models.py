"""Which model a name means, and what its configuration says: no weights are read here.

A model reference is ``raylens/pico`` (or another model of the bundle), a local folder in
transformers format, or a hub id. Remote code is never run, and only safetensors are accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raylens.bundle.paths import list_models, model_path
from raylens.engine import fingerprint, hub
from raylens.engine.checkpoint_files import INDEX, read_raw_config, require_weights, weight_files
from raylens.engine.model_config import read_model_config
from raylens.errors import InputError, UnknownNameError
from raylens.home import from_home
from raylens.specs import ModelInfo

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_CONFIG_FILES = ("config.json", "generation_config.json")
_BESIDE = ("adapter_config.json",)  # never loaded: a model that comes with one is refused
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
_WEIGHT_FILES = ("model*.safetensors", INDEX)
# What transformers needs to run a checkpoint that was stored in fewer bits: package, and what it is imported as.
_LOADERS = {
    "awq": {"gptqmodel": "gptqmodel"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "auto-round": {"auto-round": "auto_round"},
    "hqq": {"hqq": "hqq"},
    "torchao": {"torchao": "torchao"},
}


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
            quantization whose package is not installed (see :func:`require_loader`); or a folder's files are not of
            ``revision``.
        HubUnreachableError: no hub, and not all of it is cached.
    """
    bundled = model_path(ref)
    if bundled is not None:
        return _of_revision(ModelFiles(ref, _folder_revision(bundled), bundled), revision)
    folder = model_folder(ref)
    if folder is not None:
        read_raw_config(folder, ref)
        if weights:
            _require_loader(folder, ref)
        return _of_revision(ModelFiles(str(folder), _folder_revision(folder), folder), revision)
    if not _HUB_ID.fullmatch(ref):
        raise UnknownNameError.among(
            "model", ref, list_models(), hint="Or give a folder that exists, or a hub id such as google/gemma-2-2b."
        )
    return _locate_on_hub(ref, revision, weights)


def _of_revision(files: ModelFiles, revision: str | None) -> ModelFiles:
    """A folder holds one revision, and another cannot be had of it."""
    if revision is not None and revision != files.revision:
        raise InputError(
            f"{files.name} holds revision {files.revision[:12]}, and {revision[:12]} was asked for.",
            hint="its files have changed since: begin anew; or leave --revision out, as a folder has but one.",
        )
    return files


def model_folder(ref: str) -> Path | None:
    """The local folder that a reference names, links resolved; None where there is no such folder.

    Raises:
        InputError: It names a file, or nothing.
    """
    if not ref.strip():
        raise InputError("the name of the model is empty.", hint="name raylens/pico, a folder, or a hub id.")
    path = from_home(ref)
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise InputError(f"{ref} is a file, and a model is a folder.", hint="name the folder that the file lies in.")
    return None


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
    config = read_model_config(files.folder, files.name)
    text = config.get_text_config()
    if _is_encoder(config):
        raise InputError(
            f"{files.name} is an encoder ({_architecture(config)}): it reads texts both ways and writes none.",
            hint="name a text-generating model; an encoder can be an embedding model (--embedding-model).",
        )
    positions = getattr(text, "max_position_embeddings", None)
    return ModelInfo(
        name=files.name,
        revision=files.revision,
        d_model=text.hidden_size,
        n_layers=text.num_hidden_layers,
        vocab_size=text.vocab_size,
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


def sidecar_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer of the model in ``folder``: what a copy of it needs beside the weights."""
    return [path for name in (*_CONFIG_FILES, *_TOKENIZER_FILES) if (path := folder / name).is_file()]


def require_safetensors(files: ModelFiles) -> None:
    """Raise InputError where a model has no safetensors weights, naming the pickles it has instead."""
    require_weights(files.folder, files.name)


def require_loader(files: ModelFiles) -> None:
    """Raise InputError where a model is stored quantized (AWQ, GPTQ …) and the package that runs it is missing."""
    _require_loader(files.folder, files.name)


def _require_loader(folder: Path, name: str) -> None:
    stored = read_raw_config(folder, name).get("quantization_config")
    method = str(stored.get("quant_method")) if isinstance(stored, dict) else ""
    missing = [package for package, module in _LOADERS.get(method, {}).items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{name} is stored in {method.upper()}, which needs {' and '.join(missing)}, not installed here.",
            hint=f"pip install {' '.join(missing)} on every node, or serve it with vLLM and name that endpoint, "
            "or name the model it was made from and load that in 4 bits (bnb-4bit).",
        )


def _locate_on_hub(ref: str, revision: str | None, weights: bool) -> ModelFiles:
    folder, commit = hub.fetch(ref, [*_CONFIG_FILES, *_BESIDE, *_TOKENIZER_FILES], revision=revision)
    read_raw_config(folder, ref)
    if weights:
        _require_loader(folder, ref)
        folder, commit = hub.fetch(ref, [*_CONFIG_FILES, *_TOKENIZER_FILES, *_WEIGHT_FILES], revision=commit)
    return ModelFiles(ref, commit, folder)


def _folder_revision(folder: Path) -> str:
    return fingerprint.of_files([folder / "config.json", *weight_files(folder)])
