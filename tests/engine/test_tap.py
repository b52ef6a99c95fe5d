"""Taps are the model's own tensors: bit-equal with full forwards, under padding, whatever is asked together."""

from __future__ import annotations

import pytest
import torch
from interp_engine import Address, capture, position_ids_from_mask
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.points import list_points
from raylens.engine.tap import tap
from raylens.errors import InputError, UnknownNameError
from raylens.ids import HookPoint


def batch(loaded: LoadedModel, side: str = "none") -> tuple[Tensor, Tensor | None]:
    """Token ids ``[3, T]`` and their mask; ``side`` is where shorter rows are padded."""
    ids = torch.randint(2, loaded.info.vocab_size, (48,), generator=torch.Generator().manual_seed(0))
    if side == "none":
        return torch.stack([ids[:24], ids[24:48], ids[10:34]]), None
    rows, width = [ids[:24], ids[24:31], ids[10:27]], 24
    padded = torch.full((3, width), loaded.pad_id)
    mask = torch.zeros(3, width, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        padded[i, at], mask[i, at] = row, 1
    return padded, mask


def count_hooks(loaded: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())


def full_hidden_states(loaded: LoadedModel, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """The oracle: transformers' own ``output_hidden_states`` (its last is after the final norm)."""
    positions = {} if mask is None else {"position_ids": position_ids_from_mask(mask)}
    with torch.inference_mode():
        return loaded.model(
            ids, attention_mask=mask, output_hidden_states=True, use_cache=False, **positions
        ).hidden_states


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_residual_stream_is_bit_equal_with_output_hidden_states(loaded: LoadedModel, side: str) -> None:
    ids, mask = batch(loaded, side)
    want = full_hidden_states(loaded, ids, mask)
    for layer in range(loaded.n_layers):
        points = [HookPoint("resid_pre", layer)] + [HookPoint("resid_post", i) for i in range(layer)]
        got = tap(loaded, points, ids, mask)
        assert set(got) == set(points)
        for point, tensor in got.items():
            assert point.layer is not None
            expected = want[point.layer + (point.name == "resid_post")]
            assert torch.equal(tensor, expected), point
    assert torch.equal(tap(loaded, [HookPoint("final_norm")], ids, mask)[HookPoint("final_norm")], want[-1])


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_every_point_of_a_model_is_bit_equal_with_a_full_capture(loaded: LoadedModel, side: str) -> None:
    ids, mask = batch(loaded, side)
    points = list_points(loaded)
    assert len(points) > 10 * loaded.n_layers
    cache = capture(loaded.engine, ids, [Address(p.name, p.layer) for p in points], attention_mask=mask)
    together = tap(loaded, points, ids, mask)
    for point in points:
        want = cache.get(point.name, point.layer).flatten(2)
        assert torch.equal(together[point], want), point
        assert torch.equal(tap(loaded, [point], ids, mask)[point], want), point


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_a_row(loaded: LoadedModel, side: str) -> None:
    ids, mask = batch(loaded, side)
    assert mask is not None
    point = HookPoint("resid_post", 1)
    padded = tap(loaded, [point], ids, mask)[point]
    for row, keep in enumerate(mask.bool()):
        alone = tap(loaded, [point], ids[row, keep][None])[point][0]
        torch.testing.assert_close(padded[row, keep], alone, atol=1e-4, rtol=1e-4)


def test_a_mask_of_ones_changes_no_bit(loaded: LoadedModel) -> None:
    ids, _ = batch(loaded)
    point = HookPoint("resid_post", 2)
    assert torch.equal(tap(loaded, [point], ids, torch.ones_like(ids))[point], tap(loaded, [point], ids)[point])


def test_nothing_runs_after_the_last_point(loaded: LoadedModel) -> None:
    ids, _ = batch(loaded)
    ran: list[str] = []
    watched = {"lm_head": loaded.engine.arch.lm_head} | {
        f"block {i}": loaded.engine.arch.block(i) for i in range(loaded.n_layers)
    }
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name, module in watched.items()
    ]
    try:
        tap(loaded, [HookPoint("resid_pre", 0), HookPoint("resid_post", 1)], ids)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == ["block 0", "block 1"]


def test_module_paths_with_output_selectors(loaded_models: dict[str, LoadedModel]) -> None:
    # A2.08
    llama, gpt2 = loaded_models["llama"], loaded_models["gpt2"]
    ids, _ = batch(llama)
    for template, output in (("model.layers.{layer}", None), ("model.layers.{layer}", 0)):
        point = HookPoint.from_template(template, 1, output)
        assert torch.equal(
            tap(llama, [point], ids)[point], tap(llama, [HookPoint("resid_post", 1)], ids)[HookPoint("resid_post", 1)]
        )
    attention = HookPoint.from_template("model.layers.{layer}.self_attn", 2, 0)  # a tuple: output and weights
    want = tap(llama, [HookPoint("attn_out", 2)], ids)[HookPoint("attn_out", 2)]
    assert torch.equal(tap(llama, [attention], ids)[attention], want)
    mlp = HookPoint.parse("path.transformer.h.0.mlp")
    assert torch.equal(tap(gpt2, [mlp], ids)[mlp], tap(gpt2, [HookPoint("mlp_out", 0)], ids)[HookPoint("mlp_out", 0)])


@pytest.mark.parametrize(
    ("point", "kind", "says"),
    [
        ("path.model.layers.1.self_attn#7", InputError, "returns 2 values"),
        ("path.model.layers.9", UnknownNameError, "model.layers.0"),
        ("path.model.layers", InputError, "model.layers.0"),
        ("path.model.rotary_emb", InputError, "not one vector a token"),
        ("path.model.layers.1.self_attn.rotary", UnknownNameError, "unknown module"),
    ],
)
def test_module_paths_that_give_nothing_say_so(llama: LoadedModel, point: str, kind: type, says: str) -> None:
    ids, _ = batch(llama)
    with pytest.raises(kind, match=r".") as caught:
        tap(llama, [HookPoint.parse(point)], ids)
    assert says in str(caught.value)


def test_hooks_are_removed_even_when_the_forward_fails(loaded: LoadedModel) -> None:
    ids, _ = batch(loaded)
    point = HookPoint("resid_post", 1)
    before = tap(loaded, [point], ids)[point]
    hooks = count_hooks(loaded)  # transformers keeps some of its own
    with pytest.raises(IndexError):
        tap(loaded, [HookPoint("resid_post", 0), point], torch.full_like(ids, 10**6))
    with pytest.raises(InputError):
        tap(loaded, [point, HookPoint("none.such")], ids)
    assert count_hooks(loaded) == hooks
    assert torch.equal(tap(loaded, [point], ids)[point], before)
    assert torch.equal(full_hidden_states(loaded, ids, None)[2], before)


def test_taps_carry_no_gradient_and_need_a_fitting_mask(llama: LoadedModel) -> None:
    ids, _ = batch(llama)
    point = HookPoint("resid_post", 0)
    assert not tap(llama, [point], ids)[point].requires_grad
    assert tap(llama, [], ids) == {}
    with pytest.raises(InputError, match="mask"):
        tap(llama, [point], ids, torch.ones(1, 2))
