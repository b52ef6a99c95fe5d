"""The end of a model alone: final norm and unembedding, read without the layers before them.

What a latent promotes needs no more, and a model's layers are most of its memory: of Llama-3.1-8B in float32 30 of 32
GB. A checkpoint that stores them otherwise than the model has them (in fewer bits, say) is loaded whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from interp_engine.arch import resolve_arch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from raylens.engine.checkpoint_files import weight_files
from raylens.engine.load import LoadedModel, load_model, tokenizer_of
from raylens.engine.memory import memory_advice
from raylens.engine.models import ModelFiles, locate, require_safetensors
from raylens.engine.skeleton import skeleton
from raylens.errors import DamagedFileError

_HALF: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Unembedding:
    """What turns the residual stream into logits.

    Attributes:
        norm: The final norm.
        weight: ``[vocabulary, d_model]``.
        tokenizer: Of the vocabulary.
    """

    norm: nn.Module
    weight: Tensor
    tokenizer: PreTrainedTokenizerBase


def unembedding_of(loaded: LoadedModel) -> Unembedding:
    """That of a model that is loaded; nothing is copied."""
    arch = loaded.engine.arch
    return Unembedding(arch.final_norm, arch.lm_head.get_parameter("weight"), loaded.tokenizer)


def load_unembedding(ref: str, *, revision: str | None = None) -> Unembedding:
    """That of a model that is not, on the CPU, in the dtype :func:`raylens.engine.load.load_model` would have it in.

    Args:
        ref: As for :func:`raylens.engine.load.load_model`.
        revision: Likewise.

    Raises:
        UnknownNameError, InputError, HubUnreachableError, DamagedFileError, OutOfMemoryError: As there.
    """
    files = locate(ref, revision=revision)
    require_safetensors(files)
    with memory_advice(f"reading the unembedding of {files.name}", "cpu"):
        found = _read(files)
    return found if found is not None else unembedding_of(load_model(ref, device="cpu", revision=revision))


def _read(files: ModelFiles) -> Unembedding | None:
    """None where the checkpoint does not hold the tensors as the model has them."""
    network: Any = skeleton(files)
    if getattr(network.config, "quantization_config", None):
        return None
    arch = resolve_arch(network, network.config)
    stored = _stored(files.folder, network)
    norm, head, embed = (arch.module_names[name] + "." for name in ("final_norm", "lm_head", "embed"))
    # A checkpoint that has both is not tied, whatever its configuration says.
    tied = arch.quirks.tied_embeddings and f"{head}weight" not in stored
    head = f"{embed if tied else head}weight"
    wanted = {norm + name: one.shape for name, one in arch.final_norm.state_dict().items()}
    wanted[head] = arch.lm_head.get_parameter("weight").shape
    if not wanted.keys() <= stored.keys():
        return None
    tensors = {name: _tensor(*stored[name], network.config) for name in wanted}
    if any(tensors[name].shape != shape for name, shape in wanted.items()):
        return None
    weight = tensors.pop(head)
    arch.final_norm.load_state_dict({name.removeprefix(norm): one for name, one in tensors.items()}, assign=True)
    return Unembedding(arch.final_norm, weight, tokenizer_of(files))


def _stored(folder: Path, network: Any) -> dict[str, tuple[Path, str]]:
    """Name of each parameter that is stored as it is → its file and its key there, by transformers' own renaming."""
    mapping = get_model_conversion_mapping(network)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    parameters = network.state_dict()
    found = {}
    for file, key in _keys(folder):
        name, converted = rename_source_key(key, renamings, converters, network.base_model_prefix, parameters)
        if converted is None:
            found[name] = (file, key)
    return found


def _keys(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in weight_files(folder):
        with _opened(path) as file:
            yield from ((path, key) for key in file.keys())  # noqa: SIM118


def _tensor(path: Path, key: str, config: Any) -> Tensor:
    with _opened(path) as file:
        tensor = file.get_tensor(key)
    stored = getattr(config, "dtype", None)
    dtype = stored if isinstance(stored, torch.dtype) else tensor.dtype
    # As raylens.engine.load: a 16-bit checkpoint runs in float32 on a CPU.
    return tensor.to(torch.float32 if dtype in _HALF else dtype)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(
            f"a weights file in {path.parent} cannot be read ({error}).", hint="copy or download the model again."
        ) from error
