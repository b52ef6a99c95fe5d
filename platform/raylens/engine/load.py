"""Loading a causal language model, its tokenizer, and what must be known to run text through it.

The model is transformers' own, wrapped by interp-engine, which names its points. It keeps the
attention kernel that transformers chooses. ``dtype="auto"`` is the checkpoint's own, except that a
16-bit checkpoint runs in float32 on a CPU: the widening is exact, and CPUs are slower in 16 bits.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
from interp_engine import EagerModel
from interp_engine import load_model as load_engine
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from raylens.engine import hub
from raylens.engine.checkpoint_files import read_raw_config
from raylens.engine.memory import memory_advice
from raylens.engine.models import ModelFiles, describe_files, describe_model, locate, require_safetensors
from raylens.engine.skeleton import misfit
from raylens.errors import DamagedFileError, InputError
from raylens.ids import digest
from raylens.specs import ModelInfo

__all__ = ["LoadedModel", "describe_model", "load_model", "load_tokenizer", "token_strings", "tokenizer_fingerprint"]

Quantization = Literal["bnb-8bit", "bnb-4bit"]

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run, in evaluation mode and without gradients.

    ``prefix_ids`` are what the tokenizer itself puts before any text (BOS, or nothing);
    ``special_ids`` are all ids that stand for no text. ``lock`` serialises forwards: hooks are set
    on the modules, so two threads tapping one model would read each other's tensors.
    """

    engine: EagerModel
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo
    prefix_ids: tuple[int, ...]
    special_ids: frozenset[int]
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def model(self) -> nn.Module:
        """The transformers model."""
        return self.engine.hf_model

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def revision(self) -> str:
        """Hub commit, or content hash of a folder."""
        return self.info.revision

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embedding."""
        return next(self.engine.arch.embed.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        return self.engine.dtype

    @property
    def d_model(self) -> int:
        return self.info.d_model

    @property
    def n_layers(self) -> int:
        return self.info.n_layers

    @cached_property
    def pad_id(self) -> int:
        """A token id for the masked positions of a batch; which one it is changes nothing."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id):
            if isinstance(token, int):
                return token
        return 0


def load_model(
    ref: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    quantization: Quantization | None = None,
    num_gpus: int | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load a causal LM from the bundle, a local folder or the hub; safetensors only, never remote code.

    Args:
        ref: ``raylens/pico``, a folder in transformers format, or a hub id.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        quantization: Weights in 8 or 4 bits, by bitsandbytes.
        num_gpus: Spread the layers over this many GPUs, by accelerate.
        revision: Branch, tag or commit of a hub model.

    Raises:
        UnknownNameError: no such model.
        InputError: a setting does not fit this machine, or the model has no safetensors, is an encoder, or has no
            architecture known here.
        HubUnreachableError: not cached, and no hub.
        DamagedFileError: a weights file is truncated.
        OutOfMemoryError: it does not fit; says what to lower.
    """
    hub.prepare()
    disable_progress_bar()  # stderr is the caller's
    where = choose_device(device, num_gpus)
    _check_precision(dtype, quantization)
    files = locate(ref, revision=revision)
    require_safetensors(files)
    info = describe_files(files)
    tokenizer = tokenizer_of(files)
    with memory_advice(f"loading {files.name}", where):
        engine = _load(files, tokenizer, where, dtype, quantization, num_gpus or 1)
    _check_four_bits(engine, files.name)
    missing = sorted(getattr(engine.hf_model, "ie_missing_keys", ()))
    if missing:
        raise InputError(
            f"{files.name} lacks weights for {missing[0]}" + (f" and {len(missing) - 1} more." if missing[1:] else "."),
            hint="its config.json and its safetensors do not belong together.",
        )
    return LoadedModel(engine, tokenizer, info, prefix_ids(tokenizer), frozenset(tokenizer.all_special_ids))


def load_tokenizer(ref: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of ``ref`` alone; no weights are fetched.

    Raises:
        UnknownNameError, InputError, HubUnreachableError: as :func:`load_model`.
    """
    hub.prepare()
    return tokenizer_of(locate(ref, revision=revision, weights=False))


def prefix_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that ``tokenizer`` puts before every text by itself: BOS for Llama and Gemma, none for GPT-2."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    assert isinstance(bare, list)
    assert isinstance(full, list)
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start])
    return ()


