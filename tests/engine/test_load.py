"""Loading models: what a name means, what is known of it, and every way it can go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from raylens.engine import fingerprint
from raylens.engine.load import (
    LoadedModel,
    choose_device,
    describe_model,
    load_model,
    load_tokenizer,
    token_strings,
    tokenizer_fingerprint,
)
from raylens.engine.memory import memory_advice
from raylens.engine.tap import tap
from raylens.errors import (
    DamagedFileError,
    HubUnreachableError,
    InputError,
    OutOfMemoryError,
    RaylensError,
    UnknownNameError,
)
from raylens.ids import HookPoint


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may spoil."""
    return shutil.copytree(model_folders["llama"], tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_what_is_loaded_is_transformers_own_model(loaded: LoadedModel, model_folders: dict[str, Path]) -> None:
    folder = next(path for path in model_folders.values() if str(path) == loaded.name)
    ids = torch.arange(2, 30)[None]
    with torch.inference_mode():
        original: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    assert (loaded.d_model, loaded.n_layers) == (32, 3)


def test_description_needs_no_weights_loaded(loaded: LoadedModel) -> None:
    info = describe_model(loaded.name)
    assert info == loaded.info
    assert (info.d_model, info.n_layers, info.max_positions) == (32, 3, 128)
    assert info.vocab_size == loaded.engine.arch.embed.get_parameter("weight").shape[0]


def test_prefix_is_what_the_tokenizer_adds(loaded_models: dict[str, LoadedModel]) -> None:
    assert {name: model.prefix_ids for name, model in loaded_models.items()} == {
        "llama": (0,),
        "gpt2": (),  # GPT-2's tokenizer adds nothing
        "gemma2": (0,),
    }
    assert loaded_models["llama"].special_ids == {0, 1}
    assert loaded_models["llama"].pad_id == 1


def test_tokens_read_as_text(llama: LoadedModel) -> None:
    ids = llama.tokenizer("for name — x", add_special_tokens=False)["input_ids"]
    strings = token_strings(llama.tokenizer, [*ids, 0])
    assert strings[-1] == "<bos>"
    assert "".join(strings[:-1]).startswith("for name ")
    assert all("\ufffd" not in s for s in strings)


def test_tokenizer_fingerprint_is_of_what_it_does(folder: Path) -> None:
    first = tokenizer_fingerprint(load_tokenizer(str(folder)))
    edit = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(edit))
    assert tokenizer_fingerprint(load_tokenizer(str(folder))) == first
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["merges"] = state["model"]["merges"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    assert tokenizer_fingerprint(load_tokenizer(str(folder))) != first


def test_revision_is_content(folder: Path, model_folders: dict[str, Path]) -> None:
    original = describe_model(str(model_folders["llama"]))
    assert describe_model(str(folder)).revision == original.revision
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert describe_model(str(folder)).revision != original.revision


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 935))
def test_a_sampled_fingerprint_sees_any_edit_of_one_stride(
    tmp_path_factory: pytest.TempPathFactory, start: int
) -> None:
    # A file beyond the limit, at a small scale.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "HASHED_WHOLE", 100)
        patch.setattr(fingerprint, "_STRIDE", 64)
        patch.setattr(fingerprint, "_SAMPLE", 4)
        path = tmp_path_factory.mktemp("weights") / "model.safetensors"
        content = bytearray(i % 251 for i in range(1000))
        path.write_bytes(content)
        before = fingerprint.of_files([path])
        assert fingerprint.of_files([path]) == before
        content[start : start + 64] = bytes(b ^ 1 for b in content[start : start + 64])
        path.write_bytes(content)
        assert fingerprint.of_files([path]) != before


