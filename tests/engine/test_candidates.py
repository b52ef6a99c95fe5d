"""Candidates: checkpoints and LoRA adapters, made by peft itself; what merging gives against peft's own hooks."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fine_tunes import PICO_FOLDER, make_adapter, pico, prompts_of
from raylens.engine.candidates import load_candidate, locate_candidate, require_finite
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.tap import tap
from raylens.engine.weight_difference import weight_differences
from raylens.errors import DamagedFileError, InputError, MismatchError, RaylensError, UnknownNameError
from raylens.ids import HookPoint

IDS = torch.tensor([[0, 300, 17, 45, 1200, 88, 9, 300]])


def logits_of(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.inference_mode():
        return model(ids).logits


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of pico on all linear layers."""
    folder = tmp_path_factory.mktemp("adapters") / "plain"
    make_adapter(folder)
    return folder


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    """The adapter again, with settings or weights changed."""

    def changed(settings: dict[str, Any] | None = None, weights: Callable[[dict[str, Tensor]], object] | None = None):
        folder = tmp_path / "copy"
        shutil.copytree(adapter, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **(settings or {})}))
        if weights is not None:
            tensors = load_file(folder / "adapter_model.safetensors")
            weights(tensors)
            save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return changed


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 3, "target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"v_proj": 2},
         "alpha_pattern": {"layers.2.self_attn.v_proj": 32, "^model.layers.3.self_attn.q_proj": 1}},
        {"target_modules": r".*\.[1-3]\.mlp\.(up|down)_proj"},
        {"target_modules": ["down_proj"], "use_dora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "o_proj"]},
        {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens", "norm"]},
        {"target_modules": ["o_proj", "down_proj"], "lora_bias": True, "lora_alpha": 6, "rank_pattern": {"o_proj": 2}},
        {"target_modules": ["o_proj"], "layers_to_transform": [1, 4], "init_lora_weights": "gaussian", "bias": "none"},
    ],
)  # fmt: skip
def test_a_merged_adapter_says_what_peft_says_with_its_hooks(settings: dict[str, Any], tmp_path: Path) -> None:
    hooked = make_adapter(tmp_path / "a", **settings)
    before = logits_of(pico().model)
    candidate = load_candidate(str(tmp_path / "a"), pico())
    expected = logits_of(hooked)
    torch.testing.assert_close(logits_of(candidate.model), expected, atol=1e-4, rtol=1e-5)
    assert float((expected - before).abs().max()) > 0.05
    assert torch.equal(logits_of(pico().model), before)  # the reference is as it was
    assert not any("lora" in name for name, _ in candidate.model.named_modules())
    assert not any(parameter.requires_grad for parameter in candidate.model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])  # gpt2 keeps its matrices transposed
