"""The torch-free vocabulary of hook points equals interp-engine's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interp_engine import points as engine_points
from interp_engine.mappers import UnmappedHook, tlens_hook_to_point

from raylens.catalog.points import GLOBAL, KNOWN, RESIDUAL_WIDE, from_transformer_lens, is_residual_wide
from raylens.ids import HookPoint

SUFFIXES = [
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "mlp.hook_in",
    "attn.hook_in",
    "mlp.hook_out",
    "attn.hook_out",
    "attn.hook_z",
    "hook_z",
    "mlp.hook_post",
    "mlp.hook_pre",
    # tensors that no canonical point is
    "hook_mlp_in",
    "hook_attn_in",
    "ln1.hook_normalized",
    "ln2.hook_normalized",
]


def test_the_names_are_interp_engines() -> None:
    assert engine_points.known_names() | engine_points.hyper_connection_names() == KNOWN
    wide = {point.name for point in engine_points.POINTS if point.width is engine_points.Width.D_MODEL}
    assert wide == RESIDUAL_WIDE
    assert {point.name for point in engine_points.POINTS if point.scope is engine_points.Scope.GLOBAL} == GLOBAL


@given(st.sampled_from(SUFFIXES), st.integers(0, 200))
def test_translations_are_interp_engines(suffix: str, layer: int) -> None:
    name = f"blocks.{layer}.{suffix}"
    try:
        address = tlens_hook_to_point(name)
        expected = HookPoint(address.name, address.layer)
    except UnmappedHook:
        expected = None
    assert from_transformer_lens(name, "openai-community/gpt2") == expected


@pytest.mark.parametrize(
    ("model", "point"),
    [
        ("gemma-2-2b", "mlp_out_post.3"),
        ("google/gemma-3-1b-it", "mlp_out_post.3"),
        ("allenai/OLMo-2-1124-7B", "mlp_out_post.3"),
        ("google/gemma-2b", "mlp_out.3"),
        ("meta-llama/Llama-3.1-8B", "mlp_out.3"),
    ],
)
def test_a_contribution_is_the_normed_tensor_where_blocks_norm_it(model: str, point: str) -> None:
    assert str(from_transformer_lens("blocks.3.hook_mlp_out", model)) == point


def test_a_contribution_of_an_unknown_model_has_no_translation() -> None:
    assert from_transformer_lens("blocks.3.hook_mlp_out") is None
    assert from_transformer_lens("blocks.3.hook_resid_post") == HookPoint("resid_post", 3)


@pytest.mark.parametrize("name", ["", "hook_embed", "blocks.x.hook_resid_post", "blocks.1.hook_resid_post.2"])
def test_other_names_have_no_translation(name: str) -> None:
    assert from_transformer_lens(name, "gpt2") is None


@pytest.mark.parametrize(
    ("hook", "wide"),
    [
        ("resid_post.4", True),
        ("mlp_in.0", True),
        ("z.4", False),
        ("mlp_act.2", False),
        ("path.model.layers.4", True),
        ("path.transformer.h.0#0", True),
        ("path.model.layers.4.mlp.down_proj", False),
    ],
)
def test_which_points_are_as_wide_as_the_residual_stream(hook: str, wide: bool) -> None:
    assert is_residual_wide(HookPoint.parse(hook)) is wide
