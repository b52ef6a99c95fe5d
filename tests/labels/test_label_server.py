"""The local endpoint over real HTTP, and the client against it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from neuronpedia import SOURCE, explanation, page
from raylens import schema
from raylens.catalog.lookup import built_in
from raylens.errors import InputError
from raylens.ids import FeatureId
from raylens.labels.client import LabelClient
from raylens.labels.explanations import read_page
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.labels.own_features import OwnFeatures
from raylens.labels.settings import LabelSettings
from raylens.store.findings import Findings
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_serve.label_server import LabelServer, label_app
from small_cache import CACHE_ID, D_SAE, SAE, make_cache

OWN = NeuronpediaId("tiny", "3-tiny-res--layer_3")


def explain(workspace: Workspace, feature: int, text: str | None) -> None:
    cache = workspace.cache(CACHE_ID)
    row = {"feature": feature, "explanation_id": f"e{feature}", "run_id": "r1", "explainer": "default", "model": "llm"}
    row |= {"explanation": text, "status": "ok" if text else "failed", "created_at": datetime(2026, 1, 2, tzinfo=UTC)}
    table = pa.Table.from_pylist([row], schema.EXPLANATIONS)
    Findings(cache, SAE, "explanations", {"explainer": "default", "only": feature}).write([feature], table)
    figures = [("fuzz", "f1", None, 0.75), ("fuzz", "accuracy", None, 0.8), ("fuzz", "f1", "shuffled", 0.1)]
    figures += [("surprisal", "gain", None, 0.25), ("recall", "f1", None, None)]
    rows = [
        {"feature": feature, "explanation_id": f"e{feature}", "run_id": "r2", "explainer": "default", "scorer": scorer}
        | {"judge": "llm", "control": control, "metric": metric, "value": value, "n": 10, "n_failed": 0}
        for scorer, metric, control, value in figures
    ]
    scores = Findings(cache, SAE, "scores", {"only": feature})
    scores.write([feature], pa.Table.from_pylist(rows, schema.SCORES))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a merged cache, explained and labelled; tests get copies of it."""
    folder = tmp_path_factory.mktemp("labelled") / "workspace"
    workspace = Workspace.open(folder, create=True)
    make_cache(workspace)
    explain(workspace, 1, "fires on the second word")
    explain(workspace, 2, None)
    Labels(workspace).say(FeatureId(SAE, 1), "ann", label="word two")
    return folder


@pytest.fixture
def cached(made_once: Path, tmp_path: Path) -> Workspace:
    """A workspace of the test's own."""
    shutil.copytree(made_once, tmp_path / "cached")
    return Workspace.open(tmp_path / "cached")


@contextmanager
def serving(workspace: Workspace, **more: Any) -> Iterator[Callable[..., httpx.Response]]:
    """A function that asks the endpoint, by path below its address."""
    with LabelServer(label_app(workspace, **more)) as server, httpx.Client(trust_env=False) as http:
        yield lambda path, **options: http.get(f"{server.url}/{path}", **options)


def test_a_feature_of_the_workspace_is_shown_as_neuronpedia_shows_one(cached: Workspace) -> None:
    with serving(cached) as ask:
        answer = ask(f"feature/{OWN}/1")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["modelId"], found["layer"], found["index"]) == ("tiny", "3-tiny-res--layer_3", "1")
    assert found["hookName"] == "resid_post.3"
    assert found["maxActApprox"] == 4.0
    assert found["frac_nonzero"] == pytest.approx(3 / 20), "windows 1, 2, 3 of 20 text tokens"
    assert sum(found["freq_hist_data_bar_heights"]) == 3
    assert len(found["freq_hist_data_bar_heights"]) == len(found["freq_hist_data_bar_values"])
    assert found["freq_hist_data_bar_values"][0] <= 2.0 < found["freq_hist_data_bar_values"][-1] <= 4.0
    assert (found["pos_str"], found["pos_values"]) == ([" top0", " top1"], [2.0, 2.0])
    assert (found["neg_str"], found["neg_values"]) == ([" bottom0", " bottom1"], [-2.0, -2.0])
    assert found["topkCosSimIndices"] == [2, 3]
    assert found["topkCosSimValues"] == [0.5, 0.25]
    assert [one["maxValue"] for one in found["activations"]] == [4.0, 3.0, 2.0]
    first = found["activations"][0]
    assert first["tokens"] == ["", "w1 ", "w2 ", "w3 ", "w4 ", "w5 "]
    assert first["values"] == [0, 0, 4.0, 0, 0, 0]
    assert first["maxValueTokenIndex"] == 2
    assert (first["dataSource"], first["dataIndex"]) == ("stdlib:lib/3.py", "3")
    own, human = found["explanations"]
    assert (own["description"], own["typeName"], own["explanationModelName"]) == (
        "fires on the second word",
        "raylens_default",
        "llm",
    )
    assert {one["explanationScoreTypeName"]: one["value"] for one in own["scores"]} == {
        "raylens_fuzz": 0.75,
        "raylens_surprisal": 0.25,
    }
    fuzz = next(one for one in own["scores"] if one["explanationScoreTypeName"] == "raylens_fuzz")
    assert json.loads(fuzz["jsonDetails"])["metrics"] == {"accuracy": 0.8, "f1": 0.75}
    assert (human["description"], human["typeName"], human["authorName"]) == ("word two", "human", "ann")
    read_page(found, OWN, 1)


