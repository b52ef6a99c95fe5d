"""Features over HTTP: lists, pages, searches, comparisons, texts of one's own, and what people say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from browsed import PICO, PICO_CACHE, Ask, asking, encoder_here, make_browsed
from dense_codes import codes, ids_of
from explained import explanation, write
from raylens.api.system import ServedModel
from raylens.bundle.embedding import embed
from raylens.catalog.lookup import built_in
from raylens.ids import FeatureId, SaeId
from raylens.labels.feature_pairs import decoder_cosine
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.search.features import search
from raylens.store.feature_card import read_card
from raylens.store.labels import Labels
from raylens.store.reader import CacheReader
from raylens.store.selection import one_feature, readables
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.routes.features import feature_routes
from small_cache import CACHE_ID, D_SAE, SAE, make_cache

TEXT = "def area(radius):\n    return math.pi * radius ** 2\n"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_browsed(tmp_path_factory.mktemp("browsed") / "workspace").url)


@pytest.fixture(scope="module")
def workspace(made_once: Path) -> Workspace:
    """That nobody changes."""
    return Workspace.open(made_once)


@pytest.fixture(scope="module")
def ask(workspace: Workspace) -> Iterator[Ask]:
    with asking(feature_routes(workspace, built_in(), encoder_here(workspace)), "/api/v1") as found:
        yield found


@pytest.fixture
def own(made_once: Path, tmp_path: Path) -> Workspace:
    """One of the test's own."""
    shutil.copytree(made_once, tmp_path / "own")
    return Workspace.open(tmp_path / "own")


@pytest.fixture
def asking_of() -> Iterator[Callable[[Workspace], Ask]]:
    """Routes without an encoder."""
    with ExitStack() as stack:
        yield lambda workspace: stack.enter_context(asking(feature_routes(workspace, built_in(), None), "/api/v1"))


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


# ---------------------------------------------------------------------- comparisons


def test_features_stand_side_by_side(ask: Ask) -> None:
    names = [f"{SAE}/1", f"{SAE}/2", f"{SAE}/9"]
    found = ask("features/compare", params=[("feature", name) for name in names])
    assert [one["feature_id"] for one in found["features"]] == names
    assert found["features"][0] == ask(f"features/{names[0]}")
    pairs = {(one["first"], one["second"]): one for one in found["pairs"]}
    assert list(pairs) == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    first = pairs[names[0], names[1]]
    assert (first["n_first"], first["n_second"], first["n_both"], first["jaccard"]) == (3, 2, 0, 0.0)
    assert first["cosine"] is None, "the weights of this SAE are nowhere"
    assert pairs[names[0], names[2]]["n_second"] == 0


def test_decoder_rows_are_compared_where_there_are_weights(ask: Ask) -> None:
    one, other = (FeatureId(PICO, index) for index in (1, 2))
    found = ask("features/compare", params=[("feature", str(one)), ("feature", str(other)), ("feature", f"{SAE}/1")])
    alike, apart, _ = found["pairs"]
    assert alike["cosine"] == pytest.approx(decoder_cosine(one, other, built_in()))
    assert alike["n_both"] == 0
    assert (apart["cosine"], apart["n_both"], apart["jaccard"]) == (None, None, None), "no cache holds both"


@pytest.mark.parametrize(
    ("names", "status"),
    [([], 422), ([f"{SAE}/1"], 422), ([f"{SAE}/1"] * 9, 422), ([f"{SAE}/1", "f_9_9"], 404), (["a", "b"], 422)],
)
def test_what_cannot_be_compared_is_said(ask: Ask, names: list[str], status: int) -> None:
    assert ask("features/compare", params=[("feature", name) for name in names], status=status)["error"]


# ---------------------------------------------------------------------- texts


def test_a_feature_on_ones_own_text_is_what_the_whole_model_gives(ask: Ask) -> None:
    dense = codes(TEXT, str(PICO))
    for index in range(5):
        found = ask(f"features/{PICO}/{index}/activate", json={"text": TEXT})
        assert (found["model"], found["feature_id"]) == ("raylens/pico", f"{PICO}/{index}")
        assert found["token_ids"] == ids_of(TEXT)
        assert len(found["tokens"]) == len(found["values"]) == len(dense)
        assert found["special"] == [0]
        np.testing.assert_allclose(found["values"], dense[:, index], atol=2e-4)
        peak = dense[1:, index].max()
        assert found["peak"] == pytest.approx(float(peak), abs=2e-4)
        assert (found["position"] is None) == (peak <= 0)
        assert found["position"] is None or dense[found["position"], index] == pytest.approx(float(peak), abs=2e-4)


