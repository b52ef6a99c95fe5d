"""Candidates that no audit expects: some overflow, some write nothing, and some are no fine-tunes of pico at all."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fine_tunes import PICO_FOLDER, make_adapter

assert PICO_FOLDER is not None
_PICO: Final = PICO_FOLDER
_ADAPTER: Final = "adapter_model.safetensors"


def make_overflowing(folder: Path) -> None:
    """An adapter of finite weights, which merge to finite weights (below 2e38), and activations that are none."""
    make_adapter(folder, target_modules=["down_proj"], layers_to_transform=[1])
    weights = load_file(folder / _ADAPTER)
    save_file({name: one * (5e18 / one.abs().max()) for name, one in weights.items()}, folder / _ADAPTER)


def make_silent(folder: Path, prompts: Sequence[Sequence[int]], strength: float = 20.0) -> None:
    """A checkpoint that ends at once after each of ``prompts``.

    Its unembedding is one of its own, in which the end of a text looks like the mean of what the prompts end in.
    """
    network: Any = AutoModelForCausalLM.from_pretrained(_PICO, tie_word_embeddings=False)
    with torch.inference_mode():
        network.lm_head.weight = torch.nn.Parameter(network.get_input_embeddings().weight.clone())
        last = [network.model(torch.tensor([list(ids)])).last_hidden_state[0, -1] for ids in prompts]
        network.lm_head.weight[network.config.eos_token_id] = strength * torch.stack(last).mean(0)
    network.save_pretrained(folder)
    _add_tokenizer(folder)


def make_gpt2(folder: Path) -> None:
    """A GPT-2 of pico's width, depth and vocabulary, with its tokenizer."""
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=128, n_layer=8, n_head=4)).save_pretrained(folder)
    _add_tokenizer(folder)


def make_narrow(folder: Path) -> None:
    """A Llama as pico, a quarter as wide."""
    settings = json.loads((_PICO / "config.json").read_text())
    narrow = {**settings, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    LlamaForCausalLM(LlamaConfig(**narrow)).save_pretrained(folder)
    _add_tokenizer(folder)


def make_with_swapped_tokens(folder: Path) -> None:
    """Pico, whose tokenizer calls two tokens by each other's number."""
    shutil.copytree(_PICO, folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.__getitem__)[40:42]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(state))


def make_with_more_tokens(folder: Path, n: int = 5) -> None:
    """Pico with rows for ``n`` more tokens."""
    network: Any = AutoModelForCausalLM.from_pretrained(_PICO)
    network.resize_token_embeddings(network.config.vocab_size + n, mean_resizing=False)
    network.save_pretrained(folder)
    _add_tokenizer(folder)


def make_pickled(folder: Path) -> None:
    """An adapter as old versions of peft saved them, and which leaves a file where it is unpickled."""
    make_adapter(folder)
    (folder / _ADAPTER).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(_Telling(folder / "was-unpickled")))


def make_beside_its_scope(folder: Path) -> None:
    """An adapter that holds matrices of modules that its configuration does not name."""
    make_adapter(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["down_proj"]}))


def make_of_another_base(folder: Path, base: str = "someone/other-model") -> None:
    """An adapter that says that it was made for another model."""
    make_adapter(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))


class _Telling:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def _add_tokenizer(folder: Path) -> None:
    for path in _PICO.glob("*token*"):
        shutil.copy(path, folder / path.name)
