"""``POST /api/v1/provenance`` over real HTTP: what the library gives in process, and what is refused (A3.10)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from fine_tunes import pico
from gateway_here import TOKEN, Here, gateway_here
from raylens.api.provenance import Provenance
from raylens.api.reading import EncodeRequest, Passage
from raylens.engine.passage import passage_tokens
from raylens.engine.saes import LoadedSae, load_sae
from raylens.errors import InputError, OutOfMemoryError, UnknownNameError
from raylens.ids import FeatureId
from raylens.workbench.provenance import provenance
from raylens.workbench.sae_export import save_sae
from raylens_serve.followed_reader import MOST_TOKENS

TEXT = "import heapq\n\ndef smallest(items, count):\n    heap = list(items)\n    heapq.heapify(heap)\n    return ["
RELEASE = "raylens-pico-res"
NOISE = 1e-4


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    torch.set_num_threads(1)
    with gateway_here(tmp_path_factory.mktemp("provenance") / "workspace") as found:
        yield found


@pytest.fixture(scope="module")
def saes() -> list[LoadedSae]:
    return [load_sae(f"{RELEASE}/layer_{layer}") for layer in (1, 3, 5)]


@pytest.fixture(scope="module")
def feature(here: Here) -> int:
    """The strongest of layer 5 on the text."""
    asked = EncodeRequest(text=TEXT, saes=(f"{RELEASE}/layer_5",), per_token=False)
    return here.client.sae.encode(asked).saes[0].peaks[0].index


def assert_same(found: Provenance, expected: Provenance) -> None:
    for name in ("model", "revision", "token_ids", "tokens", "top", "integrated", "provenance_id"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.target.model_copy(update={"activation": 0.0}) == expected.target.model_copy(update={"activation": 0.0})
    assert found.target.activation == pytest.approx(expected.target.activation, abs=NOISE)
    edges = {(edge.source.key, edge.target.key): edge for edge in expected.edges}
    assert {(edge.source.key, edge.target.key) for edge in found.edges} == edges.keys()
    for edge in found.edges:
        other = edges[edge.source.key, edge.target.key]
        assert edge.attribution == pytest.approx(other.attribution, abs=NOISE)
        assert edge.ablation_effect == pytest.approx(other.ablation_effect, abs=NOISE)
        assert edge.ablated_activation == pytest.approx(other.ablated_activation, abs=NOISE)
    for share, other in zip(found.layers, expected.layers, strict=True):
        assert (share.sae, share.layer, share.n_sources) == (other.sae, other.layer, other.n_sources)
        for part in ("features", "errors", "special", "bias", "rest"):
            assert getattr(share, part) == pytest.approx(getattr(other, part), abs=NOISE)


def test_it_is_what_the_library_gives_in_process(here: Here, saes: list[LoadedSae], feature: int) -> None:  # A3.10
    model, target = pico(), FeatureId.parse(f"{RELEASE}/layer_5/{feature}")
    ids = passage_tokens(model, Passage(text=TEXT)).ids
    found = here.client.sae.provenance(f"f_5_{feature}", TEXT)
    expected = provenance(model, saes, target, ids)
    assert_same(found, expected)
    assert [share.layer for share in found.layers] == [1, 3]
    assert found.agreement is not None
    assert found.agreement >= 0.9
    for share in found.layers:
        parts = (share.features, share.errors, share.special, share.bias, share.rest, found.offset)
        assert sum(parts) == pytest.approx(found.target.activation, abs=1e-3)

    at = found.target.token
    one_layer = here.client.sae.provenance(
        str(target), token_ids=list(ids), saes=[f"{RELEASE}/layer_3"], token=at, top=4, integrated=3
    )
    assert_same(one_layer, provenance(model, saes[1:], target, ids, at, top=4, integrated=3))
    assert len(one_layer.edges) <= 4


def test_a_span_is_followed_as_well(here: Here) -> None:
    given, said = TEXT[:40], TEXT[40:]
    read = here.client.sae.encode(
        EncodeRequest(input=given, output=said, saes=(f"{RELEASE}/layer_3",), per_token=False)
    )
    feature = read.saes[0].peaks[0].index
    found = here.client.sae.provenance(f"{RELEASE}/layer_3/{feature}", input=given, output=said)
    assert found.target.token == read.saes[0].peaks[0].position
    assert [share.layer for share in found.layers] == [1]


def test_what_cannot_be_followed_back_is_refused(here: Here, feature: int) -> None:
    ask, name = here.client.sae.provenance, f"{RELEASE}/layer_5/{feature}"
    for wrong in (f"{RELEASE}/layer_5/999999", "f_5_999999", f"{RELEASE}/layer_9/1", "nobody/knows/3", "f_2_7"):
        with pytest.raises(UnknownNameError):
            ask(wrong, TEXT)
    with pytest.raises(UnknownNameError, match="not served"):
        ask(name, TEXT, model="gpt2-small")
    with pytest.raises(UnknownNameError, match="not served"):
        ask(name, TEXT, saes=["nobody/knows"])
    with pytest.raises(InputError, match="no SAE that reads a layer before"):
        ask("f_1_7", TEXT)
    with pytest.raises(InputError, match="which is not before"):
        ask("f_3_7", TEXT, saes=[f"{RELEASE}/layer_5"])
    with pytest.raises(InputError, match="no SAE that reads a layer before"):
        ask(name, TEXT, saes=[f"{RELEASE}/layer_5"])
    with pytest.raises(InputError, match="does not fire on token 1 "):
        ask(name, "\n\n\n" + TEXT, token=1)
    with pytest.raises(InputError, match="has no token 900"):
        ask(name, TEXT, token=900)
    with pytest.raises(InputError, match="stands for no text"):
        ask(name, TEXT, token=0)
    with pytest.raises(InputError, match="no token id"):
        ask(name, token_ids=[0, 10**6])
    with pytest.raises(InputError, match=f"more than the {MOST_TOKENS:,} through which"):
        ask(name, "x = 1\n" * 2000)
    with pytest.raises(InputError, match="'layer_5'"):
        ask("layer_5", TEXT)


@pytest.mark.parametrize(
    "body",
    [
        {"feature": "f_5_1"},
        {"feature": "", "text": "x"},
        {"feature": "f_5_1", "text": ""},
        {"feature": "f_5_1", "text": "x", "token_ids": [1]},
        {"feature": "f_5_1", "text": "x", "top": 0},
        {"feature": "f_5_1", "text": "x", "top": 101},
        {"feature": "f_5_1", "text": "x", "integrated": 0},
        {"feature": "f_5_1", "text": "x", "integrated": 101},
        {"feature": "f_5_1", "text": "x", "token": -1},
        {"feature": "f_5_1", "text": "x", "saes": []},
        {"feature": "f_5_1", "text": "x", "window": 3},
    ],
)
def test_what_cannot_be_meant_is_422(here: Here, body: dict[str, Any]) -> None:
    asked = httpx.post(
        f"{here.url}/api/v1/provenance", json=body, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
    )
    assert asked.status_code == 422, asked.text
    assert set(asked.json()) == {"error", "hint", "kind"}


def test_statuses(here: Here) -> None:
    sent = {"Authorization": f"Bearer {TOKEN}"}

    def status(feature: str, headers: dict[str, str]) -> int:
        body = {"feature": feature, "text": TEXT}
        return httpx.post(
            f"{here.url}/api/v1/provenance", json=body, headers=headers, trust_env=False, timeout=60
        ).status_code

    assert status("f_5_1", {}) == 401
    assert status(f"{RELEASE}/layer_5/999999", sent) == 404
    assert status("f_1_7", sent) == 422


def test_others_are_answered_in_between(here: Here, feature: int) -> None:
    """A following back is many passes: what is asked meanwhile does not wait for all of them."""
    followed = threading.Event()

    def follow() -> None:
        here.client.sae.provenance(f"f_5_{feature}", TEXT * 4, integrated=40)
        followed.set()

    worker = threading.Thread(target=follow)
    worker.start()
    answered = 0
    while not followed.is_set():
        here.client.sae.encode(EncodeRequest(text="x", saes=(f"{RELEASE}/layer_1",), per_token=False))
        answered += 1
    worker.join()
    assert answered >= 3


def test_saes_of_the_catalogue_and_of_folders(tmp_path: Path, saes: list[LoadedSae], feature: int) -> None:
    """Where the configuration names no SAEs they are those of the feature's release; a folder goes by its own name."""
    folder = tmp_path / "of-a-colleague"
    save_sae(saes[2], folder)
    colleagues = load_sae(str(folder))
    ids = passage_tokens(pico(), Passage(text=TEXT)).ids
    with gateway_here(tmp_path / "catalogue", models=[{"model": "raylens/pico"}]) as here:
        found = here.client.sae.provenance(f"{RELEASE}/layer_5/{feature}", TEXT)
        assert_same(found, provenance(pico(), saes, FeatureId(saes[2].id, feature), ids))
    named = (f"{RELEASE}/layer_1", str(folder))
    with gateway_here(tmp_path / "folders", models=[{"model": "raylens/pico", "saes": named}]) as here:
        target = FeatureId(colleagues.id, feature)
        expected = provenance(pico(), [saes[0], colleagues], target, ids)
        assert_same(here.client.sae.provenance(f"f_5_{feature}", TEXT), expected)
        assert_same(here.client.sae.provenance(str(target), TEXT), expected)


def test_what_does_not_fit_is_refused_and_the_next_is_answered(tmp_path: Path, feature: int) -> None:  # A0.23
    with gateway_here(tmp_path / "workspace", encoder={"threads": 1, "memory_bytes": 150_000_000}) as here:
        with pytest.raises(OutOfMemoryError, match=r"following a feature back needs about .* MB can be had") as error:
            here.client.sae.provenance(f"f_5_{feature}", TEXT * 12, integrated=20)
        assert "memory" in error.value.hint or "shorter" in error.value.hint
        assert here.client.sae.provenance(f"f_5_{feature}", TEXT).edges
