"""Checkpoints of strangers: what is hashed is what is loaded, and what is damaged gets one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylens.engine.candidates import load_candidate, locate_candidate
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.models import locate
from raylens.errors import DamagedFileError, InputError, RaylensError

IDS = torch.tensor([[1, 5, 9, 3]])


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        network: Any = loaded.model
        return network(IDS).logits


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model of one file."""
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    return tmp_path / "model"


def in_parts(folder: Path) -> list[str]:
    """Write the weights as two files and an index, as save_pretrained does of a large model."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    held = {name: files[at % 2] for at, name in enumerate(sorted(weights))}
    for file in files:
        own = {name: weight for name, weight in weights.items() if held[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))
    return files


def test_a_whole_file_counts_and_no_index_beside_it(folder: Path) -> None:
    """transformers reads the whole file: a change of it is another model, whatever an index says."""
    whole = (folder / "model.safetensors").read_bytes()
    in_parts(folder)
    parts = locate(str(folder)).revision
    (folder / "model.safetensors").write_bytes(whole)
    before, first = logits(load_model(str(folder), device="cpu")), locate(str(folder)).revision
    assert first != parts
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert locate(str(folder)).revision != first
    assert not torch.equal(logits(load_model(str(folder), device="cpu")), before)


def test_each_part_counts_and_nothing_else(folder: Path) -> None:
    expected = logits(load_model(str(folder), device="cpu"))
    files = in_parts(folder)
    assert torch.equal(logits(load_model(str(folder), device="cpu")), expected)
    first = locate(str(folder)).revision
    shutil.copy(folder / files[0], folder / "model-extra.safetensors")
    assert locate(str(folder)).revision == first
    weights = load_file(folder / files[1])
    save_file({name: weight + 1 for name, weight in weights.items()}, folder / files[1], metadata={"format": "pt"})
    assert locate(str(folder)).revision != first


def index(**found: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        in_parts(folder)
        (folder / "model.safetensors.index.json").write_text(json.dumps(found))

    return write


def raw_index(text: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        in_parts(folder)
        (folder / "model.safetensors.index.json").write_text(text)

    return write


def config(**said: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | said))

    return write


def missing_part(folder: Path) -> None:
    (folder / in_parts(folder)[1]).unlink()


def other_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (missing_part, "names model-00002-of-00002.safetensors, which is not there"),
        (raw_index("{"), "does not say which file holds which weight"),
        (raw_index("[" * 100_000), "does not say which file holds which weight"),
        (index(), "does not say which file holds which weight"),
        (index(weight_map=[]), "does not say which file holds which weight"),
        (index(weight_map={"a": 5}), "names '5', which is not a file beside it"),
        (index(weight_map={"a": "../model.safetensors"}), "names '../model.safetensors', which is not a file beside"),
        (index(weight_map={"a": "/etc/passwd"}), "names '/etc/passwd', which is not a file beside it"),
        (other_shape, r"model.norm.weight is \[32\] by its configuration, and \[7\] in the safetensors of"),
        (config(transformers_weights="other.safetensors"), r"names a file of weights of its own"),
        (config(hidden_act="zzz"), "zzz"),
        (config(hidden_size=None), ""),
        (config(hidden_size=0), ""),
        (config(num_hidden_layers=-1), ""),
        (config(vocab_size=0), ""),
        (config(vocab_size="many"), ""),
        (config(num_attention_heads=0), ""),
        (config(num_attention_heads=7), ""),
        (config(num_key_value_heads=None), "k_proj.weight is"),
        (config(head_dim=10**12), "k_proj.weight is"),
        (config(rope_parameters=7), ""),
        (config(dtype="zzz"), "says dtype = 'zzz', which is no dtype"),
        (config(dtype=5), "says dtype = '5', which is no dtype"),
        (config(quantization_config=5), "quantization_config in the config.json of .* is no object"),
        (config(quantization_config={"quant_method": "zzz"}), ""),
        (config(architectures=5), ""),
        (config(model_type=["llama"]), ""),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "the config.json of .* cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "the config.json of .* is no object"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000),
            "has no tokenizer that transformers can",
        ),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "has no tokenizer that transformers can"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"tokenizer_class": 5}'),
            "has no tokenizer that transformers can read",
        ),
        (with_an_adapter, "holds a whole model and an adapter"),
    ],
)
def test_what_is_damaged_or_would_load_more_is_refused(
    damage: Callable[[Path], object], says: str, folder: Path, loaded_models: dict[str, LoadedModel]
) -> None:
    damage(folder)
    with pytest.raises(RaylensError, match=says) as caught:
        load_candidate(str(folder), loaded_models["llama"])
    assert isinstance(caught.value, InputError | DamagedFileError)
    assert "\n" not in caught.value.message


def test_an_adapter_beside_a_reference_is_refused_too(folder: Path) -> None:
    """transformers adds it to the model, and the model's identity would not say so."""
    with_an_adapter(folder)
    for read in (lambda: load_model(str(folder), device="cpu"), lambda: locate(str(folder))):
        with pytest.raises(InputError, match="holds a whole model and an adapter"):
            read()
    with pytest.raises(InputError, match="holds a whole model and an adapter"):
        locate_candidate(str(folder))
