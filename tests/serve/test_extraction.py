"""Features of a span over HTTP, against the slow way: one text, the whole model, every latent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from gateway_here import TOKEN, Here, gateway_here
from raylens.api.extraction import CACHED
from raylens.bundle.traces import sample_spans
from raylens.engine.load import load_model
from raylens.engine.saes import load_sae
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens.store.views import connect
from raylens.store.workspace import Workspace

SAE = "raylens-pico-res/layer_3"
INPUT = "def area(radius):\n    "
OUTPUT = "return math.pi * radius ** 2\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with gateway_here(tmp_path_factory.mktemp("extraction") / "workspace") as found:
        yield found


@cache
def pico() -> Any:
    return load_model("raylens/pico", device="cpu")


def maxima(text: str, sae: str = SAE) -> np.ndarray:
    """Of every latent over the text's tokens without BOS, float32 ``[d_sae]``: the oracle."""
    model, loaded = pico(), load_sae(sae)
    ids = [*model.prefix_ids, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    layer = loaded.spec.hook.layer_index
    assert layer is not None
    with torch.inference_mode():
        hidden = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
        codes = loaded.sae.encode(hidden[len(model.prefix_ids) :])
    return codes.max(dim=0).values.numpy()


def span(here: Here, **said: Any) -> str:
    (made,) = here.client.traces.add([{"model": "raylens/pico", "input": INPUT, "output": OUTPUT, **said}])
    return made


# A0.01 A0.09
def test_features_of_a_span_are_the_maxima_over_what_went_in_and_came_out(here: Here) -> None:
    found = here.client.sae.extract(span(here), top_k=20)
    assert (found.reason, found.model, found.sae) == ("ok", "raylens/pico", SAE)
    oracle = maxima(INPUT + OUTPUT)
    wanted = np.sort(oracle)[::-1][:20]
    np.testing.assert_allclose([one.activation for one in found.features], wanted, rtol=1e-4)
    np.testing.assert_allclose([oracle[one.index] for one in found.features], wanted, rtol=1e-4)
    assert all(one.id == f"f_3_{one.index}" and one.layer == 3 for one in found.features)


# A0.09: the request as it is written there.
def test_the_request_is_that_of_the_system_it_replaces(here: Here) -> None:
    answer = httpx.post(
        f"{here.url}/api/v1/sae/extract",
        headers={"Authorization": f"Bearer {TOKEN}"},
        json={"span_id": span(here), "top_k": 20},
    )
    assert answer.status_code == 200
    said = answer.json()
    assert set(said) >= {"span_id", "model", "sae", "features", "reason"}
    names = {"id", "index", "layer", "label", "bucket", "activation", "neuronpedia_url"}
    assert all(set(one) >= names for one in said["features"])
    assert len(said["features"]) == 20


# A0.10 A0.11
def test_the_second_time_it_is_served_from_what_is_kept(here: Here) -> None:
    made = span(here)
    first = here.client.sae.extract(made, top_k=256)
    before = here.encoder.calls["peaks"]
    second = here.client.sae.extract(made, top_k=256)
    fewer = here.client.sae.extract(made, top_k=7)
    assert second.reason == fewer.reason == CACHED == "ok (cached)"
    assert second.features == first.features
    assert fewer.features == first.features[:7]
    assert here.encoder.calls["peaks"] == before
    with connect(here.workspace) as connection:
        rows = connection.execute(
            "SELECT feature, activation FROM sae_feature_activations WHERE span_id = ? ORDER BY activation DESC, 1",
            [made],
        ).fetchall()
    assert [(one.index, pytest.approx(one.activation)) for one in first.features] == rows
    again = here.client.sae.extract(made, again=True)
    assert again.reason == "ok"
    assert here.encoder.calls["peaks"] == before + 1


# A0.12
def test_nothing_is_read_before_somebody_asks(here: Here) -> None:
    made, before = span(here), here.encoder.calls.total()
    assert here.client.traces.span(made).span_id == made
    assert here.client.sae.kept(made) == []
    assert here.encoder.calls.total() == before
    here.client.sae.extract(made)
    (kept,) = here.client.sae.kept(made, top_k=5)
    assert (kept.reason, len(kept.features)) == (CACHED, 5)


def test_another_sae_of_the_model_is_read_beside_the_first(here: Here) -> None:
    made = span(here)
    here.client.sae.extract(made)
    other = here.client.sae.extract(made, sae="raylens-pico-res/layer_1")
    assert other.reason == "ok"
    oracle = maxima(INPUT + OUTPUT, "raylens-pico-res/layer_1")
    assert other.features[0].activation == pytest.approx(float(oracle.max()), rel=1e-4)
    assert {one.sae for one in here.client.sae.kept(made)} == {SAE, "raylens-pico-res/layer_1"}
    with pytest.raises(UnknownNameError, match="layer_9"):
        here.client.sae.extract(made, sae="raylens-pico-res/layer_9")


def test_of_many_who_ask_at_once_one_result_is_stored(here: Here) -> None:
    made, before = span(here), here.encoder.calls["peaks"]
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: here.client.sae.extract(made), range(200)))
    assert len({json.dumps([one.model_dump() for one in answer.features]) for answer in found}) == 1
    assert {answer.reason for answer in found} <= {"ok", CACHED}
    assert here.encoder.calls["peaks"] == before + 1
    with connect(here.workspace) as connection:
        (rows,) = connection.execute(
            "SELECT count(*), count(DISTINCT feature) FROM sae_feature_activations WHERE span_id = ?", [made]
        ).fetchall()
    assert rows[0] == rows[1] > 0