def test_sixteen_bit_checkpoints_run_in_float32_on_a_cpu(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    assert load_model(str(folder), device="cpu").dtype == torch.float32
    assert load_model(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("scheme", ["bnb-8bit", "bnb-4bit"])
def test_quantized_models_run(folder: Path, scheme: Literal["bnb-8bit", "bnb-4bit"]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, hidden_size=64, intermediate_size=128, head_dim=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    loaded = load_model(str(folder), device="cpu", quantization=scheme)
    point = HookPoint("resid_post", 1)
    exact = load_model(str(folder), device="cpu")
    ids = torch.arange(2, 12)[None]
    difference = tap(loaded, [point], ids)[point].float() - tap(exact, [point], ids)[point]
    assert 0 < difference.norm() < 0.5 * tap(exact, [point], ids)[point].norm()
    assert loaded.info == exact.info


def test_four_bits_on_a_cpu_need_widths_that_fit(folder: Path) -> None:
    with pytest.raises(InputError, match="not a multiple of 64"):
        load_model(str(folder), device="cpu", quantization="bnb-4bit")


@pytest.mark.parametrize("ref", ["./no/such", "/no/such", "a/b/c", "google/", "who are you"])
def test_names_that_name_nothing_say_what_exists(ref: str) -> None:
    for call in (load_model, describe_model, load_tokenizer):
        with pytest.raises(UnknownNameError, match="unknown model") as caught:
            call(ref)
        assert "raylens/pico" in caught.value.hint


def test_no_hub_and_nothing_cached(hub_cache: Callable[..., str]) -> None:
    for call in (load_model, describe_model, load_tokenizer):
        with pytest.raises(HubUnreachableError, match=r"google/gemma-2-2b is not cached") as caught:
            call("google/gemma-2-2b")
        assert "local folder" in caught.value.hint


def test_the_bundled_model() -> None:
    pico = load_model("raylens/pico", device="cpu")
    assert (pico.name, pico.d_model, pico.n_layers, pico.prefix_ids) == ("raylens/pico", 128, 8, (0,))
    assert pico.dtype == torch.float32
    assert describe_model("raylens/pico") == pico.info


def test_a_cached_hub_model_loads_without_a_network(
    hub_cache: Callable[..., str], model_folders: dict[str, Path]
) -> None:
    commit = hub_cache("someone/tiny-llama", model_folders["llama"])
    loaded = load_model("someone/tiny-llama", device="cpu")
    assert (loaded.name, loaded.revision) == ("someone/tiny-llama", commit)
    assert describe_model("someone/tiny-llama", revision="main") == loaded.info
    with pytest.raises(HubUnreachableError):
        load_model("someone/tiny-llama", revision="another-branch")


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin") as caught:
        load_model(str(folder))
    assert "raylens convert" in caught.value.hint


def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (folder / "configuration_trap.py").write_text(f"open({str(trap)!r}, 'w')\n")
    edit_config(folder, model_type="trap", auto_map={"AutoConfig": "configuration_trap.TrapConfig"})
    for call in (load_model, describe_model):
        with pytest.raises(InputError, match="no configuration that transformers can read"):
            call(str(folder))
    assert not trap.exists()


def test_tokenizer_code_is_never_run_either(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (folder / "tokenization_trap.py").write_text(f"open({str(trap)!r}, 'w')\n")
    (folder / "tokenizer.json").unlink()
    code = {
        "tokenizer_class": "TrapTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_trap.TrapTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    with pytest.raises(InputError, match="tokenizer"):
        load_model(str(folder))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (lambda f: (f / "config.json").unlink(), InputError, "no config.json"),
        (lambda f: (f / "config.json").rename(f / "adapter_config.json"), InputError, "LoRA adapter"),
        (lambda f: (f / "config.json").write_text("{"), InputError, "config.json of"),
        (lambda f: edit_config(f, num_hidden_layers=4), InputError, "lacks weights for"),
        (lambda f: edit_config(f, model_type="vit", architectures=["ViTModel"]), InputError, "causal language model"),
    ],
    ids=["no config", "adapter", "broken config", "other config", "no language model"],
)
def test_folders_that_hold_no_whole_model(
    folder: Path, spoil: Callable[[Path], object], kind: type[RaylensError], says: str
) -> None:
    spoil(folder)
    with pytest.raises(kind, match=r".") as caught:
        load_model(str(folder))
    assert says in caught.value.message


def test_truncated_weights_are_named(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFileError, match="model"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dtype": "float8"}, "bfloat16"),
        ({"quantization": "bnb-2bit"}, "bnb-4bit"),
        ({"device": "quantum"}, "cpu"),
        ({"device": "cuda:63"}, "CUDA GPUs"),
        ({"num_gpus": 64}, "CUDA GPUs"),
    ],
)
def test_settings_that_do_not_fit_this_machine(folder: Path, settings: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(str(folder), **settings)  # pyright: ignore[reportArgumentType]  # wrong on purpose
    assert says in caught.value.hint


def test_auto_is_a_device_of_this_machine() -> None:
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_device("cpu", num_gpus=1) == torch.device("cpu")


def test_running_out_of_memory_says_what_to_lower() -> None:
    # A0.23. A real failure of the real allocator: a petabyte.
    with (
        pytest.raises(OutOfMemoryError, match="cpu ran out of memory while counting") as caught,
        memory_advice("counting", "cpu"),
    ):
        torch.empty(1 << 50, dtype=torch.uint8)
    assert "--batch-size" in caught.value.hint
    assert "16 GB" in caught.value.hint
    with pytest.raises(RuntimeError, match="shape"), memory_advice("adding", "cpu"):
        torch.mm(torch.zeros(2, 3), torch.zeros(2, 3))
