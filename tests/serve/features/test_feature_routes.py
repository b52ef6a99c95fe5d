"""Features over HTTP: lists, searches and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from browsed import PICO, PICO_CACHE, Ask
from raylens.bundle.embedding import embed
from raylens.catalog.lookup import built_in
from raylens.search.features import search
from raylens.store.feature_card import read_card
from raylens.store.reader import CacheReader
from raylens.store.selection import one_feature, readables
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.routes.features import feature_routes
from small_cache import CACHE_ID, D_SAE, SAE


def ids(found: dict[str, Any]) -> list[str]:
    return [one["id"] for one in found["features"]]


# ---------------------------------------------------------------------- lists


def test_a_list_has_the_features_of_the_cache_merged_last(ask: Ask) -> None:
    found = ask("features")
    assert (found["cache_id"], found["saes"]) == (CACHE_ID, [str(SAE)])
    assert (found["total"], found["limit"], found["offset"]) == (D_SAE, 50, 0)
    assert ids(found)[:4] == ["f_3_0", "f_3_1", "f_3_2", "f_3_3"]
    one = found["features"][1]
    assert one["feature_id"] == f"{SAE}/1"
    assert (one["index"], one["layer"], one["density"], one["max_activation"]) == (1, 3, 0.15, 4.0)
    assert one["promotes"] == [" top0", " top1"]
    assert (one["explanation"], one["explainer"], one["score"]) == ("requests for the second word", "default", 0.5)
    assert (one["label"], one["author"], one["bucket"]) == ("word two", "ann", "unknown")
    detection = next(figure for figure in one["scores"] if figure["scorer"] == "detection")
    assert (detection["value"], detection["ci_low"], detection["ci_high"], detection["n"]) == (0.75, 0.5, 0.9, 10)


def test_a_list_is_sorted_filtered_and_paged_where_it_is_kept(ask: Ask) -> None:
    assert ids(ask("features", limit=2, offset=1)) == ["f_3_1", "f_3_2"]
    assert ids(ask("features", sort="index", order="asc", limit=2)) == ["f_3_0", "f_3_1"]
    assert ids(ask("features", explained=True, sort="score")) == ["f_3_1", "f_3_2"]
    assert ids(ask("features", bucket="safety")) == ["f_3_2"]
    assert ids(ask("features", min_score=0.5, max_density=0.1)) == ["f_3_2"]
    assert ids(ask("features", min_density=0.12, dead=False)) == ["f_3_0", "f_3_1"]
    assert ask("features", dead=True)["total"] == D_SAE - 4
    assert ask("features", offset=1000)["features"] == []
    of_pico = ask("features", sae=str(PICO))
    assert (of_pico["cache_id"], of_pico["total"]) == (PICO_CACHE, D_SAE)
    assert ask("features", cache="tiny", status=404)["error"].startswith("'tiny' names 2 caches")
    assert ask("features", cache=PICO_CACHE[:4])["saes"] == [str(PICO)]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"sae": "layer_33"}, 404, "layer_3"),
        ({"sae": "layer_3"}, 404, f"{PICO}, {SAE}"),
        ({"cache": "nothing"}, 404, "there are tiny"),
        ({"limit": 0}, 422, "limit"),
        ({"limit": 501}, 422, "limit"),
        ({"offset": -1}, 422, "offset"),
        ({"sort": "beauty"}, 422, "sort"),
        ({"bucket": "other"}, 422, "bucket"),
        ({"min_density": "nan"}, 422, "min_density"),
        ({"min_density": 2}, 422, "min_density"),
    ],
)
def test_what_cannot_be_listed_is_said(ask: Ask, query: dict[str, Any], status: int, said: str) -> None:
    found = ask("features", status=status, **query)
    assert set(found) == {"error", "hint", "kind"}
    assert said in found["error"] + found["hint"]


# ---------------------------------------------------------------------- searches


def test_a_search_finds_what_the_library_finds(ask: Ask, workspace: Workspace) -> None:
    for mode, by in (("meaning", embed), ("words", None)):
        expected = search(workspace, workspace.cache(CACHE_ID), [SAE], "harmful word", by, limit=5)
        found = ask("features/search", q="harmful word", mode=mode, limit=5)
        assert found["total"] == expected.n_features >= 1
        keys = ("index", "text", "score", "similarity", "words")
        assert [tuple(one[key] for key in keys) for one in found["hits"]] == [
            (hit.feature, hit.text, hit.score, hit.similarity, hit.words) for hit in expected.hits
        ]
    assert found["hits"][0]["id"] == "f_3_2"
    assert found["hits"][0]["bucket"] == "safety"
    assert found["hits"][0]["similarity"] is None, "by words alone"
    people = ask("features/search", q="two", mode="words")["hits"]
    assert [(one["explainer"], one["author"]) for one in people] == [("human", "ann")]
    assert ask("features/search", q="two", offset=1, mode="words")["hits"] == []
    assert ask("features/search", q="zzzz", mode="words") == {
        "hits": [],
        "total": 0,
        "limit": 20,
        "offset": 0,
        "cache_id": CACHE_ID,
        "saes": [str(SAE)],
    }


@pytest.mark.parametrize("query", [{}, {"q": ""}, {"q": "x" * 1001}, {"q": "  "}, {"q": "x", "mode": "smell"}])
def test_what_cannot_be_searched_is_said(ask: Ask, query: dict[str, Any]) -> None:
    assert set(ask("features/search", status=422, **query)) == {"error", "hint", "kind"}


# ---------------------------------------------------------------------- one feature


# A0.16
@pytest.mark.parametrize("name", [f"{SAE}/1", "tiny-res%2Flayer_3%2F1"])
def test_a_page_has_what_the_command_line_shows(ask: Ask, workspace: Workspace, name: str) -> None:
    found = ask(f"features/{name}")
    one, index = one_feature(readables(workspace, CACHE_ID), "f_3_1")
    reader = CacheReader(workspace, CACHE_ID)
    card = read_card(workspace, reader, one, index)
    reader.close()
    document = card.document()
    assert (found["id"], found["feature_id"], found["cache_id"]) == ("f_3_1", f"{SAE}/1", CACHE_ID)
    assert (found["hook"], found["model"], found["neuronpedia_url"]) == ("resid_post.3", "raylens/tiny", None)
    statistics = document["statistics"]
    for key in ("n_active", "n_windows", "n_tokens", "density", "mean_activation", "max_activation"):
        assert found["statistics"][key] == statistics[key], key
    assert found["statistics"]["histogram"]["counts"] == statistics["histogram"]["counts"]
    assert sum(found["statistics"]["histogram"]["counts"]) == 3
    assert len(found["statistics"]["histogram"]["edges"]) == len(found["statistics"]["histogram"]["counts"]) + 1
    assert found["promotes"] == document["logits"]["top"]
    assert found["suppresses"] == document["logits"]["bottom"]
    assert [(each["id"], each["value"]) for each in found["neighbours"]] == [
        (each["id"], each["cosine"]) for each in document["neighbours"]
    ]
    assert [each["explanation"] for each in found["explanations"]] == [
        each["explanation"] for each in document["explanations"]
    ]
    person, explained = found["explanations"]
    assert (person["explainer"], person["author"], person["figures"]) == ("human", "ann", [])
    assert explained["bucket"] == "intent"
    assert {(each["scorer"], each["judge"], each["metric"], each["value"]) for each in explained["figures"]} == {
        ("detection", "llm", "f1", 0.75),
        ("surprisal", None, "gain", 0.25),
    }
    assert [each["note"] for each in found["notes"]] == ["look at this"]


def test_what_is_said_and_measured_comes_alone_too(ask: Ask) -> None:
    assert (
        ask("features/tiny-res/layer_3/1/explanations")["explanations"]
        == ask("features/tiny-res/layer_3/1")["explanations"]
    )
    scores = ask("features/tiny-res/layer_3/1/scores")["scores"]
    assert [(one["scorer"], one["control"], one["value"]) for one in scores] == [
        ("detection", None, 0.75),
        ("detection", "shuffled", 0.1),
        ("surprisal", None, 0.25),
    ]
    assert {(one["explanation_id"], one["explainer"]) for one in scores} == {("e1", "default")}
    assert ask("features/tiny-res/layer_3/7/scores")["scores"] == []
    assert ask("features/tiny-res/layer_3/7/explanations")["explanations"] == []


@pytest.mark.parametrize(
    ("query", "windows"),
    [
        ({}, [3, 2, 1, 0]),
        ({"limit": 2}, [3, 2]),
        ({"kind": "interval", "interval": "2:4"}, [2, 1]),
        ({"kind": "interval", "interval": ":3"}, [1, 0]),
        ({"kind": "quantile", "quantile": "1/2"}, [1, 0]),
        ({"kind": "quantile", "quantile": "2/2"}, [3, 2]),
        ({"kind": "random"}, [3, 2, 1, 0]),
    ],
)
def test_windows_are_those_asked_for(ask: Ask, workspace: Workspace, query: dict[str, Any], windows: list[int]) -> None:
    found = ask("features/tiny-res/layer_3/0/examples", **query)
    assert [one["window_id"] for one in found["windows"]] == windows
    reader = CacheReader(workspace, CACHE_ID)
    top = {example.window_id: example for example in reader.examples(reader.top_windows(SAE, 0, 10))}
    reader.close()
    for one in found["windows"]:
        example = top[one["window_id"]]
        assert (one["peak"], one["source"], one["path"]) == (example.peak, example.source, example.path)
        assert one["tokens"] == list(example.tokens)
        assert one["activations"] == example.activations.tolist()
        assert found["low"] <= one["peak"]
        assert found["high"] is None or one["peak"] < found["high"]
    assert ask("features/tiny-res/layer_3/9/examples", **query)["windows"] == [], "it is dead"


@pytest.mark.parametrize(
    "query",
    [
        {"kind": "interval", "interval": "4:2"},
        {"kind": "interval", "interval": "x"},
        {"kind": "quantile", "quantile": "3/2"},
        {"kind": "quantile", "quantile": "1/99999999999999999999"},
        {"kind": "best"},
        {"limit": 0},
    ],
)
def test_windows_that_cannot_be_are_refused(ask: Ask, query: dict[str, Any]) -> None:
    assert ask("features/tiny-res/layer_3/0/examples", status=422, **query)["error"]


# A0.16
def test_a_short_name_of_two_features_lists_both(ask: Ask) -> None:
    found = ask("features/f_3_1", status=422)
    assert found["error"] == "f_3_1 names 2 features."
    assert f"{PICO}/1" in found["hint"]
    assert f"{SAE}/1" in found["hint"]
    assert ask("features/f_3_1", cache=CACHE_ID)["feature_id"] == f"{SAE}/1"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        (f"{SAE}/{D_SAE}", 404, "0 to 11"),
        (f"{SAE}/99999999999", 422, "is not a feature id"),
        ("tiny-res/layer_4/1", 404, f"{SAE}"),
        ("f_4_1", 404, "there is 3"),
        ("f_3_", 422, "f_3_17"),
        ("nothing", 422, "<sae>/<index>"),
        (f"{SAE}/-1", 422, "is not a feature id"),
        (f"{SAE}/١", 422, "is not a feature id"),
        (f"{'9' * 1300}", 422, "is not a feature id"),
    ],
)
def test_what_names_no_feature_is_said(ask: Ask, name: str, status: int, said: str) -> None:
    for path in ("", "/examples", "/explanations", "/scores", "/labels"):
        found = ask(f"features/{name}{path}", status=status)
        assert set(found) == {"error", "hint", "kind"}
        assert said in found["error"] + found["hint"]
    assert ask(f"features/{name}/activate", json={"text": "x"}, status=status)["error"] == found["error"]
    assert ask(f"features/{name}/labels", json={"author": "a", "star": True}, status=status)["error"] == found["error"]


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=40), st.sampled_from(["", "/examples", "/scores"]))
def test_any_name_is_answered(ask_any: Callable[[str], int], name: str, path: str) -> None:
    assert ask_any(f"features/{quote(name, safe='')}{path}") in (200, 404, 422)


@pytest.fixture(scope="module")
def ask_any(workspace: Workspace) -> Iterator[Callable[[str], int]]:
    app = FastAPI()
    problems.install(app)
    app.include_router(feature_routes(workspace, built_in(), None))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield lambda path: client.get(f"/api/v1/{path}").status_code


def test_a_page_that_is_asked_for_again_opens_nothing(
    workspace: Workspace, asking_of: Callable[[Workspace], Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = asking_of(workspace)
    first = ask("features/tiny-res/layer_3/1")
    windows = ask("features/tiny-res/layer_3/1/examples")

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("raylens.store.reader.TableFile", opened)
    monkeypatch.setattr("raylens.store.findings_index.TableFile", opened)
    monkeypatch.setattr("raylens.labels.own_features.CacheReader", opened)
    assert ask("features/tiny-res/layer_3/1") == first
    assert ask("features/tiny-res/layer_3/1/examples") == windows
