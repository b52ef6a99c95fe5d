"""What an adapter's configuration covers, by peft's own rules: matrices beside it are refused, not merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file

from fine_tunes import make_adapter, pico
from raylens.engine import adapter_scope
from raylens.engine.adapter_scope import require_in_scope
from raylens.engine.candidates import load_candidate
from raylens.errors import InputError

PICO: Any = pico().model
NAMES = [name for name, module in PICO.named_modules() if isinstance(module, torch.nn.Linear)]
ENDS = ["q_proj", "down_proj", "mlp.up_proj", "proj", "layers.1.mlp.gate_proj", "lm_head", NAMES[3]]
EXPRESSIONS = [
    r".*\.(q|v)_proj",
    r"model\.layers\.[2-4]\.mlp\.\w+",
    ".*proj",
    "lm_head",
    r"(?:.*?self_attn.*?(?:k|o)_proj)",
]


def covers(config: dict[str, Any], module: str) -> bool:
    try:
        require_in_scope(config, [module], PICO, "a")
    except InputError:
        return False
    return True


lists = st.lists(st.sampled_from(ENDS), min_size=1, max_size=3)


@settings(max_examples=120, deadline=None)
@given(
    targets=lists,
    excluded=st.none() | lists,
    saved=st.none() | st.lists(st.sampled_from(["mlp", "q_proj", "layers.2"]), max_size=2),
    layers=st.none() | st.integers(0, 8) | st.lists(st.integers(0, 8), max_size=3),
    pattern=st.none() | st.sampled_from(["layers", "h", ["h", "layers"], []]),
    module=st.sampled_from(NAMES),
)
def test_lists_cover_what_peft_changes(
    targets: list[str], excluded: Any, saved: Any, layers: Any, pattern: Any, module: str
) -> None:
    config = {
        "target_modules": targets,
        "exclude_modules": excluded,
        "modules_to_save": saved,
        "layers_to_transform": layers,
        "layers_pattern": pattern if layers else None,
    }
    # peft's answer is a match, a truth value, or an object that is neither and says that it is excluded.
    theirs = check_target_module_exists(LoraConfig(**config), module)
    assert covers(config, module) == (bool(theirs) and type(theirs).__name__ != "_ExcludedModule")


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_expressions_cover_what_peft_changes(key: str, expression: str) -> None:
    config: dict[str, Any] = {"target_modules": ".*", key: expression}
    theirs = {name for name in NAMES if check_target_module_exists(LoraConfig(**config), name) is not None}
    theirs = {
        name
        for name in theirs
        if type(check_target_module_exists(LoraConfig(**config), name)).__name__ != "_ExcludedModule"
    }
    inside = adapter_scope._targeted(config, NAMES, PICO, "a") - adapter_scope._excluded(config, NAMES, "a")
    assert inside == theirs
    assert 0 < len(inside) < len(NAMES)


def test_all_linear_is_all_but_the_unembedding() -> None:
    assert [name for name in NAMES if not covers({"target_modules": "All-Linear"}, name)] == ["lm_head"]


@pytest.mark.parametrize(
    "said",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": None},
        {"target_modules": []},
        {"target_modules": "lm_head"},
        {"layers_to_transform": [1, 2, 3, 4, 5, 6, 7]},
        {"layers_to_transform": 3},
        {"exclude_modules": ["layers.0.mlp.down_proj"]},
        {"exclude_modules": r".*\.5\..*"},
        {"modules_to_save": ["mlp"]},
        {"modules_to_save": ["n_proj"]},  # whole modules are found by how their names end, dot or not
    ],
    ids=json.dumps,
)
def test_matrices_beside_the_configuration_are_refused(said: dict[str, Any], tmp_path: Path) -> None:
    """An adapter that holds what peft passes over would be judged by weights that nobody runs."""
    make_adapter(tmp_path, target_modules=["down_proj"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(InputError, match=r"holds (no )?weights of|says that it changes q_proj"):
        load_candidate(str(tmp_path), pico())


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"target_modules": "(" * 3}, "target_modules of .* is no expression that can be read"),
        ({"exclude_modules": "(.*.*)+!.*"}, "exclude_modules of .* is an expression that takes too long"),
        ({"modules_to_save": ["(a+)+$"]}, r"modules_to_save of .* holds the expression '\(a\+\)\+\$'"),
        ({"layers_to_transform": 1, "layers_pattern": "(a+)+$"}, "layers_pattern of .* holds the expression"),
    ],
)
def test_a_strangers_expressions(
    said: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_scope, "_SECONDS", 0.5)
    make_adapter(tmp_path, target_modules=["down_proj"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(InputError, match=says):
        load_candidate(str(tmp_path), pico())


def test_whole_embeddings_that_are_tied_are_changed_apart_only_as_peft_does(tmp_path: Path) -> None:
    """Outside ``modules_to_save`` peft writes into the one weight of both, so that both change."""
    make_adapter(tmp_path, target_modules=["down_proj"])
    path = tmp_path / "adapter_model.safetensors"
    weights, same = load_file(path), PICO.get_input_embeddings().weight.detach()
    assert PICO.get_output_embeddings().weight is PICO.get_input_embeddings().weight
    save_file(weights | {"base_model.model.model.embed_tokens.weight": same.contiguous()}, path)
    load_candidate(str(tmp_path), pico())
    save_file(weights | {"base_model.model.model.embed_tokens.weight": same + 1}, path)
    with pytest.raises(InputError, match="changes tied embeddings together"):
        load_candidate(str(tmp_path), pico())
