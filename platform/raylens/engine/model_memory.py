"""What models, SAEs and a forward pass take of a device's memory, said before any weights are read; and what it has.

Weights are counted exactly, from the architecture that a configuration names. What a pass takes besides is estimated
from above: the residual stream and the widest tensors of a block, and the pre-activations of one SAE.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from torch import nn

from raylens.config import ModelConfig
from raylens.engine.checkpoint_files import read_raw_config
from raylens.engine.feature_reading import CPU_TOKENS
from raylens.engine.load import DTYPES, choose_device
from raylens.engine.models import locate
from raylens.engine.skeleton import skeleton
from raylens.specs import ModelInfo, SaeSpec

_QUANTIZED_BYTES: Final = {"bnb-8bit": 1.0, "bnb-4bit": 0.5625}
"""A weight of a linear layer; 4 bits have a scale every 64 weights."""
_WIDEST: Final = 24
"""Values that a token has at a time in a block, in widths of the residual stream: stream, norms, gate and up."""
_ENCODED: Final = 1 << 30
"""Bytes that an SAE's pre-activations take at most (see :mod:`raylens.engine.encode`)."""
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_CGROUPS: Final = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))


def model_bytes(config: ModelConfig) -> int:
    """Bytes of a model's weights on its device. Of a hub model only the configuration is fetched.

    Raises:
        UnknownNameError, InputError, HubUnreachableError: As :func:`raylens.engine.models.locate`.
    """
    files = locate(config.model, revision=config.revision, weights=False)
    if read_raw_config(files.folder, files.name).get("quantization_config"):
        on_disk = sum(
            path.stat().st_size for path in files.folder.glob("model*.safetensors")
        )  # of the hub, perhaps none
        if on_disk:
            return on_disk  # quantized by its makers: it stays as it is
    network = skeleton(files)
    itemsize = _itemsize(config, network)
    linear = {
        id(layer.weight) for name, layer in network.named_modules() if isinstance(layer, nn.Linear) and "." in name
    }
    per_weight = _QUANTIZED_BYTES.get(config.quantization or "", itemsize)
    sizes = (one.numel() * (per_weight if id(one) in linear else itemsize) for one in network.parameters())
    return int(sum(sizes)) + sum(one.numel() * one.element_size() for one in network.buffers())


def sae_bytes(spec: SaeSpec) -> int:
    """Bytes of an SAE's weights in float32: two matrices, a few vectors."""
    return 4 * (2 * spec.d_in * spec.d_sae + 3 * spec.d_sae + spec.d_in)


def pass_bytes(model: ModelInfo, device: torch.device, batch_tokens: int) -> int:
    """Bytes that a forward pass takes besides weights, where its unembedding is of the last tokens alone."""
    return 4 * _tokens(device, batch_tokens) * _WIDEST * model.d_model


def encoding_bytes(spec: SaeSpec, device: torch.device, batch_tokens: int) -> int:
    """Bytes that encoding a pass takes besides weights."""
    return min(_ENCODED, 4 * _tokens(device, batch_tokens) * spec.d_sae)


def loaded_bytes(module: nn.Module) -> int:
    """Bytes of all tensors of a module that was loaded."""
    tensors = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on a device, as far as the machine, its container and limits say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds and does not use is as good as free.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, min(_free_of_machine()))


def _free_of_machine() -> Iterator[int]:
    yield psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms
    for controller, most, used in _CGROUPS:
        folder = _CGROUP_ROOT / controller
        try:
            said, taken = (folder / most).read_text().strip(), int((folder / used).read_text())
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue  # no such group here, or this version has no such file
        if said.isdecimal():
            # Pages of files that nobody used for a while are given back when memory runs short.
            yield int(said) - taken + int(counts.get("inactive_file", 0))


def _tokens(device: torch.device, batch_tokens: int) -> int:
    return min(batch_tokens, CPU_TOKENS) if device.type == "cpu" else batch_tokens


def _itemsize(config: ModelConfig, network: Any) -> int:
    if config.dtype != "auto":
        return DTYPES[config.dtype].itemsize
    stored = getattr(network.config, "dtype", None)
    size = stored.itemsize if isinstance(stored, torch.dtype) else 4
    # As raylens.engine.load: a 16-bit checkpoint runs in float32 on a CPU.
    return max(size, 4) if choose_device(config.device).type == "cpu" and not config.quantization else size