def test_every_feature_has_the_fields_dead_ones_too(cached: Workspace) -> None:  # A2.11
    own = OwnFeatures(cached, built_in())
    pages = [own.page(OWN, index) for index in range(D_SAE)]
    keys = [set(one or ()) for one in pages]
    assert all(one == keys[0] for one in keys)
    dead = pages[10]
    assert dead is not None
    assert (dead["maxActApprox"], dead["frac_nonzero"], dead["activations"], dead["explanations"]) == (0.0, 0.0, [], [])
    assert dead["freq_hist_data_bar_heights"] == []
    assert own.page(OWN, D_SAE) is None
    assert own.page(NeuronpediaId("tiny", "4-other"), 0) is None
    failed = pages[2]
    assert failed is not None
    assert failed["explanations"] == [], "a failed explanation is none"


def test_pages_that_are_asked_for_together_are_those_of_each(cached: Workspace) -> None:
    own = OwnFeatures(cached, built_in())
    together = own.pages(OWN, [3, 1, D_SAE + 5, 1, *range(D_SAE), -1], 3)
    assert together == {index: own.page(OWN, index, 3) for index in range(D_SAE)}
    assert any(page["activations"] and page["explanations"] and page["pos_str"] for page in together.values())
    assert own.pages(NeuronpediaId("tiny", "4-other"), [0]) == {}
    assert own.pages(OWN, []) == {}


def test_labels_from_elsewhere_come_with_own_ones_and_alone(cached: Workspace) -> None:  # A2.11
    with LabelStore(cached.files) as store:
        for source, index in ((OWN, 1), (SOURCE, 7)):
            read = read_page(page(index, explanation(f"of {source}"), source=source), source, index)
            store.put_page(source, index, read, "remote")
    with serving(cached) as ask:
        both = ask(f"feature/{OWN}/1").json()
        assert [one["typeName"] for one in both["explanations"]] == ["raylens_default", "human", "oai_token-act-pair"]
        assert both["maxActApprox"] == 4.0, "its own figures, not what was fetched"
        alone = ask(f"feature/{SOURCE}/7").json()
        assert alone["explanations"][0]["description"] == f"of {SOURCE}"
        assert alone["maxActApprox"] == 12.5
        listed = {f"{one['modelId']}/{one['source']}": one["sae"] for one in ask("sources").json()["sources"]}
        assert listed == {str(OWN): str(SAE), str(SOURCE): None}


def test_what_is_written_while_it_runs_is_seen(cached: Workspace) -> None:
    with serving(cached) as ask:
        assert ask(f"feature/{OWN}/3").json()["explanations"] == []
        Labels(cached).say(FeatureId(SAE, 3), "bob", label="new")
        assert ask(f"feature/{OWN}/3").json()["explanations"][0]["description"] == "new"
        assert ask(f"feature/{SOURCE}/7").status_code == 404
        with LabelStore(cached.files) as store:
            store.put_page(SOURCE, 7, read_page(page(7), SOURCE, 7), "remote")
        assert ask(f"feature/{SOURCE}/7").status_code == 200
        make_cache(cached, cache_id="f" * 16, scale=10.0)
        assert ask(f"feature/{OWN}/1").json()["maxActApprox"] == 40.0, "the cache merged last"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"feature/{OWN}/99", 404, "nothing is known of feature 99"),
        ("feature/other/3-x/1", 404, "nothing is known"),
        (f"feature/{OWN}/minus", 400, "no index of a feature"),
        (f"feature/{OWN}/-1", 400, "no index of a feature"),
        (f"feature/{OWN}/99999999999999999999", 400, "no index"),
        ("feature/a%20b/3-x/1", 400, "letters, digits"),
        ("feature/%2e%2e%2f/3-x/1", 404, ""),
        ("feature/tiny", 404, "no such path"),
        ("nothing", 404, "no such path"),
    ],
)
def test_what_cannot_be_answered_is_one_error(cached: Workspace, path: str, status: int, said: str) -> None:
    with serving(cached) as ask:
        answer = ask(path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]


