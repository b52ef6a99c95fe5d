"""What cannot be compared is refused with both sides named, before a weight is read and after."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fine_tunes import PICO_FOLDER
from raylens.engine.comparable import require_comparable
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.models import ModelFiles, locate
from raylens.errors import MismatchError


@pytest.fixture
def edited(tmp_path: Path, model_folders: dict[str, Path]) -> Callable[..., ModelFiles]:
    """The tiny llama's folder without its weights' content mattering, with other configuration or tokenizer."""

    def edit(config: dict[str, Any] | None = None, tokenizer: Callable[[dict[str, Any]], object] | None = None):
        folder = tmp_path / "edited"
        shutil.copytree(model_folders["llama"], folder)
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**known, **(config or {})}))
        if tokenizer is not None:
            state = json.loads((folder / "tokenizer.json").read_text())
            tokenizer(state)
            (folder / "tokenizer.json").write_text(json.dumps(state))
        return locate(str(folder))

    return edit


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "architecture LlamaForCausalLM, and .* architecture Mistral"),
        ({"hidden_size": 64}, "width 32, and .* width 64"),
        ({"num_hidden_layers": 4}, "3 layers, and .* 4 layers"),
        ({"vocab_size": 1301}, r"a vocabulary of \d+, and .* a vocabulary of 1,301"),
        ({"model_type": "mistral"}, "is a llama model, and .* a mistral one"),
    ],
)
def test_shapes_are_compared_before_weights_are_read(
    config: dict[str, Any], said: str, edited: Callable[..., ModelFiles], model_folders: dict[str, Path]
) -> None:  # A2.15
    candidate = edited(config)
    (candidate.folder / "model.safetensors").write_bytes(b"not read")
    reference = locate(str(model_folders["llama"]))
    with pytest.raises(MismatchError, match=said) as caught:
        require_comparable(reference, candidate)
    assert reference.name in caught.value.message
    assert candidate.name in caught.value.message


def test_what_is_loaded_is_compared_alike(loaded_models: dict[str, LoadedModel]) -> None:
    llama = loaded_models["llama"]
    require_comparable(llama, llama)
    with pytest.raises(MismatchError, match=r"architecture LlamaForCausalLM, and .* architecture GPT2LMHeadModel"):
        require_comparable(llama, loaded_models["gpt2"])
    deeper = dataclasses.replace(llama, info=dataclasses.replace(llama.info, n_layers=9))
    with pytest.raises(MismatchError, match=r"3 layers, and .* 9 layers"):
        require_comparable(llama, deeper)
    with pytest.raises(MismatchError, match="has architecture LlamaForCausalLM"):
        require_comparable(llama, locate(loaded_models["gemma2"].name))


def swap_two_tokens(state: dict[str, Any]) -> None:
    vocabulary = state["model"]["vocab"]
    one, two = list(vocabulary)[40:42]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (swap_two_tokens, r"'.+' is token 40 and token 41"),
        (lambda state: state["model"].update(merges=state["model"]["merges"][:-3]), ".* other rules of cutting"),
        (lambda state: state.update(post_processor=None), r"they begin a text with \[0\] and \[\]"),
        (
            lambda state: state["added_tokens"].append({**state["added_tokens"][0], "id": 300, "content": "<chat>"}),
            r"300 and 301 tokens",
        ),
    ],
)
def test_other_tokenizers_are_refused(
    edit: Callable[[dict[str, Any]], object], said: str, edited: Callable[..., ModelFiles], llama: LoadedModel
) -> None:  # A2.15
    with pytest.raises(MismatchError, match=f"the tokenizers of .* and .*edited differ: {said}"):
        require_comparable(llama, edited(tokenizer=edit))


def test_how_a_tokenizer_pads_is_no_difference(edited: Callable[..., ModelFiles], llama: LoadedModel) -> None:
    def pad(state: dict[str, Any]) -> None:
        state["truncation"] = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
        state["padding"] = {
            "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1,
            "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    candidate = edited(tokenizer=pad)
    require_comparable(llama, candidate)
    require_comparable(llama, load_model(str(candidate.folder), device="cpu"))


def test_pico_is_a_copy_of_itself(tmp_path: Path) -> None:
    assert PICO_FOLDER is not None
    shutil.copytree(PICO_FOLDER, tmp_path / "copy")
    require_comparable(locate("raylens/pico"), locate(str(tmp_path / "copy")))
