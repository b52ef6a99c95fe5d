"""Provenance on pico: edges that ablation confirms, a model that is left as it was, and what is refused (A3.10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fine_tunes import pico
from raylens.api.provenance import Provenance, ProvenanceNode
from raylens.engine.load import LoadedModel
from raylens.engine.points import resolve
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.tap import tap
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens.ids import FeatureId, HookPoint, SaeId
from raylens.workbench.attribution import pre_activation
from raylens.workbench.provenance import provenance, provenance_id

TEXT = "import heapq\n\ndef smallest(items, count):\n    heap = list(items)\n    heapq.heapify(heap)\n    return ["


@pytest.fixture(scope="module")
def three_layers() -> list[LoadedSae]:
    return [load_sae(f"raylens-pico-res/layer_{layer}") for layer in (1, 3, 5)]


def ids_of(model: LoadedModel, text: str) -> list[int]:
    tokenizer: Any = model.tokenizer
    return [*model.prefix_ids, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def some_targets(model: LoadedModel, sae: LoadedSae, ids: list[int]) -> list[tuple[FeatureId, int]]:
    """The strongest and the fourth feature on a few tokens."""
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states[6][0]
        order = sae.sae.encode(hidden).argsort(dim=1, descending=True)
    return [
        (FeatureId(sae.id, int(order[token, rank])), token)
        for token in range(8, len(ids), len(ids) // 4)
        for rank in (0, 3)
    ]


@pytest.fixture(scope="module")
def found_on_pico(three_layers: list[LoadedSae]) -> list[Provenance]:
    model = pico()
    ids = ids_of(model, TEXT)
    targets = some_targets(model, three_layers[2], ids)
    return [provenance(model, three_layers, target, ids, token) for target, token in targets]


def test_ablation_confirms_the_top_edges_on_pico(found_on_pico: list[Provenance]) -> None:  # A3.10
    edges = [edge for found in found_on_pico for edge in found.edges]
    assert len(edges) > 200
    assert sum(edge.confirmed for edge in edges) / len(edges) >= 0.9
    for found in found_on_pico:
        assert Provenance.model_validate_json(found.model_dump_json()) == found
        assert [share.layer for share in found.layers] == [1, 3]
        assert {edge.source.layer for edge in found.direct} == {1, 3}
        assert len(found.direct) <= 20
        inner = [edge for edge in found.edges if edge not in found.direct]
        assert {(edge.source.layer, edge.target.layer) for edge in inner} == {(1, 3)}
        assert {edge.target.key for edge in inner} <= {edge.source.key for edge in found.direct}
        for edge in found.edges:
            assert edge.source.token <= edge.target.token <= found.target.token
            assert found.tokens[edge.source.token] == edge.source.text
        for share in found.layers:
            parts = (share.features, share.errors, share.special, share.bias, share.rest, found.offset)
            assert sum(parts) == pytest.approx(found.target.activation, abs=1e-4)


def test_an_edge_is_what_taking_the_feature_out_does(
    found_on_pico: list[Provenance], three_layers: list[LoadedSae]
) -> None:  # A3.10
    """One source, taken out by a hook of its own, one text alone."""
    model, found = pico(), found_on_pico[0]
    for edge in (found.direct[0], found.direct[-1]):
        layer = edge.source.layer
        assert layer is not None
        source = next(sae for sae in three_layers if sae.spec.hook.layer_index == layer)

        def without(
            _module: Any, _args: Any, output: Any, node: ProvenanceNode = edge.source, sae: Any = source
        ) -> Any:
            h = (output[0] if isinstance(output, tuple) else output).clone()
            x = h[0, node.token]
            codes = sae.sae.encode(x)
            if node.feature is None:
                h[0, node.token] = sae.sae.decode(codes)
            else:
                h[0, node.token] = x - codes[node.feature] * sae.sae.W_dec[node.feature]
            return (h, *output[1:]) if isinstance(output, tuple) else h

        handle = resolve(model, source.spec.hook).module.register_forward_hook(without)
        with torch.no_grad():
            ids = torch.tensor([list(found.token_ids)])
            hidden = model.model(ids, use_cache=False, output_hidden_states=True).hidden_states[6][0, -1:]
        handle.remove()
        assert found.target.feature is not None
        left = float(pre_activation(three_layers[2], hidden, found.target.feature))
        assert found.target.activation - left == pytest.approx(edge.ablation_effect, abs=1e-3)
        dense = float(three_layers[2].sae.encode(hidden)[0, found.target.feature])
        assert edge.ablated_activation == pytest.approx(dense, abs=1e-3)


def test_the_model_is_left_as_it_was(three_layers: list[LoadedSae]) -> None:  # A3.10
    model = pico()
    ids = ids_of(model, TEXT)
    target, token = some_targets(model, three_layers[2], ids)[0]
    parameters = [parameter for sae in three_layers for parameter in sae.sae.parameters()]
    parameters += list(model.model.parameters())
    asked = [parameter.requires_grad for parameter in parameters]

    def logits() -> Tensor:
        with torch.no_grad():
            return model.model(torch.tensor([ids]), use_cache=False).logits

    def hooks() -> list[int]:
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.model.modules()]

    before, hooks_before = logits(), hooks()
    one = provenance(model, three_layers, target, ids, token, integrated=3)
    again = provenance(model, three_layers[::-1], target, ids[: token + 1], token, integrated=3)
    assert torch.equal(logits(), before)
    assert one == again, "what follows the token, and the order of SAEs, change nothing"
    assert all(parameter.grad is None for parameter in parameters)
    assert [parameter.requires_grad for parameter in parameters] == asked
    assert hooks() == hooks_before


def test_integrated_gradients_leave_less_unexplained(
    found_on_pico: list[Provenance], three_layers: list[LoadedSae]
) -> None:  # A3.10
    model = pico()
    ids = ids_of(model, TEXT)
    rest, rest_integrated = 0.0, 0.0
    for found in found_on_pico[:4]:
        assert found.target.feature is not None
        target = FeatureId(three_layers[2].id, found.target.feature)
        other = provenance(model, three_layers, target, ids, found.target.token, integrated=8)
        assert other.provenance_id != found.provenance_id
        rest += sum(abs(share.rest) for share in found.layers)
        rest_integrated += sum(abs(share.rest) for share in other.layers)
        assert other.agreement is not None
        assert other.agreement >= 0.8
    assert rest_integrated < rest


def test_more_sources_are_the_same_and_weaker_ones(three_layers: list[LoadedSae]) -> None:
    model = pico()
    ids = ids_of(model, TEXT)
    target, token = some_targets(model, three_layers[2], ids)[1]
    few, many = (provenance(model, three_layers, target, ids, token, top=top) for top in (3, 12))
    assert few.provenance_id == many.provenance_id
    assert {edge.source.key for edge in few.direct} < {edge.source.key for edge in many.direct}
    assert few.layers == many.layers
    assert few.token_ids == tuple(ids[: token + 1])
    by_token = provenance(model, three_layers, target, ids)
    assert by_token.target.activation >= few.target.activation, "without a token, the one on which it fires most"


def test_a_result_is_named_by_all_that_determines_it() -> None:
    source, target = SaeId("linear", "layer_0"), SaeId("linear", "layer_1")
    of = FeatureId(target, 0)
    prints = {source: "a", target: "b"}
    one = provenance_id("r", [0, 1, 2, 3], of, 2, prints, None)
    assert one == provenance_id("r", [0, 1, 2], of, 2, dict(reversed(prints.items())), None)
    others = [
        provenance_id("s", [0, 1, 2], of, 2, prints, None),
        provenance_id("r", [0, 1, 2, 3], of, 3, prints, None),
        provenance_id("r", [0, 2, 2], of, 2, prints, None),
        provenance_id("r", [0, 1, 2], FeatureId(target, 1), 2, prints, None),
        provenance_id("r", [0, 1, 2], of, 2, prints | {source: "c"}, None),
        provenance_id("r", [0, 1, 2], of, 2, prints, 5),
    ]
    assert len({one, *others}) == 7


def test_what_cannot_be_followed_back_is_refused(three_layers: list[LoadedSae]) -> None:
    model, (first, second, third) = pico(), three_layers
    ids = ids_of(model, TEXT)
    target, token = some_targets(model, third, ids)[0]

    def ask(saes: list[LoadedSae], of: FeatureId = target, at: int | None = token, **more: Any) -> Provenance:
        return provenance(model, saes, of, more.pop("ids", ids), at, **more)

    silent = FeatureId(third.id, next(n for n in range(third.d_sae) if not fires(model, third, n, ids)))
    with pytest.raises(InputError, match="does not fire on token") as error:
        ask(three_layers, silent)
    assert error.value.hint == "it fires on no token of this text."
    with pytest.raises(InputError, match=r"does not fire on token .*") as error:
        ask(three_layers, at=1)
    assert str(token) in error.value.hint
    with pytest.raises(InputError, match="does not fire on this text"):
        ask(three_layers, silent, None)
    with pytest.raises(InputError, match="stands for no text"):
        ask(three_layers, at=0)
    with pytest.raises(InputError, match="has no token 900"):
        ask(three_layers, at=900)
    with pytest.raises(InputError, match="no SAE before"):
        ask([third])
    with pytest.raises(InputError, match=r"layer_5 reads resid_post\.5, which is not before resid_post\.3"):
        ask(three_layers, FeatureId(second.id, 17))
    with pytest.raises(UnknownNameError, match="layer_5"):
        ask([first, second])
    with pytest.raises(UnknownNameError, match="has no feature"):
        ask(three_layers, FeatureId(third.id, 10**6))
    with pytest.raises(InputError, match="there is no text"):
        ask(three_layers, ids=[])
    with pytest.raises(InputError, match="1,024"):
        ask(three_layers, ids=ids * 40)
    with pytest.raises(InputError, match="a token is none"):
        ask(three_layers, ids=[0, 5000, 1])
    with pytest.raises(InputError, match="at least 1"):
        ask(three_layers, top=0)
    with pytest.raises(InputError, match="at least 1"):
        ask(three_layers, integrated=0)


def fires(model: LoadedModel, sae: LoadedSae, feature: int, ids: list[int]) -> bool:
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states[6][0]
    return bool((pre_activation(sae, hidden, feature) > 0).any())


def test_an_sae_of_another_model_is_refused(llama: LoadedModel, make_sae: Any, save_sae: Any, tmp_path: Path) -> None:
    folder = save_sae(make_sae("topk"), tmp_path / "sae")
    narrow, other = load_sae(folder), load_sae(save_sae(make_sae("topk", 16, seed=3), tmp_path / "other"))
    end = LoadedSae(narrow.sae, replace(narrow.spec, hook=HookPoint("resid_post", 2)))
    with torch.no_grad():
        h = tap(llama, [end.spec.hook], torch.tensor([[0, 7, 31]]))[end.spec.hook][0]
        feature = int(end.sae.encode(h)[2].argmax())
    with pytest.raises(MismatchError, match="width"):
        provenance(llama, [end, other], FeatureId(end.id, feature), [0, 7, 31], 2)
