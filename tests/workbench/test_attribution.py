"""Attribution by hand on a linear model, and against the definition on real architectures.

A3.10: what features of earlier layers caused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import StandardSAE, StandardSAEConfig
from torch import Tensor

from linear_model import linear_model, sae_at
from raylens.engine.load import LoadedModel
from raylens.engine.points import resolve
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.tap import tap
from raylens.ids import FeatureId, HookPoint, SaeId
from raylens.workbench.attribution import Read, gradients, pre_activation
from raylens.workbench.decomposition import decompose
from raylens.workbench.provenance import provenance


def standard(encoder: list[list[float]], decoder: list[list[float]], b_enc: list[float], b_dec: list[float]) -> Any:
    made = StandardSAE(StandardSAEConfig(d_in=len(decoder[0]), d_sae=len(decoder), apply_b_dec_to_input=False))
    with torch.no_grad():
        for name, values in (("W_enc", encoder), ("W_dec", decoder), ("b_enc", b_enc), ("b_dec", b_dec)):
            made.get_parameter(name).copy_(torch.tensor(values))
    return made


def by_hand() -> tuple[LoadedModel, LoadedSae, LoadedSae]:
    """Vectors [1, 1], [2, 0], [0, 3] of BOS, t1 and t2; the second block adds twice the swapped vector before."""
    one, swap = torch.eye(2), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    model = linear_model(torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), [(one, torch.zeros(2, 2)), (one, swap)])
    source = standard([[1, 0], [0, 1]], [[1, 0], [0, 0.5]], [0, 0], [0.1, -0.2])
    target = standard([[3.0], [1.0]], [[1, 1]], [-1], [0, 0])
    return model, sae_at(0, source), sae_at(1, target)


@pytest.mark.parametrize("steps", [None, 1, 5])
def test_a_linear_model_by_hand(steps: int | None) -> None:  # A3.10
    model, source, target = by_hand()
    found = provenance(model, [source, target], FeatureId(target.id, 0), [0, 1, 2], 2, integrated=steps)
    # h1[2] = [0, 3] + 2 · [0, 2] = [0, 7], of which the target reads 3 · 0 + 7 − 1.
    assert (found.target.token, found.target.activation, found.offset) == (2, 6, -1)
    assert found.target.text == "t2"
    # By [0, 3] the gradient is [3, 1], by [2, 0] it is [2, 6]: twice that, swapped.
    expected = {
        ("linear/layer_0/0", 1): 2 * 2,  # activation 2 along [1, 0]
        ("linear/layer_0/1", 2): 3 * 0.5,  # activation 3 along [0, 0.5]
        ("linear/layer_0/error", 1): -0.1 * 2 + 0.2 * 6,  # [2, 0] less [2, 0] and the bias
        ("linear/layer_0/error", 2): -0.1 * 3 + 1.7 * 1,  # [0, 3] less [0, 1.5] and the bias
    }
    assert {edge.source.key: edge.attribution for edge in found.edges} == pytest.approx(expected)
    assert {edge.source.key: edge.ablation_effect for edge in found.edges} == pytest.approx(expected)
    assert {edge.source.key: edge.ablated_activation for edge in found.edges} == pytest.approx(
        {key: 6 - value for key, value in expected.items()}
    )
    assert all(edge.confirmed for edge in found.edges)
    assert [edge.source.token for edge in found.edges] == [1, 2, 2, 1], "the strongest first"
    (share,) = found.layers
    assert (share.features, share.errors) == (pytest.approx(5.5), pytest.approx(2.4))
    bias = 0.1 * (3 + 2) - 0.2 * (1 + 6)
    assert (share.bias, share.rest) == pytest.approx((bias, 0) if steps is None else (0, bias), abs=1e-5)
    assert (share.special, share.n_sources) == (0, 2)


def random_linear(seed: int, kinds: tuple[str, ...], make_sae: Any, normalised: str) -> tuple[LoadedModel, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    model = linear_model(draw(9, 8), [(torch.eye(8) + 0.3 * draw(8, 8), 0.3 * draw(8, 8)) for _ in kinds])
    # An SAE that normalises its input is not linear in it: only the first does, which nothing leads to.
    norms = [normalised, *("none" for _ in kinds[1:])]
    saes = [
        sae_at(at, make_sae(kind, 8, 24, seed=seed + at, normalize_activations=norm))
        for at, (kind, norm) in enumerate(zip(kinds, norms, strict=True))
    ]
    return model, saes


@given(
    seed=st.integers(0, 10_000),
    kinds=st.tuples(*[st.sampled_from(["standard", "topk", "jumprelu", "gated"])] * 3),
    normalised=st.sampled_from(["none", "layer_norm", "constant_norm_rescale"]),
    ids=st.lists(st.integers(1, 8), min_size=1, max_size=7),
)
@settings(max_examples=15)
def test_on_a_linear_model_nothing_is_missing_and_ablation_is_attribution(
    make_sae: Any, seed: int, kinds: tuple[str, ...], normalised: str, ids: list[int]
) -> None:  # A3.10
    model, saes = random_linear(seed, kinds, make_sae, normalised)
    ids = [0, *ids]
    with torch.no_grad():
        network: Any = model.model
        hidden = network.embed(torch.tensor([ids]))
        for block in network.blocks:
            hidden = block(hidden)
    fires = saes[-1].sae.encode(hidden[0])[-1].nonzero()[:, 0].tolist()
    if not fires:
        return
    target = FeatureId(saes[-1].id, fires[0])
    found = provenance(model, saes, target, ids, len(ids) - 1, top=1000)
    size = 1 + sum(abs(edge.attribution) for edge in found.direct)
    assert [share.sae for share in found.layers] == ["linear/layer_0", "linear/layer_1"]
    for share in found.layers:
        assert share.rest == pytest.approx(0, abs=1e-5 * size)
        own = [edge for edge in found.direct if edge.source.sae == share.sae]
        assert sum(edge.attribution for edge in own) == pytest.approx(share.features + share.errors, abs=1e-5 * size)
    for edge in found.edges:
        assert edge.ablation_effect == pytest.approx(edge.attribution, abs=1e-5 * size)
    on_the_way = provenance(model, saes, target, ids, len(ids) - 1, top=1000, integrated=3)
    straight = {(edge.source.key, edge.target.key): edge.attribution for edge in found.edges}
    assert {(edge.source.key, edge.target.key): edge.attribution for edge in on_the_way.edges} == pytest.approx(
        straight, abs=1e-5 * size
    )


@pytest.mark.parametrize("normalised", ["none", "layer_norm"])
@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk", "jumprelu", "gated"])
def test_weights_are_those_of_spliced_leaves(
    loaded: LoadedModel, make_sae: Any, save_sae: Any, tmp_path: Path, kind: str, normalised: str
) -> None:
    """The definition, slowly: codes and error as leaves in place of the vector, dense, and autograd through all."""
    more = {"rescale_acts_by_decoder_norm": True} if kind == "topk" else {}
    source = load_sae(save_sae(make_sae(kind, normalize_activations=normalised, **more), tmp_path / "sae"))
    end = load_sae(save_sae(make_sae(kind, seed=5, normalize_activations=normalised, **more), tmp_path / "end"))
    ids, later = [0, 7, 31, 88, 120, 9, 64], HookPoint("resid_post", 2)
    end = LoadedSae(end.sae, replace(end.spec, hook=later))
    site, last = resolve(loaded, source.spec.hook), resolve(loaded, later)
    leaves: dict[str, Tensor] = {}
    reached: list[Tensor] = []

    def splice(_module: Any, _args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        with torch.no_grad():
            codes = source.sae.encode(h[0])
            codes[0] = 0
            source.sae.encode(h[0])
            decoded = source.sae.decode(codes)
        leaves["codes"] = codes.requires_grad_()
        leaves["error"] = (h[0] - decoded).detach().requires_grad_()
        source.sae.process_sae_in(h[0].detach())
        spliced = (source.sae.decode(leaves["codes"]) + leaves["error"])[None]
        return (spliced, *output[1:]) if isinstance(output, tuple) else spliced

    def reach(_module: Any, _args: Any, output: Any) -> None:
        reached.append(output[0] if isinstance(output, tuple) else output)

    handles = [
        site.module.register_forward_hook(splice),
        last.module.register_forward_hook(reach),
    ]
    loaded.model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    feature = int(end.sae.encode(reached[0][0].detach())[5].argmax())
    by_codes, by_error = torch.autograd.grad(
        pre_activation(end, reached[0][:, 5], feature).sum(), [leaves["codes"], leaves["error"]]
    )
    with torch.no_grad():
        h = loaded.model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states[2][0]
    parts = decompose(source, h, [0])
    assert torch.allclose(parts.activation, leaves["codes"][parts.token, parts.feature], atol=1e-5)
    (gradient,) = gradients(loaded, ids, parts, [Read(end, feature, 5)])
    weights = parts.weigh(gradient)
    expected = (leaves["codes"] * by_codes).detach()
    assert torch.allclose(weights.features, expected[parts.token, parts.feature], atol=1e-4)
    assert len(parts.token) == int((leaves["codes"] > 0).sum())
    text_errors = (leaves["error"] * by_error).detach().sum(dim=1)[1:]
    assert torch.allclose(weights.errors[1:], text_errors, atol=1e-4)
    assert float(weights.errors[0]) == 0
    whole = (parts.error + parts.bias + parts.special).index_add(
        0, parts.token, parts.activation[:, None] * parts.directions(torch.arange(len(parts.token)))
    )
    assert torch.allclose(whole, h, atol=1e-5)


@pytest.mark.parametrize("points", [("resid_post.0", "resid_post.1"), ("mlp_out.0", "attn_out.1", "resid_mid.1")])
def test_sources_at_any_point_of_any_architecture(
    loaded: LoadedModel, make_sae: Any, save_sae: Any, tmp_path: Path, points: tuple[str, ...]
) -> None:  # A3.10
    ids = [7, 31, 88, 120, 9, 64]  # no BOS
    sae = load_sae(save_sae(make_sae("jumprelu"), tmp_path / "sae"))
    *sources, end = [
        LoadedSae(sae.sae, replace(sae.spec, id=SaeId("tiny", point), hook=HookPoint.parse(point)))
        for point in (*points, "resid_post.2")
    ]
    found = provenance(loaded, [end, *sources], FeatureId(end.id, firing(loaded, end, ids)), ids)
    assert [share.sae for share in found.layers] == [f"tiny/{point}" for point in sorted(points, key=points.index)]
    for share in found.layers:
        parts = (share.features, share.errors, share.special, share.bias, share.rest, found.offset)
        assert sum(parts) == pytest.approx(found.target.activation, abs=1e-4)
    assert found.agreement is not None
    assert found.agreement > 0.6  # random weights are as far from linear as it gets


def firing(loaded: LoadedModel, sae: LoadedSae, ids: list[int]) -> int:
    hidden = tap(loaded, [sae.spec.hook], torch.tensor([ids]))[sae.spec.hook][0]
    with torch.no_grad():
        return int(sae.sae.encode(hidden)[-1].argmax())