def test_a_text_may_be_tokens_or_a_span(ask: Ask) -> None:
    name = f"features/{PICO}/3/activate"
    plain = ask(name, json={"text": TEXT})
    assert ask(name, json={"token_ids": ids_of(TEXT)})["values"] == plain["values"]
    turned = ask(name, json={"input": [{"role": "user", "content": "area?"}], "output": TEXT})
    assert "area" in "".join(turned["tokens"])
    long = ask(name, json={"text": "x = 1\n" * 2000})
    assert long["n_dropped"] > 0, "more than the model reads, and that is said"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "give one of text"),
        ({"text": ""}, 422, "text"),
        ({"text": "a", "token_ids": [1]}, 422, "give one of text"),
        ({"text": "a", "sae": "other"}, 422, "sae"),
        ({"token_ids": [10**9]}, 422, "token"),
        ({"text": "a", "model": "gpt-4"}, 404, "pico"),
        ({"text": "a", "model": "raylens/nothing"}, 404, "pico"),
    ],
)
def test_a_text_that_cannot_be_read_is_said(ask: Ask, body: dict[str, Any], status: int, said: str) -> None:
    found = ask(f"features/{PICO}/1/activate", json=body, status=status)
    assert said in found["error"] + found["hint"]


def test_a_feature_of_an_sae_that_is_not_served_is_said(ask: Ask, asking_of: Callable[[Workspace], Ask]) -> None:
    found = ask(f"features/{SAE}/1/activate", json={"text": "a"}, status=404)
    assert "raylens/tiny" in found["error"] + found["hint"]


def test_without_a_model_the_rest_works(workspace: Workspace, asking_of: Callable[[Workspace], Ask]) -> None:
    ask = asking_of(workspace)
    assert ask("features")["total"] == D_SAE
    assert "no model is served" in ask(f"features/{PICO}/1/activate", json={"text": "a"}, status=422)["error"]


# ---------------------------------------------------------------------- people


