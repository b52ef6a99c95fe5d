"""Hook points are found by name, or refused by saying what exists."""

from __future__ import annotations

import pytest
from interp_engine import tlens_hook_to_point

from raylens.engine.load import LoadedModel
from raylens.engine.points import from_transformer_lens, list_points, resolve
from raylens.errors import UnknownNameError
from raylens.ids import HookPoint


def test_what_is_listed_resolves_and_round_trips(loaded: LoadedModel) -> None:
    points = list_points(loaded)
    assert len(set(points)) == len(points)
    assert {HookPoint("embeddings"), HookPoint("resid_post", loaded.n_layers - 1), HookPoint("mlp_act", 0)} <= set(
        points
    )
    for point in points:
        assert resolve(loaded, HookPoint.parse(str(point))).point == point


def test_sites_are_the_modules_they_name(llama: LoadedModel) -> None:
    block = llama.model.get_submodule("model.layers.1")
    assert resolve(llama, HookPoint("resid_post", 1)).module is block
    assert resolve(llama, HookPoint("resid_pre", 1)).side == "input"
    assert resolve(llama, HookPoint.parse("path.model.layers.1#1")).output == 1
    assert resolve(llama, HookPoint.parse("path.model.layers.1")).module is block


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ("resid_pots.1", "resid_post.1"),
        ("resid_post.3", "layers are 0 to 2"),
        ("resid_post", "resid_post.0"),
        ("embeddings.1", "has no layers"),
        ("attn_probs.0", "not one tensor a token"),
        ("router_logits.0", "resid_post.0"),  # no experts here
        ("path.model.layer.1", "model.layers.1"),
    ],
)
def test_unknown_points_say_what_exists(llama: LoadedModel, point: str, says: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve(llama, HookPoint.parse(point))
    assert says in str(caught.value)


def test_transformer_lens_names(loaded_models: dict[str, LoadedModel]) -> None:
    llama, gemma = loaded_models["llama"], loaded_models["gemma2"]
    assert from_transformer_lens("blocks.3.hook_resid_post") == HookPoint("resid_post", 3)
    assert from_transformer_lens("blocks.0.attn.hook_z") == HookPoint("z", 0)
    # A block-level output is the contribution to the residual stream, which Gemma 2 norms first.
    assert from_transformer_lens("blocks.1.hook_mlp_out", llama) == HookPoint("mlp_out", 1)
    assert from_transformer_lens("blocks.1.hook_mlp_out", gemma) == HookPoint("mlp_out_post", 1)
    for name in ("hook_resid_mid", "mlp.hook_post", "hook_attn_out", "mlp.hook_out"):
        address = tlens_hook_to_point(f"blocks.2.{name}", gemma.engine)
        assert from_transformer_lens(f"blocks.2.{name}", gemma) == HookPoint(address.name, address.layer)


@pytest.mark.parametrize("name", ["blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_in", "hook_nothing"])
def test_transformer_lens_names_without_a_point(llama: LoadedModel, name: str) -> None:
    for model in (None, llama):
        with pytest.raises(UnknownNameError, match=r".") as caught:
            from_transformer_lens(name, model)
        assert "resid_post.N" in caught.value.hint


def test_block_level_outputs_need_the_model() -> None:
    with pytest.raises(UnknownNameError):
        from_transformer_lens("blocks.1.hook_mlp_out")
