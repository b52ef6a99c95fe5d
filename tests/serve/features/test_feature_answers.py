"""Features over HTTP: comparisons, texts of one's own, what people say, and what others do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from browsed import PICO, PICO_CACHE, Ask, asking
from dense_codes import codes, ids_of
from explained import explanation, write
from raylens.api.system import ServedModel
from raylens.catalog.lookup import built_in
from raylens.ids import FeatureId, SaeId
from raylens.labels.feature_pairs import decoder_cosine
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_serve.routes.features import feature_routes
from small_cache import CACHE_ID, D_SAE, SAE, make_cache

TEXT = "def area(radius):\n    return math.pi * radius ** 2\n"


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