def test_a_damaged_file_is_an_error_that_names_it(cached: Workspace) -> None:
    manifest = cached.cache(CACHE_ID).manifest()
    assert manifest is not None
    entry = next(manifest.of("feature_stats", SAE))
    cached.files.commit(entry.path, b"PAR1 not at all")
    with serving(cached) as ask:
        answer = ask(f"feature/{OWN}/1")
        assert answer.status_code == 500
        assert entry.path in answer.json()["error"]
        assert ask("health").json() == {"status": "ok"}


def test_a_token_is_asked_for_where_one_is_set(cached: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", "let-me-in")
    with serving(cached) as ask:
        for headers in ({}, {"x-api-key": "let-me-out"}, {"x-api-key": ""}):
            refused = ask(f"feature/{OWN}/1", headers=headers)
            assert refused.status_code == 401
            assert "let-me" not in refused.text
            assert "RAYLENS_API_TOKEN" in refused.json()["error"]
        assert ask(f"feature/{OWN}/1", headers={"x-api-key": "let-me-in"}).status_code == 200
    with serving(cached, token="") as ask:
        assert ask(f"feature/{OWN}/1").status_code == 200


def test_only_this_machine_is_answered(cached: Workspace) -> None:
    with LabelServer(label_app(cached)) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/api"
        with httpx.Client(trust_env=False) as http:
            # A page on the web whose name was pointed at this machine names its own host.
            elsewhere = http.get(f"{server.url}/health", headers={"host": "evil.example"})
            assert elsewhere.status_code == 403
            assert http.get(f"{server.url}/health", headers={"host": f"localhost:{server.port}"}).status_code == 200
            assert http.post(f"{server.url}/health").status_code == 405
        with pytest.raises(InputError, match="cannot be used"):
            LabelServer(label_app(cached), server.port)


def test_the_client_reads_the_endpoint_as_it_reads_neuronpedia(
    cached: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint of one workspace labels another, which is frozen then."""
    monkeypatch.setenv("RAYLENS_API_TOKEN", "let-me-in")
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "let-me-in")
    other = Workspace.open(tmp_path / "other", create=True)
    with LabelServer(label_app(cached)) as server:
        settings = LabelSettings(base_url=server.url, mode="remote_fallback", timeout_s=30.0)
        with LabelClient(LabelStore(other.files), settings) as client:
            found = client.labels(OWN, [0, 1, 99])
            assert [one.status for one in found.values()] == ["ok", "ok", "missing"]
            best = found[1].best
            assert best is not None
            assert best.description == "fires on the second word", "scored, as the person's is not"
            assert best.score == pytest.approx(0.5)
            assert client.stopped is None
            mine, theirs = client.page(OWN, 1), OwnFeatures(cached, built_in()).page(OWN, 1)
            assert mine is not None
            assert theirs is not None
            left_out = {"vector"}
            for key in set(theirs) - left_out - {"explanations"}:
                assert mine[key] == theirs[key], key
    with LabelClient(LabelStore(other.files), settings.model_copy(update={"mode": "cache_only"})) as frozen:
        again = frozen.labels(OWN, [0, 1, 99])
    assert again == found


def test_a_wrong_token_stops_the_client(cached: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Workspace.open(tmp_path / "other", create=True)
    said: list[str] = []
    with LabelServer(label_app(cached, token="let-me-in")) as server:
        settings = LabelSettings(base_url=server.url, mode="remote_fallback", timeout_s=30.0)
        with LabelClient(LabelStore(other.files), settings, say=said.append) as client:
            assert client.label(OWN, 1).status == "unknown"
            assert client.stopped is not None
    assert "refused the key" in said[0]


def test_an_sae_that_neuronpedia_has_goes_by_its_name_there(cached: Workspace) -> None:
    own = OwnFeatures(cached, built_in(), given={str(SAE): str(SOURCE)})
    assert set(own.sources()) == {SOURCE}
    found = own.page(SOURCE, 1)
    assert found is not None
    assert found["layer"] == SOURCE.source
    cached.cache(CACHE_ID).write_sae(SAE, {"spec": {"layer": 3, "neuronpedia_id": "tiny/3-res"}})
    assert set(OwnFeatures(cached, built_in()).sources()) == {NeuronpediaId("tiny", "3-res")}