def token_strings(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each id as a reader would write it, with its leading space; a piece of a character as its raw token.

    Each is decoded alone, where SentencePiece would drop that space.
    """
    if not len(ids):  # of no rows, batch_decode makes one
        return []
    raw = tokenizer.convert_ids_to_tokens(list(ids))
    decoded = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    strings = []
    for token, text in zip(raw, decoded, strict=True):
        if isinstance(token, str) and token.startswith("▁"):
            strings.append(token.replace("▁", " "))
        else:
            strings.append(token if "\ufffd" in text and isinstance(token, str) else text)
    return strings


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of everything that decides which ids a text becomes; the chat template is left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, object] = {"class": type(tokenizer).__name__, "special": sorted(tokenizer.all_special_ids)}
    if backend is not None:
        state["fast"] = json.loads(backend.to_str())
    else:
        state["vocabulary"] = tokenizer.get_vocab()
    return digest(state)


def choose_device(device: str, num_gpus: int | None = None) -> torch.device:
    """The device that ``device`` means on this machine.

    Raises:
        InputError: it is no device, or this machine has no such.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is not a device.", hint="write auto, cpu, cuda, cuda:1 or mps.") from error
    gpus = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise InputError(f"there is no device {device!r} here.", hint=f"this machine has {gpus} CUDA GPUs.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no device 'mps' here.", hint="write auto or cpu.")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"{device!r} is not a device RayLens runs on.", hint="write auto, cpu, cuda, cuda:1 or mps.")
    if num_gpus is not None and num_gpus > max(gpus, 1):
        raise InputError(f"{num_gpus} GPUs were asked for.", hint=f"this machine has {gpus} CUDA GPUs.")
    return chosen


def _check_precision(dtype: str, quantization: str | None) -> None:
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not a dtype.", hint=f"write auto, {', '.join(DTYPES)}.")
    if quantization not in (None, "bnb-8bit", "bnb-4bit"):
        raise InputError(f"{quantization!r} is not a quantization.", hint="write bnb-8bit or bnb-4bit.")
    if quantization and find_spec("bitsandbytes") is None:
        raise InputError("bitsandbytes is not installed.", hint="install raylens[models], or drop --quantization.")


def tokenizer_of(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer of files that were located already.

    Raises:
        InputError: There is none that transformers can read.
    """
    try:
        return AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # of whatever a tokenizer's class makes of a stranger's files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{files.name} has no tokenizer that transformers can read ({reason}).",
            hint="put its tokenizer.json beside its config.json.",
        ) from error


def _load(
    files: ModelFiles,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    dtype: str,
    quantization: Quantization | None,
    num_gpus: int,
) -> EagerModel:
    # The tokenizer is handed over because interp-engine, left to load it, falls back to remote code.
    settings: dict[str, Any] = {"tokenizer": tokenizer, "attn_implementation": None}
    settings["model_kwargs"] = {"use_safetensors": True, "local_files_only": True}
    try:
        engine = load_engine(
            str(files.folder),
            backend="eager",
            device=str(device),
            dtype=own_dtype(files, device) if dtype == "auto" else dtype,
            quantization=quantization or "",
            num_gpus=num_gpus,
            trust_remote_code=False,
            **settings,
        )
    except SafetensorError as error:
        raise DamagedFileError(
            f"a weights file in {files.folder} cannot be read ({error}).", hint="copy or download the model again."
        ) from error
    except ImportError as error:  # a quantization of the checkpoint's own; transformers says which package
        raise InputError(
            f"{files.name} cannot be loaded here ({' '.join(str(error).split())[:200]}).",
            hint="install that on every node, or name a model that is not stored quantized.",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of whatever an architecture makes of a stranger's configuration
        if odd := misfit(files):
            raise InputError(
                f"{odd} in the safetensors of {files.name}.",
                hint="its config.json and its safetensors do not belong together.",
            ) from error
        if isinstance(error, RuntimeError) and not str(error).startswith("Could not load"):
            raise
        raise InputError(
            f"{files.name} cannot be run as a causal language model ({' '.join(str(error).split())[:200]}).",
            hint="name a text-generating model of an architecture that transformers has.",
        ) from error
    assert isinstance(engine, EagerModel)
    return engine


def _check_four_bits(engine: EagerModel, name: str) -> None:
    """On a CPU, bitsandbytes packs 4-bit weights in blocks that must divide a layer's width."""
    for path, module in engine.hf_model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and engine.device.type == "cpu" and state.shape[1] % state.blocksize:
            raise InputError(
                f"{name} cannot run in 4 bits on a CPU: {path} is {state.shape[1]} wide, not a multiple of "
                f"{state.blocksize}.",
                hint="use bnb-8bit, a GPU, or no quantization.",
            )


def own_dtype(files: ModelFiles, device: torch.device | str) -> str:
    """What ``dtype="auto"`` is for a model on a kind of device; ``auto`` where its configuration does not say.

    Raises:
        InputError: The configuration cannot be read.
    """
    config = read_raw_config(files.folder, files.name)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    if stored not in DTYPES or config.get("quantization_config"):
        return "auto"
    return "float32" if torch.device(device).type == "cpu" else stored
