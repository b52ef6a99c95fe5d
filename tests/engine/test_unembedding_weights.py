"""Norm and unembedding read from files alone, against those of the whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from raylens.engine import unembedding_weights
from raylens.engine.load import load_model
from raylens.engine.unembedding_weights import Unembedding, load_unembedding, unembedding_of
from raylens.errors import DamagedFileError, RaylensError


def whole(folder: Path) -> Unembedding:
    return unembedding_of(load_model(str(folder), device="cpu"))


def require_same(found: Unembedding, wanted: Unembedding) -> None:
    assert torch.equal(found.weight, wanted.weight)
    assert found.weight.dtype == wanted.weight.dtype
    assert type(found.norm) is type(wanted.norm)
    states = found.norm.state_dict(), wanted.norm.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert found.tokenizer.get_vocab() == wanted.tokenizer.get_vocab()


def without_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(unembedding_weights, "load_model", refuse)


def saved(folder: Path, out: Path, dtype: torch.dtype, shard: str, tied: bool) -> Path:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=tied, dtype=dtype)
    if not tied:  # what was tied begins as a copy
        with torch.no_grad():
            model.get_output_embeddings().weight.add_(0.5)
    model.save_pretrained(out, max_shard_size=shard)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(
    ("dtype", "shard", "tied"),
    [(torch.float32, "1GB", True), (torch.float32, "20KB", False), (torch.bfloat16, "20KB", True)],
    ids=["one file", "shards", "16 bits"],
)
def test_it_is_that_of_the_whole_model(
    model_folders: dict[str, Path],
    architecture: str,
    dtype: torch.dtype,
    shard: str,
    tied: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = saved(model_folders[architecture], tmp_path / "model", dtype, shard, tied)
    assert (folder / "model.safetensors.index.json").is_file() == (shard != "1GB")
    wanted = whole(folder)
    without_layers(monkeypatch)
    require_same(load_unembedding(str(folder)), wanted)


def test_names_that_a_library_gave_up_are_found(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pythia's checkpoints call the unembedding ``embed_out``."""
    tokenizer = AutoTokenizer.from_pretrained(model_folders["llama"])
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wanted = whole(tmp_path)
    without_layers(monkeypatch)
    require_same(load_unembedding(str(tmp_path)), wanted)


def test_what_is_stored_otherwise_is_loaded_whole(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    monkeypatch.setattr(unembedding_weights, "_stored", lambda *_: {})
    require_same(load_unembedding(str(folder)), whole(folder))


def test_a_quantized_checkpoint_is_not_read_as_if_it_were_not(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    asked: list[str] = []

    def load(ref: str, **_: object) -> None:
        asked.append(ref)
        raise RaylensError("it takes bitsandbytes.", hint="install it.")

    monkeypatch.setattr(unembedding_weights, "load_model", load)
    with pytest.raises(RaylensError, match="bitsandbytes"):
        load_unembedding(str(folder))
    assert asked == [str(folder)]


def test_a_truncated_file_is_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=r"a weights file in .*model cannot be read"):
        load_unembedding(str(folder))
