"""Neuronpedia's routes: their shapes, and what they say against the whole model and every latent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from browsed import PICO, Ask, asking, encoder_here, make_browsed
from dense_codes import codes, ids_of
from neuronpedia import SOURCE, explanation, page
from raylens.catalog.lookup import built_in
from raylens.ids import FeatureId
from raylens.labels.explanations import read_page
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, local_source
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.label_server import LabelServer, label_app
from raylens_serve.neuronpedia_names import SourceNames
from raylens_serve.routes.neuronpedia import neuronpedia_routes
from small_cache import CACHE_ID, D_SAE, SAE

OWN = NeuronpediaId("tiny", "3-tiny-res--layer_3")
MODEL = "pico"
LAYER_1 = "1-raylens-pico-res--layer_1"
LAYER_3 = "3-raylens-pico-res--layer_3"
SAES = {LAYER_1: "raylens-pico-res/layer_1", LAYER_3: "raylens-pico-res/layer_3"}
TEXT = "class Circle:\n    def area(self):\n        return math.pi * self.radius ** 2\n"
CLOSE = 2e-4


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = make_browsed(tmp_path_factory.mktemp("neuronpedia") / "workspace")
    # As a cache of pico says: its features then go by the names that they have everywhere.
    for cache_id in workspace.caches():
        info = workspace.cache(cache_id).info()
        if cache_id != CACHE_ID:
            workspace.cache(cache_id).write_info(info | {"model": "raylens/pico"})
    with LabelStore(workspace.files) as store:
        store.put_page(SOURCE, 7, read_page(page(7, explanation("dates")), SOURCE, 7), "export")
    return Path(workspace.url)


@pytest.fixture(scope="module")
def workspace(made_once: Path) -> Workspace:
    return Workspace.open(made_once)


@pytest.fixture(scope="module")
def ask(workspace: Workspace) -> Iterator[Ask]:
    with asking(neuronpedia_routes(workspace, built_in(), encoder_here(workspace)), "/api") as found:
        yield found


def refused(found: dict[str, Any]) -> str:
    """The one sentence of an error, as Neuronpedia has it."""
    assert list(found) == ["error"]
    return found["error"]


def test_names_are_those_of_the_workspace_the_bundle_and_the_catalogue(workspace: Workspace) -> None:
    features = WorkspaceFeatures(workspace, built_in())
    names = SourceNames(features)
    near = names.near(MODEL)
    assert {one.source.source for one in near} >= {LAYER_1, LAYER_3}
    assert {one.model for one in near} == {"raylens/pico"}
    for layer, sae in SAES.items():
        found = names.find(MODEL, layer)
        assert (str(found.sae), found.model) == (sae, "raylens/pico")
        assert str(found.source) == f"{MODEL}/{layer}" == str(local_source(found.sae, "raylens/pico", int(layer[0])))
    gemma = names.find(SOURCE.model, SOURCE.source)
    assert (gemma.sae.release, gemma.model) == ("gemma-scope-2b-pt-res", "google/gemma-2-2b")
    canonical = "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical"
    assert str(SourceNames(features, [canonical]).find(SOURCE.model, SOURCE.source).sae) == canonical, (
        "the same weights"
    )
    assert gemma.is_of("gemmascope-res-16k")
    assert not gemma.is_of("gemmascope-res-65k")
    features.close()


# A2.11
def test_pages_and_sources_are_those_of_the_label_server(ask: Ask, workspace: Workspace) -> None:
    with LabelServer(label_app(workspace, token="")) as server, httpx.Client(trust_env=False) as http:
        assert ask("sources") == http.get(f"{server.url}/sources").json()
        for path in (f"{OWN}/1", f"{OWN}/9", f"{MODEL}/{LAYER_3}/2", f"{SOURCE}/7"):
            found = ask(f"feature/{path}")
            assert found == http.get(f"{server.url}/feature/{path}").json()
            assert isinstance(found["explanations"], list)
    listed = {f"{one['modelId']}/{one['source']}": one["sae"] for one in ask("sources")["sources"]}
    assert listed == {str(OWN): str(SAE), f"{MODEL}/{LAYER_3}": str(PICO), str(SOURCE): None}
    one = ask(f"feature/{OWN}/1")
    read_page(one, OWN, 1)
    assert (one["modelId"], one["layer"], one["index"]) == (OWN.model, OWN.source, "1")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"feature/{OWN}/{D_SAE}", 404, "nothing is known"),
        ("feature/other/3-x/1", 404, "nothing is known"),
        (f"feature/{OWN}/minus", 400, "no index of a feature"),
        (f"feature/{OWN}/-1", 400, "no index of a feature"),
        ("feature/a%20b/3-x/1", 400, "letters, digits"),
    ],
)
def test_features_that_are_not_there(ask: Ask, path: str, status: int, said: str) -> None:
    assert said in refused(ask(path, status=status))


# ---------------------------------------------------------------------- explanation/search


def test_explanations_are_found_by_what_they_say(ask: Ask) -> None:
    found = ask("explanation/search", json={"modelId": OWN.model, "layers": [OWN.source], "query": "harmful words"})
    assert set(found) == {"results", "resultsCount", "hasMore", "nextOffset"}
    assert (found["resultsCount"], found["hasMore"], found["nextOffset"]) == (len(found["results"]), False, 2)
    first = found["results"][0]
    assert (first["description"], first["typeName"]) == ("harmful words", "raylens_default")
    assert first["cosine_similarity"] == pytest.approx(1.0, abs=1e-2)
    assert (first["neuron"]["modelId"], first["neuron"]["layer"], first["neuron"]["index"]) == (
        OWN.model,
        OWN.source,
        "2",
    )
    assert first["neuron"]["activations"][0]["maxValue"] == 4.0
    both = {"modelId": OWN.model, "layers": [OWN.source, OWN.source], "query": "second", "offset": 1}
    assert ask("explanation/search", json=both)["nextOffset"] == 2
    beyond = ask("explanation/search", json=both | {"offset": 50})
    assert (beyond["results"], beyond["hasMore"]) == ([], False)


def test_pages_of_explanations_follow_one_another(made_once: Path, tmp_path: Path) -> None:
    shutil.copytree(made_once, tmp_path / "own")
    own = Workspace.open(tmp_path / "own")
    people = Labels(own)
    for index in range(D_SAE):
        for sae in (SAE, PICO):
            people.say(FeatureId(sae, index), "ann", label=f"the word number {index}")
    with asking(neuronpedia_routes(own, built_in(), None), "/api") as ask:
        asked = {"modelId": MODEL, "layers": [LAYER_3], "query": "the word number"}
        whole = ask("explanation/search", json=asked)
        assert (whole["resultsCount"], whole["hasMore"]) == (D_SAE, False)
        assert whole["results"][0]["typeName"] == "human"
        rest = ask("explanation/search", json=asked | {"offset": 5})
        assert rest["results"] == whole["results"][5:]


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"query": "ab"}, 400, "query"),
        ({"layers": []}, 400, "layers"),
        ({"layers": ["9-x"]}, 404, str(OWN)),
        ({"modelId": "other"}, 404, "unknown source"),
        ({"offset": -1}, 400, "offset"),
        ({"modelId": 7}, 400, "modelId"),
    ],
)
def test_searches_that_cannot_be(ask: Ask, more: dict[str, Any], status: int, said: str) -> None:
    asked = {"modelId": OWN.model, "layers": [OWN.source], "query": "words"}
    assert said in refused(ask("explanation/search", json=asked | more, status=status))


# ---------------------------------------------------------------------- search-all


def dense(text: str = TEXT) -> dict[str, NDArray[np.float32]]:
    """``[tokens, d_sae]`` by source."""
    return {layer: codes(text, sae) for layer, sae in SAES.items()}


def best(ranked: dict[str, NDArray[np.float32]], n: int) -> list[tuple[str, int, float]]:
    """The ``n`` largest figures of features, those above 0."""
    found = [(layer, int(at), float(row[at])) for layer, row in ranked.items() for at in np.flatnonzero(row > 0)]
    return sorted(found, key=lambda one: (-one[2], one[0], one[1]))[:n]


def same_ranking(found: list[dict[str, Any]], ranked: dict[str, NDArray[np.float32]], n: int) -> None:
    """In order of the figures, and none left out, whatever the last digits of two near ones are."""
    right = best(ranked, n)
    assert len(found) == len(right)
    figures = [float(ranked[one["layer"]][int(one["index"])]) for one in found]
    np.testing.assert_allclose(figures, [one[2] for one in right], atol=CLOSE)
    assert len({(one["layer"], one["index"]) for one in found}) == len(found)


@pytest.mark.parametrize(
    "chosen",
    [
        {"sourceSet": "raylens-pico-res", "selectedLayers": [LAYER_1, LAYER_3]},
        {"selectedLayers": [LAYER_3]},
        {"sourceSet": "raylens-pico-res--layer_1"},
        {"sourceSet": "raylens-pico-res"},
    ],
    ids=["two layers", "one layer", "a set of one", "a release"],
)
def test_the_features_that_fire_most_on_a_text(ask: Ask, chosen: dict[str, Any]) -> None:
    asked = {"modelId": MODEL, "text": TEXT, "numResults": 30, "ignoreBos": True, "sortIndexes": [], **chosen}
    found = ask("search-all", json=asked)
    assert set(found) == {"tokens", "result"}
    assert len(found["tokens"]) == len(ids_of(TEXT))
    every = dense()
    of_set = [one for one in every if chosen.get("sourceSet", "") in SAES[one].replace("/", "--")]
    layers = chosen.get("selectedLayers") or of_set
    same_ranking(found["result"], {layer: every[layer][1:].max(axis=0) for layer in layers}, 30)
    for one in found["result"]:
        values = every[one["layer"]][:, int(one["index"])]
        assert set(one) == {"modelId", "layer", "index", "values", "maxValue", "maxValueIndex"}
        assert (one["modelId"], type(one["index"])) == (MODEL, str)
        np.testing.assert_allclose(one["values"], values, atol=CLOSE)
        assert one["maxValue"] == pytest.approx(float(values[1:].max()), abs=CLOSE)
        assert one["values"][one["maxValueIndex"]] == one["maxValue"]
        assert one["maxValueIndex"] > 0


def test_tokens_may_say_what_comes_first(ask: Ask) -> None:
    every = dense()
    for places in ([3], [5, 9, 5]):
        asked = {"modelId": MODEL, "text": TEXT, "selectedLayers": [LAYER_3], "sortIndexes": places, "numResults": 20}
        found = ask("search-all", json=asked)
        sums = every[LAYER_3][sorted(set(places))].sum(axis=0)
        same_ranking(found["result"], {LAYER_3: sums}, 20)
    beyond = asked | {"sortIndexes": [10_000]}
    assert "there is no token 10000" in refused(ask("search-all", json=beyond, status=400))


def test_dense_features_may_be_left_out(ask: Ask) -> None:
    """By the density that a cache has of them; of 12 features here, 0 … 3 fire on 5 to 20 % of its tokens."""
    asked = {"modelId": MODEL, "text": TEXT, "selectedLayers": [LAYER_3], "numResults": 100}
    whole = [int(one["index"]) for one in ask("search-all", json=asked)["result"]]
    sparse = [int(one["index"]) for one in ask("search-all", json=asked | {"densityThreshold": 0.01})["result"]]
    assert set(sparse).isdisjoint(range(4))
    assert [one for one in whole if one not in range(4)] == sparse[: len([one for one in whole if one not in range(4)])]
    assert [int(one["index"]) for one in ask("search-all", json=asked | {"densityThreshold": -1})["result"]] == whole


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"text": ""}, 400, "text"),
        ({"numResults": 101}, 400, "numResults"),
        ({"modelId": "other"}, 404, "unknown"),
        ({"sourceSet": "nothing"}, 404, "raylens-pico-res--layer_3"),
        ({"selectedLayers": ["9-x"]}, 404, "unknown source"),
        ({"modelId": SOURCE.model, "selectedLayers": [SOURCE.source]}, 404, "gemma"),
        ({"modelId": OWN.model, "selectedLayers": [OWN.source]}, 404, "tiny"),
    ],
)
def test_texts_that_cannot_be_searched(ask: Ask, more: dict[str, Any], status: int, said: str) -> None:
    assert said in refused(ask("search-all", json={"modelId": MODEL, "text": TEXT} | more, status=status))


# ---------------------------------------------------------------------- search-topk-by-token, activation/new


@pytest.mark.parametrize("n", [1, 5, 20])
def test_the_features_of_each_token(ask: Ask, n: int) -> None:
    found = ask("search-topk-by-token", json={"modelId": MODEL, "source": LAYER_3, "text": TEXT, "numResults": n})
    every = dense()[LAYER_3]
    assert list(found) == ["results"]
    assert [one["position"] for one in found["results"]] == list(range(len(every)))
    assert "".join(one["token"] for one in found["results"][1:]) == TEXT
    assert found["results"][0]["topFeatures"] == [], "BOS stands for no text"
    for one, row in zip(found["results"][1:], every[1:], strict=True):
        values = [top["activationValue"] for top in one["topFeatures"]]
        np.testing.assert_allclose(values, np.sort(row[row > 0])[::-1][:n], atol=CLOSE)
        for top in one["topFeatures"]:
            assert set(top) == {"activationValue", "featureIndex", "feature"}
            assert top["activationValue"] == pytest.approx(float(row[top["featureIndex"]]), abs=CLOSE)
            feature = top["feature"]
            assert (feature["modelId"], feature["layer"]) == (MODEL, LAYER_3)
            assert feature["index"] == str(top["featureIndex"])
            assert isinstance(feature["explanations"], list)


def test_the_features_of_each_token_without_dense_ones(ask: Ask) -> None:
    asked = {"modelId": MODEL, "source": LAYER_3, "text": TEXT, "numResults": 20, "densityThreshold": 0.01}
    found = ask("search-topk-by-token", json=asked)
    shown = {top["featureIndex"] for one in found["results"] for top in one["topFeatures"]}
    assert shown
    assert shown.isdisjoint(range(4))


def test_what_a_feature_beside_a_token_says(made_once: Path, tmp_path: Path) -> None:
    every = dense()[LAYER_3]
    held = int(every[1:, :D_SAE].max(axis=0).argmax())  # of those that the cache holds
    shutil.copytree(made_once, tmp_path / "own")
    own = Workspace.open(tmp_path / "own")
    Labels(own).say(FeatureId(PICO, held), "ann", label="circles")
    with asking(neuronpedia_routes(own, built_in(), encoder_here(own)), "/api") as ask:
        found = ask("search-topk-by-token", json={"modelId": MODEL, "source": LAYER_3, "text": TEXT, "numResults": 20})
    tops = [top["feature"] for one in found["results"] for top in one["topFeatures"]]
    mine = [one for one in tops if one["index"] == str(held)]
    if every[1:, held].max() > 0 and mine:
        assert mine[0]["explanations"][0]["description"] == "circles"
        assert set(mine[0]) >= {"frac_nonzero", "maxActApprox"}


@pytest.mark.parametrize("index", [0, "11", 2000])
def test_a_feature_on_ones_own_text(ask: Ask, index: int | str) -> None:
    feature = {"modelId": MODEL, "source": LAYER_3, "index": index}
    found = ask("activation/new", json={"feature": feature, "customText": TEXT, "more": "is ignored"})
    assert set(found) == {"tokens", "values", "maxValue", "maxValueTokenIndex"}
    values = dense()[LAYER_3][:, int(index)]
    np.testing.assert_allclose(found["values"], values, atol=CLOSE)
    assert found["maxValue"] == pytest.approx(float(values[1:].max()), abs=CLOSE)
    assert found["values"][found["maxValueTokenIndex"]] == found["maxValue"]


@pytest.mark.parametrize(
    ("feature", "status", "said"),
    [
        ({"modelId": MODEL, "source": LAYER_3, "index": 2048}, 404, "2048"),
        ({"modelId": MODEL, "source": LAYER_3, "index": "x"}, 400, "index"),
        ({"modelId": MODEL, "source": LAYER_3, "index": -1}, 400, "index"),
        ({"modelId": MODEL, "source": "9-x", "index": 1}, 404, "unknown source"),
        ({"modelId": MODEL, "source": LAYER_3}, 400, "index"),
    ],
)
def test_features_that_cannot_be_read(ask: Ask, feature: dict[str, Any], status: int, said: str) -> None:
    assert said in refused(ask("activation/new", json={"feature": feature, "customText": TEXT}, status=status))


def test_without_a_model_the_rest_works(workspace: Workspace) -> None:
    with asking(neuronpedia_routes(workspace, built_in(), None), "/api") as ask:
        assert ask(f"feature/{OWN}/1")["explanations"]
        assert ask("explanation/search", json={"modelId": OWN.model, "layers": [OWN.source], "query": "words"})
        for path, body in (
            ("search-all", {"modelId": MODEL, "text": TEXT}),
            ("search-topk-by-token", {"modelId": MODEL, "source": LAYER_3, "text": TEXT}),
            ("activation/new", {"feature": {"modelId": MODEL, "source": LAYER_3, "index": 1}, "customText": TEXT}),
        ):
            assert "no model is served" in refused(ask(path, json=body, status=400))


def test_what_is_no_json_is_an_error_of_the_same_form(workspace: Workspace) -> None:
    app = FastAPI()
    problems.install(app)
    app.include_router(neuronpedia_routes(workspace, built_in(), None))
    with TestClient(app, raise_server_exceptions=False) as client:
        for body in (b"{", b"[]", b"\xff", b"null", b'"x"'):
            answer = client.post("/api/search-all", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400
            assert list(answer.json()) == ["error"]


def test_a_damaged_file_is_an_error_of_the_same_form(made_once: Path, tmp_path: Path) -> None:
    shutil.copytree(made_once, tmp_path / "own")
    own = Workspace.open(tmp_path / "own")
    manifest = own.cache(CACHE_ID).manifest()
    assert manifest is not None
    entry = next(manifest.of("feature_stats", SAE))
    own.files.commit(entry.path, b"PAR1 not at all")
    with asking(neuronpedia_routes(own, built_in(), None), "/api") as ask:
        assert entry.path in refused(ask(f"feature/{OWN}/1", status=500))