# A0.06 A0.23 A0.04
@pytest.mark.parametrize(
    ("model", "reason", "hint", "fallback"),
    [
        ("gpt-4o", "served by OpenAI through an API only", "ablation", True),
        ("claude-sonnet-4", "API only", "ablation", True),
        (None, "no model is named", "model attribute", True),
        ("nobody/knows-this", "no SAE is known", "there are", True),
        ("google/gemma-2-2b", "do not serve it", "add google/gemma-2-2b to models", False),
        ("meta-llama/Llama-3.1-8B", "", "", False),
    ],
)
def test_a_span_that_cannot_be_read_says_why_and_what_to_do(
    here: Here, model: str | None, reason: str, hint: str, fallback: bool
) -> None:
    made = span(here, model=model)
    before = here.encoder.calls.total()
    found = here.client.sae.extract(made)
    assert not found.supported
    assert found.features == ()
    assert reason in found.reason
    assert hint in found.hint
    assert bool(found.fallback) == fallback
    assert here.encoder.calls.total() == before
    effects = here.client.sae.span_effects(made)
    assert not effects.supported
    if model in ("gpt-4o", "claude-sonnet-4"):
        assert "own provider" in effects.hint


def test_what_a_model_cannot_read_is_left_out_and_said(here: Here) -> None:
    made = span(here, input="value = 1\n" * 2000, output="end")
    first, second = here.client.sae.extract(made), here.client.sae.extract(made)
    assert "tokens were left out" in first.hint
    assert second.hint == first.hint
    assert second.reason == CACHED
    assert first.features


def test_effects_are_those_of_the_span(here: Here) -> None:
    # A0.06, of a model that is at hand: without each token the output is more or less likely.
    made = span(here)
    found = here.client.sae.span_effects(made, sae=SAE, n_tokens=4, counterfactuals=1, substitutes=2)
    assert found.reason == "ok"
    assert found.effects is not None
    assert len(found.effects.ablations) == 4
    assert found.effects.log_prob < 0
    assert found.effects.ablations[0].features
    assert len(found.effects.counterfactuals) <= 2
    with pytest.raises(InputError, match="no output"):
        here.client.sae.span_effects(span(here, output=""))


def test_what_is_not_there_is_said(here: Here) -> None:
    with pytest.raises(UnknownNameError, match="span"):
        here.client.sae.extract("0123456789abcdef")
    empty = here.client.sae.extract(span(here, input="", output=""))
    assert empty.reason == "the span holds no text."
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for body, where in [
        ({}, "span_id"),
        ({"span_id": "a b"}, "span_id"),
        ({"span_id": "a", "top_k": 0}, "top_k"),
        ({"span_id": "a", "top_k": 257}, "top_k"),
        ({"span_id": "a", "topk": 3}, "topk"),
    ]:
        answer = httpx.post(f"{here.url}/api/v1/sae/extract", headers=headers, json=body)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(where)


# A0.07
def test_the_live_catalogue(here: Here) -> None:
    found = here.client.sae.supported_models()
    rows = {(one.model, one.release): one for one in found.models}
    assert found.models[0].model == "raylens/pico"
    assert rows["google/gemma-2-2b", "gemma-scope-2b-pt-res"].saes > 0
    assert any(one.labels_available for one in found.models)  # A0.08
    assert [one.model for one in found.served] == ["raylens/pico"]
    assert found.served[0].saes[0] == SAE


# A0.04
def test_an_sae_of_another_model_is_read_on_explicit_order_alone(tmp_path: Path) -> None:
    from fine_tunes import PICO_FOLDER

    model = {"model": str(PICO_FOLDER), "saes": [SAE]}
    with gateway_here(tmp_path / "w", models=[{**model, "override_guard": True}]) as other:
        made = span(other, model=str(PICO_FOLDER))
        with pytest.raises(MismatchError, match="trained on another model"):
            other.client.sae.extract(made)
        assert other.client.sae.extract(made, override_guard=True).features


def test_a_name_of_the_users_own_catalogue_is_known(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    Workspace.open(workspace, create=True)
    (workspace / "catalog.yaml").write_text("aliases: {our-little-model: raylens/pico}\n")
    with gateway_here(workspace) as other:
        found = other.client.sae.extract(span(other, model="our-little-model"))
    assert (found.reason, found.model) == ("ok", "raylens/pico")


# A0.22
def test_nothing_leaves_the_machine(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    connect_to = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            asked.append(address)
            raise OSError("refused by the test")
        connect_to(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, _real=socket.getaddrinfo, **named: asked.append(host)
        if host not in ("127.0.0.1", "localhost", None) else _real(host, *more, **named)
    )  # fmt: skip
    ids = here.client.traces.add([one.model_dump(mode="json") for one in sample_spans()])
    for one in ids:
        here.client.sae.extract(one)
        here.client.sae.span_effects(one, n_tokens=1, counterfactuals=0)
    assert asked == []