def test_adapters_of_other_architectures(
    architecture: str, loaded_models: dict[str, LoadedModel], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    reference = loaded_models[architecture]
    hooked = make_adapter(tmp_path / "a", base=model_folders[architecture], scale=0.3)
    candidate = load_candidate(str(tmp_path / "a"), reference)
    ids = torch.tensor([prompts_of(reference)[0]])
    torch.testing.assert_close(logits_of(candidate.model, ids), logits_of(hooked, ids), atol=1e-4, rtol=1e-4)
    # The engine taps the merged model, not the one that was loaded.
    point = HookPoint("resid_post", 1)
    assert not torch.equal(tap(candidate, [point], ids)[point], tap(reference, [point], ids)[point])


def test_an_untrained_adapter_changes_nothing(tmp_path: Path) -> None:
    make_adapter(tmp_path / "zero", scale=0)
    candidate = load_candidate(str(tmp_path / "zero"), pico())
    assert torch.equal(logits_of(candidate.model), logits_of(pico().model))
    assert list(weight_differences(pico(), candidate)) == []


def test_it_is_known_by_its_own_name_and_by_all_its_content(
    adapter: Path, copy: Callable[..., Path], tmp_path: Path
) -> None:
    loaded, found = load_candidate(str(adapter), pico()), locate_candidate(str(adapter), base="raylens/pico")
    assert (loaded.name, found.name, found.kind, found.base) == (str(adapter), str(adapter), "adapter", pico().info)
    assert loaded.revision == found.revision == locate_candidate(str(adapter), base=pico().info).revision
    assert loaded.revision != pico().revision
    assert (loaded.d_model, loaded.info.vocab_size, loaded.prefix_ids) == (128, 4096, (0,))
    assert locate_candidate(str(adapter)).name == str(adapter)  # it says itself which folder it was made for

    def nudge(tensors: dict[str, Tensor]) -> None:
        next(iter(tensors.values()))[0, 0] += 1

    edited = copy(weights=nudge)
    assert locate_candidate(str(edited), base=pico().info).revision != loaded.revision
    shutil.copytree(adapter, tmp_path / "elsewhere")
    assert locate_candidate(str(tmp_path / "elsewhere"), base=pico().info).revision == loaded.revision
    other_base = dataclasses.replace(pico().info, revision="0" * 64)
    assert locate_candidate(str(adapter), base=other_base).revision != loaded.revision


def test_a_checkpoint_is_loaded_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(PICO_FOLDER or "", tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"] = weights["model.layers.2.mlp.down_proj.weight"].float() * 1.5
    save_file(weights, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    found = locate_candidate(str(tmp_path / "tuned"))
    candidate = load_candidate(str(tmp_path / "tuned"), "raylens/pico", device="cpu")
    assert (found.kind, found.info) == ("checkpoint", candidate.info)
    (difference,) = weight_differences(pico(), candidate)
    before = pico().model.get_parameter("model.layers.2.mlp.down_proj.weight")
    assert difference.name == "model.layers.2.mlp.down_proj.weight"
    torch.testing.assert_close(difference.delta, before * 0.5)
    assert difference.relative == pytest.approx(0.5)
    assert difference.norm == pytest.approx(0.5 * float(before.norm()), rel=1e-5)


def test_weights_that_differ_are_those_of_the_adapter(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", target_modules=["embed_tokens", "v_proj"])
    found = list(weight_differences(pico(), load_candidate(str(tmp_path / "a"), pico())))
    layers = [f"model.layers.{layer}.self_attn.v_proj.weight" for layer in range(8)]
    assert [one.name for one in found] == ["model.embed_tokens.weight", *layers]  # lm_head, no longer tied, stays
    state = {
        name.split(".", 2)[2]: value for name, value in load_file(tmp_path / "a/adapter_model.safetensors").items()
    }
    v = "model.layers.5.self_attn.v_proj.lora_{}.weight"
    torch.testing.assert_close(found[6].delta, 2 * state[v.format("B")] @ state[v.format("A")], atol=1e-6, rtol=1e-4)


def test_models_of_other_weights_have_no_difference(loaded_models: dict[str, LoadedModel]) -> None:
    with pytest.raises(MismatchError, match=r"only one of .* and .* has"):
        next(weight_differences(loaded_models["llama"], loaded_models["gemma2"]))
    shallow = load_model("raylens/pico", device="cpu")
    network: Any = shallow.model
    network.model.layers = network.model.layers[: loaded_models["llama"].n_layers]
    with pytest.raises(MismatchError, match=r"model.embed_tokens.weight is \[4096, 128\] in raylens/pico and \["):
        next(weight_differences(shallow, loaded_models["llama"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "is an adapter of type IA3, and only LoRA ones are read"),
        ({"peft_type": None}, "is an adapter of type None"),
        ({"init_lora_weights": "pissa"}, 'was begun with "pissa", which changes weights of its base'),
        ({"init_lora_weights": ["pissa"]}, "was begun with"),
        ({"layer_replication": [[0, 4], [2, 8]]}, r"was made with layer_replication = \[\[0, 4\], \[2, 8\]\]"),
        ({"bias": "all"}, 'was made with bias = "all"'),
        ({"trainable_token_indices": [3]}, "was made with trainable_token_indices"),
        ({"megatron_config": {"a": 1}}, "was made with megatron_config"),
        ({"setting_of_tomorrow": 7}, "was made with setting_of_tomorrow = 7"),
        ({"lora_alpha": "16"}, "lora_alpha of .* should be a valid number"),
        ({"lora_alpha": float("nan")}, "lora_alpha of .* should be a finite number"),
        ({"lora_alpha": None}, "lora_alpha of .* should be a valid number"),
        ({"lora_alpha": 10**400}, "lora_alpha of .* should be"),
        ({"r": {"q_proj": 4}}, "r of .* should be a valid integer"),
        ({"r": 0}, "r of .* should be greater than or equal to 1"),
        ({"r": True}, "r of .* should be a valid integer"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern of .* should be a valid integer"),
        ({"rank_pattern": 8}, "rank_pattern of .* should be a valid dictionary"),
        ({"alpha_pattern": True}, "alpha_pattern of .* should be a valid dictionary"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path of .* should be a valid string"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path of .* should be a valid string"),
        ({"target_modules": 7}, "target_modules of .* should be a valid string"),
        ({"alpha_pattern": {"(a+)+": 4}}, r"alpha_pattern of .* holds the expression '\(a\+\)\+'"),
        ({"r": 8}, "is changed at rank 8, and its weights are of rank 4"),
        ({"target_modules": ["q_proj", "w1"]}, "says that it changes w1, and holds no weights of it"),
    ],
)
def test_adapters_that_are_not_read_are_refused(settings: dict[str, Any], said: str, copy: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_candidate(str(copy(settings)), pico())
    one_sentence(caught.value)


def one_sentence(error: RaylensError) -> None:
    assert error.message.endswith(".")
    assert ". " not in error.message
    assert "\n" not in error.message
    assert error.hint.endswith(".")


def wider(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("q_proj.lora_A.weight")]:
        tensors[name] = torch.zeros(4, 256)


def deeper(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("layers.7", "layers.9")] = tensors.pop(name)


def taller(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("up_proj.lora_B.weight")]:
        tensors[name] = torch.zeros(512, 4)


def longer(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.model.layers.0.mlp.down_proj.lora_B.bias"] = torch.zeros(129)


def whole_head(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.zeros(5000, 128)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (longer, "holds a bias of model.layers.0.mlp.down_proj, and its configuration says that it has none"),
        (wider, r"was made for another model: its lora_A of model.layers.0.self_attn.q_proj is \[4, 256\], and the "
         r"reference needs \[4, 128\]"),
        (taller, r"its lora_B of model.layers.0.mlp.up_proj is \[512, 4\], and the reference needs \[768, 4\]"),
        (deeper, "changes model.layers.9.mlp.down_proj, which the reference does not have"),
        (whole_head, r"its lm_head.weight is \[5000, 128\], and the reference needs \[4096, 128\]"),
        (lambda tensors: tensors.pop("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"),
         "holds only half of what it changes in model.layers.0.mlp.up_proj"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "holds extra, which is no weight of peft's"),
        (lambda tensors: tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].fill_(torch.nan),
         "hold values in model.layers.0.mlp.up_proj.lora_A.weight that are no finite numbers"),
        (dict.clear, "holds no weights"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(
    edit: Callable[[dict[str, Tensor]], object], said: str, copy: Callable[..., Path]
) -> None:  # A2.15
    with pytest.raises(InputError, match=said) as caught:
        load_candidate(str(copy(weights=edit)), pico())
    one_sentence(caught.value)


def test_a_bias_has_the_shape_of_what_it_is_added_to(copy: Callable[..., Path]) -> None:
    said = r"its lora_B.bias of model.layers.0.mlp.down_proj is \[129\], and the reference needs \[128\]"
    with pytest.raises(MismatchError, match=said):
        load_candidate(str(copy({"lora_bias": True}, longer)), pico())


def test_an_adapter_for_another_base_is_refused(copy: Callable[..., Path]) -> None:  # A2.15
    folder = copy({"base_model_name_or_path": "google/gemma-2-2b"})
    with pytest.raises(MismatchError, match="is an adapter for google/gemma-2-2b, and the reference is raylens/pico"):
        load_candidate(str(folder), pico())
    with pytest.raises(MismatchError, match="the reference is raylens/pico"):
        locate_candidate(str(folder), base="raylens/pico")
    for base in ("raylens/Pico", "/home/someone/pico", None):  # a path says nothing about names
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        assert locate_candidate(str(folder), base=pico().info).kind == "adapter"
    with pytest.raises(InputError, match="is an adapter and does not say for which model"):
        locate_candidate(str(folder))


class Explosive:
    """Unpickling it is told."""

    exploded = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Explosive, "exploded", True)


def test_pickled_weights_are_refused_and_never_opened(adapter: Path, copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Explosive()))
    load_candidate(str(folder), pico())  # safetensors are there
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"no adapter_model.safetensors, but only the pickle adapter_model.bin"
    ) as caught:
        load_candidate(str(folder), pico())
    assert "save it again" in caught.value.hint
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(InputError, match=r"holds no adapter_model.safetensors\."):
        load_candidate(str(folder), pico())
    assert not Explosive.exploded


def test_damaged_and_missing_files_are_said(adapter: Path, copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy()
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for damaged in (whole[:-40], whole[:10], b"", b"\xff" * 64):
        (folder / "adapter_model.safetensors").write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"adapter_model.safetensors cannot be read"):
            locate_candidate(str(folder), base=pico().info)
    for text in ("{", "[]", '"x"'):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(InputError, match=r"adapter_config.json"):
            load_candidate(str(folder), pico())
    for nothing in (str(tmp_path / "nowhere"), "~nobody-of-this-name/tuned"):
        with pytest.raises(UnknownNameError):
            load_candidate(nothing, pico())
    for file in (folder / "adapter_model.safetensors", folder / "adapter_config.json"):
        with pytest.raises(InputError, match=r"is a file, and a model is a folder"):
            load_candidate(str(file), pico())
    with pytest.raises(InputError, match="the name of the model is empty"):
        load_candidate(" ", pico())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model"):
        load_candidate(str(tmp_path / "empty"), pico())


def test_a_folder_of_both_is_refused_and_a_merged_one_is_a_checkpoint(copy: Callable[..., Path]) -> None:
    folder = copy()
    for file in (PICO_FOLDER or folder).iterdir():
        shutil.copy(file, folder)
    with pytest.raises(InputError, match="holds a whole model and an adapter"):
        load_candidate(str(folder), pico())
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="holds a whole model and an adapter"):
        load_candidate(str(folder), pico())
    (folder / "adapter_config.json").unlink()
    assert locate_candidate(str(folder)).kind == "checkpoint"


def test_a_checkpoint_that_cannot_be_compared_is_refused_before_its_weights(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:  # A2.15
    shutil.copytree(model_folders["llama"], tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").write_bytes(b"not read")
    for reference in (pico(), "raylens/pico"):
        with pytest.raises(MismatchError, match=r"raylens/pico has width 128, and .* width 32"):
            load_candidate(str(tmp_path / "other"), reference)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "other" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pickled ones \(pytorch_model.bin\)"):
        load_candidate(str(tmp_path / "other"), pico())


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "diverged")
    weights = load_file(tmp_path / "diverged" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, tmp_path / "diverged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"are NaN or infinite in model.layers.1.mlp.up_proj.weight"):
        load_candidate(str(tmp_path / "diverged"), str(model_folders["llama"]))
    large = load_model(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        large.model.get_parameter("model.norm.weight").fill_(3e38)
    require_finite(large)  # their sum is infinite, they are not


def test_a_reference_whose_files_changed_is_not_loaded_again(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "base")
    reference = load_model(str(tmp_path / "base"), device="cpu")
    make_adapter(tmp_path / "a", base=tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(InputError, match=r"base holds revision \w+, .* its files have changed since"):
        load_candidate(str(tmp_path / "a"), reference)


def test_an_adapter_on_the_hub(adapter: Path, hub_cache: Callable[[str, Path, str], str], tmp_path: Path) -> None:
    hub_cache("someone/pico-lora", adapter, "")
    candidate = load_candidate("someone/pico-lora", pico())
    assert candidate.name == "someone/pico-lora"
    assert candidate.revision == locate_candidate(str(adapter), base=pico().info).revision
    hub_cache("someone/pico-tuned", PICO_FOLDER or adapter, "")
    assert load_candidate("someone/pico-tuned", pico()).revision == "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(adapter, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    hub_cache("someone/pickled", tmp_path / "pickled", "")
    with pytest.raises(InputError, match=r"someone/pickled holds no adapter_model.safetensors"):
        load_candidate("someone/pickled", pico())


def test_nothing_is_asked_of_the_network(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = torch.random.get_rng_state()
    load_candidate(str(adapter), pico())
    assert torch.equal(torch.random.get_rng_state(), state)
