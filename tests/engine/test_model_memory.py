"""What models and SAEs take, said before they are loaded, against what they do take."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaConfig

from raylens.bundle.paths import list_saes
from raylens.config import ModelConfig
from raylens.engine import model_memory
from raylens.engine.load import load_model
from raylens.engine.model_memory import (
    encoding_bytes,
    free_bytes,
    loaded_bytes,
    model_bytes,
    pass_bytes,
    sae_bytes,
)
from raylens.engine.models import describe_model
from raylens.engine.saes import describe_sae, load_sae
from raylens.errors import InputError

CPU = torch.device("cpu")


def large_llama(folder: Path) -> str:
    """The configuration of Llama-3.1-8B, without any weights."""
    LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_weights_are_counted_exactly(architecture: str, model_folders: dict[str, Path]) -> None:
    ref = str(model_folders[architecture])
    for dtype in ("auto", "float32", "bfloat16"):
        config = ModelConfig(model=ref, device="cpu", dtype=dtype)
        loaded = load_model(ref, device="cpu", dtype=dtype)
        assert model_bytes(config) == pytest.approx(loaded_bytes(loaded.model), rel=0.01)  # buffers stay float32
    assert model_bytes(ModelConfig()) == loaded_bytes(load_model("raylens/pico", device="cpu").model)  # tied weights


def test_saes_are_counted_from_their_configuration(sae_folders: dict[str, Path]) -> None:
    for ref in (*map(str, sae_folders.values()), *(str(sae.id) for sae in list_saes())):
        estimate, found = sae_bytes(describe_sae(ref)), loaded_bytes(load_sae(ref).sae)
        assert found <= estimate <= 1.05 * found


@pytest.mark.parametrize(
    ("settings", "gigabytes"),
    [
        ({}, 32.1),  # 16 bits are widened on a CPU
        ({"dtype": "float16"}, 16.1),
        ({"dtype": "float16", "quantization": "bnb-8bit"}, 9.1),
        ({"dtype": "float16", "quantization": "bnb-4bit"}, 6.0),
    ],
)
def test_a_large_model_is_weighed_without_weights(
    settings: dict[str, str], gigabytes: float, tmp_path: Path
) -> None:  # A0.23: Llama-3.1-8B fp16 ~16 GB
    config = ModelConfig.of({"model": large_llama(tmp_path), "device": "cpu", **settings})
    assert model_bytes(config) / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_a_model_that_was_stored_quantized_weighs_what_its_files_do(tmp_path: Path) -> None:
    large_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 12_345)
    assert model_bytes(ModelConfig(model=str(tmp_path))) == 12_345


def test_what_is_no_causal_model_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="is not a causal language model"):
        model_bytes(ModelConfig(model=str(tmp_path)))


def test_a_pass_takes_more_on_a_gpu_where_more_is_read_at_a_time(tmp_path: Path) -> None:
    info = describe_model(large_llama(tmp_path))
    spec = describe_sae("raylens-pico-res/layer_5")
    gpu = torch.device("cuda")
    assert pass_bytes(info, CPU, 8192) == pass_bytes(info, CPU, 2048) < pass_bytes(info, gpu, 8192) < 4 * 2**30
    assert encoding_bytes(spec, CPU, 100) == 4 * 100 * spec.d_sae
    assert encoding_bytes(spec, gpu, 10**6) == 2**30  # encoded in turns


def test_what_is_free_is_bounded_by_the_machine_its_container_and_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = free_bytes(CPU)
    assert 0 < free <= psutil.virtual_memory().total
    size = psutil.Process().memory_info().vms
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _kind: (size + 10**6, resource.RLIM_INFINITY))
        assert free_bytes(CPU) <= 10**6 + 10**8
    monkeypatch.setattr(model_memory, "_CGROUP_ROOT", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert free_bytes(CPU) == 1_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 5_000_000