def test_people_label_star_and_note(own: Workspace, asking_of: Callable[[Workspace], Ask]) -> None:
    ask = asking_of(own)
    name = f"features/{SAE}/4"
    assert ask("features", bucket="tool")["total"] == 0
    said = ask(f"{name}/labels", json={"author": "ann", "label": "JSON keys", "star": True, "note": "see\nthere"})
    assert [(one["label"], one["author"], one["starred"]) for one in said["labels"]] == [("JSON keys", "ann", True)]
    assert [one["note"] for one in said["notes"]] == ["see\nthere"]
    assert ask(f"{name}/labels") == said
    (listed,) = ask("features", bucket="tool")["features"]
    assert (listed["label"], listed["starred"], listed["author"]) == ("JSON keys", True, "ann")
    assert ask(name)["explanations"][0]["explanation"] == "JSON keys"
    assert ask("features/search", q="json", mode="words")["hits"][0]["author"] == "ann"
    ask(f"{name}/labels", json={"author": "bob", "label": "keys"})
    words = Labels(own).read()
    assert [one.label for one in words.labels_of(SAE, 4)] == ["JSON keys", "keys"], "nobody's is overwritten"
    left = ask(
        f"{name}/labels",
        json={"author": "ann", "unlabel": True, "star": False, "unnote": [said["notes"][0]["note_id"]]},
    )
    assert [(one["label"], one["author"]) for one in left["labels"]] == [("keys", "bob")]
    assert left["notes"] == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"author": "ann"}, 422, "nothing to write"),
        ({"label": "x"}, 422, "author"),
        ({"author": "", "label": "x"}, 422, "author"),
        ({"author": "ann", "label": " "}, 422, "must not be empty"),
        ({"author": "ann", "label": "x" * 301}, 422, "300 characters"),
        ({"author": "ann", "label": "\u202edesrever"}, 422, "U+202E"),
        ({"author": "ann", "label": "x", "colour": "red"}, 422, "colour"),
        ({"author": "ann", "unlabel": True}, 404, "has no label of ann"),
        ({"author": "ann", "unnote": ["x"]}, 404, "unknown note"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_written(
    own: Workspace, asking_of: Callable[[Workspace], Ask], body: dict[str, Any], status: int, said: str
) -> None:
    found = asking_of(own)(f"features/{SAE}/2/labels", json=body, status=status)
    assert said in found["error"] + found["hint"]
    assert Labels(own).read().labels_of(SAE, 2) == []


def test_many_who_say_something_at_a_time_are_all_heard(own: Workspace) -> None:

    app = FastAPI()
    app.include_router(feature_routes(own, built_in(), None))

    async def say() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            path = f"/api/v1/features/{SAE}/6/labels"
            bodies = [{"author": f"person {at}", "label": f"label {at}"} for at in range(12)]
            return [one.status_code for one in await asyncio.gather(*(client.post(path, json=body) for body in bodies))]

    assert asyncio.run(say()) == [200] * 12
    assert {one.label for one in Labels(own).read().labels_of(SAE, 6)} == {f"label {at}" for at in range(12)}


# ---------------------------------------------------------------------- SAEs, and what changes


def test_saes_are_those_stored_and_those_there_are(workspace: Workspace) -> None:
    served = [ServedModel(model="google/gemma-2-2b", aliases=(), saes=())]
    with asking(feature_routes(workspace, built_in(), None, served=served), "/api/v1") as ask:
        found = ask("saes")
    assert [(one["sae"], one["cache_id"]) for one in found["stored"]] == [(str(SAE), CACHE_ID), (str(PICO), PICO_CACHE)]
    tiny, pico = found["stored"]
    assert (tiny["cache_name"], tiny["model"], tiny["hook"], tiny["layer"]) == (
        "tiny",
        "raylens/tiny",
        "resid_post.3",
        3,
    )
    assert (tiny["d_sae"], tiny["neuronpedia_id"], tiny["source"]) == (D_SAE, None, "tiny/3-tiny-res--layer_3")
    assert pico["source"].endswith("/3-raylens-pico-res--layer_3")
    gemma = next(one for one in found["offered"] if one["sae"].startswith("gemma-scope-2b-pt-res"))
    assert (gemma["model"], gemma["stored"]) == ("google/gemma-2-2b", False)
    assert gemma["labels_available"] in (True, False)
    with asking(feature_routes(workspace, built_in(), None), "/api/v1") as ask:
        assert {one["model"] for one in ask("saes")["offered"]} <= {"raylens/pico"}


def test_an_empty_workspace_says_so(tmp_path: Path, asking_of: Callable[[Workspace], Ask]) -> None:
    ask = asking_of(Workspace.open(tmp_path / "empty", create=True))
    assert ask("saes") == {"stored": [], "offered": []}
    for path in ("features", "features/search?q=x", "features/f_3_1", f"features/{SAE}/1/examples"):
        assert "there is nothing to read" in ask(path, status=404)["error"]


def test_what_others_merge_and_explain_is_seen(own: Workspace) -> None:
    features = WorkspaceFeatures(own, built_in(), look_every_s=0.0)
    with asking(feature_routes(own, built_in(), None, features=features), "/api/v1") as ask:
        see_what_others_do(own, ask)


def see_what_others_do(own: Workspace, ask: Ask) -> None:
    assert ask("features", explained=True)["total"] == 2
    write(own.cache(CACHE_ID), "two", [explanation(0, "the first word", explanation_id="new")])
    assert ask("features", explained=True)["total"] == 3
    assert ask(f"features/{SAE}/0")["explanations"][0]["explanation"] == "the first word"
    third = SaeId("tiny-res", "layer_9")
    make_cache(own, sae=third, cache_id="1" * 16)
    assert ask(f"features/{third}/1")["sae"] == str(third)
    assert str(third) in {one["sae"] for one in ask("saes")["stored"]}


def test_a_damaged_file_is_an_error_that_names_it(own: Workspace, asking_of: Callable[[Workspace], Ask]) -> None:
    manifest = own.cache(CACHE_ID).manifest()
    assert manifest is not None
    entry = next(manifest.of("feature_stats", SAE))
    own.files.commit(entry.path, b"PAR1 not at all")
    ask = asking_of(own)
    found = ask(f"features/{SAE}/1", status=500)
    assert found["kind"] == "DamagedFileError"
    assert entry.path in found["error"]
    assert ask(f"features/{PICO}/1")["sae"] == str(PICO)
