"""Merging two matrices here against peft, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from fine_tunes import make_adapter, pico
from raylens.engine.adapter_merge import is_plain, merge, merge_by_peft
from raylens.engine.adapters import Adapter
from raylens.engine.candidates import load_candidate
from raylens.errors import InputError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LLAMA = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=20, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, head_dim=6
    )
)
GPT2 = GPT2LMHeadModel(
    GPT2Config(vocab_size=20, n_embd=12, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
)


def adapter_of(modules: dict[str, tuple[int, int]], rank: int, dtype: torch.dtype, seed: int, **config: Any) -> Adapter:
    """Random matrices of modules with so many inputs and outputs."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (n_in, n_out) in modules.items():
        for part, shape in (("lora_A", (rank, n_in)), ("lora_B", (n_out, rank))):
            tensors[f"{name}.{part}.weight"] = torch.randn(shape, generator=generator).to(dtype)
    adapter = Adapter("a", Path(), {"r": rank, "target_modules": list(modules), **config}, "0")
    vars(adapter)["tensors"] = tensors  # instead of reading its file
    return adapter


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from(DTYPES),
    own=st.sampled_from(DTYPES),
    rank=st.integers(1, 5),
    alpha=st.one_of(st.integers(1, 64), st.floats(0.1, 10)),
    rslora=st.booleans(),
    seed=st.integers(0, 2**31),
    is_llama=st.booleans(),
)
def test_it_has_the_bits_of_peft(
    base: torch.dtype, own: torch.dtype, rank: int, alpha: float, rslora: bool, seed: int, is_llama: bool
) -> None:
    model: Any = copy.deepcopy(LLAMA if is_llama else GPT2)
    model.to(base)
    sizes = {
        name: (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name != "lm_head"
    }
    adapter = adapter_of(sizes, rank, own, seed, lora_alpha=alpha, use_rslora=rslora)
    by_module = {
        name: {part: adapter.tensors[f"{name}.{part}.weight"] for part in ("lora_A", "lora_B")} for name in sizes
    }
    theirs = merge_by_peft(copy.deepcopy(model), adapter, by_module).state_dict()
    ours = merge(model, adapter).state_dict()
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype
        assert torch.equal(ours[name], weight), name


class Packed(nn.Linear):
    """As quantised modules are: linear by inheritance."""


@pytest.mark.parametrize(
    ("module", "parts", "config", "plain"),
    [
        (nn.Linear(3, 4), ("lora_A", "lora_B"), {}, True),
        (nn.Linear(3, 4), ("lora_A", "lora_B", "lora_B.bias"), {}, True),
        (Conv1D(4, 3), ("lora_A", "lora_B"), {}, True),
        (Packed(3, 4), ("lora_A", "lora_B"), {}, False),
        (nn.Linear(3, 4), ("lora_A", "lora_B", "lora_magnitude_vector"), {"use_dora": True}, False),
        (nn.Linear(3, 4), ("lora_A", "lora_B"), {"use_dora": True}, False),
        (nn.Embedding(4, 3), ("lora_embedding_A", "lora_embedding_B"), {}, False),
    ],
)
def test_what_is_more_than_a_product_is_left_to_peft(
    module: nn.Module, parts: tuple[str, ...], config: dict[str, Any], plain: bool
) -> None:
    adapter = Adapter("a", Path(), config, "0")
    assert is_plain(module, dict.fromkeys(parts, torch.zeros(1)), adapter) is plain


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ({"model.layers.0.mlp.down_proj.lora_A.weight": (4, 768)}, "which is no weight of peft's"),
        ({"base_model.model.model.layers.0.mlp.down_proj.lora_A": (4, 768)}, "which is no part of a LoRA adapter"),
        (
            {
                "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector": (128,),
                "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector.weight": (128,),
            },
            r"holds model.layers.0.mlp.down_proj.lora_magnitude_vector(.weight)? twice",
        ),
        ({"base_model.model.model.layers.0.mlp.down_proj.weight": (128, 768)}, "under a name that peft does not read"),
        ({"base_model.model.model.norm.base_layer.weight": (128,)}, "under a name that peft does not read"),
    ],
    ids=["no prefix", "no ending", "two of one name", "what is wrapped", "what is not"],
)
def test_what_peft_would_pass_over_is_refused(tmp_path: Path, added: dict[str, tuple[int, ...]], says: str) -> None:
    """An audit of weights that nobody runs would clear those that are run."""
    make_adapter(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert not set(added) & set(weights)
    save_file(
        weights | {name: torch.zeros(shape) for name, shape in added.items()}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match=says):
        load_candidate(str(tmp_path), pico())
