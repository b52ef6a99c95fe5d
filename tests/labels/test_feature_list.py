"""Lists of features in DuckDB, against putting the same rows together by hand, one feature at a time."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from explained import explanation, score, write
from raylens.api.features import Sort
from raylens.catalog.lookup import built_in
from raylens.errors import DamagedFileError, UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.labels.best import best
from raylens.labels.buckets import bucket_of
from raylens.labels.explanations import read_explanation
from raylens.labels.feature_list import SORTS, Wanted
from raylens.labels.own_features import OwnFeatures
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, D_SAE, SAE, make_cache

OTHER = SaeId("tiny-res", "layer_4")
WORDS = ("return", "harm", "JSON keys", "a question", "because", "naïve “quotes”", "x" * 40, "", "return")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Several passes over one SAE that overlap, scores of several scorers, and people who say things."""
    workspace = Workspace.open(tmp_path_factory.mktemp("listed") / "workspace", create=True)
    cache = make_cache(workspace)
    dice = random.Random(5)
    for number in range(4):
        explanations: list[dict[str, Any]] = []
        scores: list[dict[str, Any]] = []
        for feature in dice.sample(range(D_SAE), 8):
            for which in dice.sample(("a", "b", "c"), 2):
                text = dice.choice(WORDS)
                about: dict[str, Any] = {"explanation_id": f"{which}{feature}", "explainer": which}
                about["run_id"] = f"explain-{number}"
                about["model"] = dice.choice((None, "llm"))
                if dice.random() < 0.2:
                    about["explanation_id"] = None
                    text = ""
                explanations.append(explanation(feature, text or None, **about))
                for scorer, judge, metric in (
                    ("detection", "one", "f1"),
                    ("detection", "two", "f1"),
                    ("detection", "one", "accuracy"),
                    ("surprisal", None, "gain"),
                    ("simulation", "one", "correlation"),
                ):
                    value = dice.choice((None, 0.25, 0.5, 0.75, -0.5, 1.0))
                    more = {"scorer": scorer, "judge": judge, "metric": metric, "run_id": f"score-{number}"}
                    more["control"] = dice.choice((None, None, "shuffled"))
                    scores.append(score(feature, value, explanation_id=f"{which}{feature}", **more))
        write(cache, f"pass {number}", explanations, scores)
    people = Labels(workspace)
    people.say(FeatureId(SAE, 1), "ann", label="weapons")
    people.say(FeatureId(SAE, 1), "bob", label="tools", star=True)
    people.say(FeatureId(SAE, 5), "bob", star=True)
    people.say(FeatureId(SAE, 6), "bob", note="a note is no label")
    return workspace


@pytest.fixture(scope="module")
def expected(made_once: Workspace) -> list[dict[str, Any]]:
    """The rows by hand, in order of index."""
    return by_hand(made_once)


@pytest.fixture(scope="module")
def listed(made_once: Workspace) -> Iterator[WorkspaceFeatures]:
    """Of the workspace that nobody changes."""
    opened = WorkspaceFeatures(made_once, built_in(), look_every_s=3600.0)
    yield opened
    opened.close()


@pytest.fixture
def said(made_once: Workspace, tmp_path: Path) -> Workspace:
    """One of the test's own."""
    shutil.copytree(made_once.url, tmp_path / "said")
    return Workspace.open(tmp_path / "said")


@pytest.fixture
def features(said: Workspace) -> Iterator[WorkspaceFeatures]:
    opened = WorkspaceFeatures(said, built_in(), look_every_s=0.0)
    yield opened
    opened.close()


def by_hand(workspace: Workspace, sae: SaeId = SAE, place: int = 0) -> list[dict[str, Any]]:
    """The oracle: every feature's page, and its best explanation as the label client chooses it."""
    own = OwnFeatures(workspace, built_in())
    (one,) = own.held(sae)
    people = Labels(workspace).read()
    rows: list[dict[str, Any]] = []
    for index in range(D_SAE):
        statistics = own.reader(one.cache_id).feature(sae, index)
        listed = [it for it in own.explanations_in(one, [index])[index] if it["typeName"] != "human"]
        read = [it for it in map(read_explanation, listed) if it is not None]
        shown = best(read)
        labels = sorted(people.labels_of(sae, index), key=lambda it: it.at)
        label = next((it for it in reversed(labels) if it.label), None)
        text = label.label if label else shown.description if shown else None
        rows.append(
            {
                "sae": place,
                **{key: statistics[key] for key in statistics if key != "histogram"},
                "explanation": shown.description if shown else None,
                "explanation_id": shown.source_id if shown else None,
                "explainer": shown.type_name.removeprefix("raylens_") if shown else None,
                "score": shown.score if shown else None,
                "n_explanations": len(read),
                "label": label.label if label else None,
                "author": label.author if label else None,
                "starred": any(it.starred for it in labels),
                "bucket": bucket_of(text),
            }
        )
    return rows


def close(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(
        math.isclose(found[key], value) if isinstance(value, float) and found[key] is not None else found[key] == value
        for key, value in expected.items()
    )


def test_a_row_has_what_a_feature_of_its_own_has(listed: WorkspaceFeatures, expected: list[dict[str, Any]]) -> None:
    chosen = listed.chosen(None, None)
    rows, total = listed.page(chosen, Wanted(sort="index", descending=False), 100, 0)
    assert total == len(rows) == D_SAE
    for row, right in zip(rows, expected, strict=True):
        assert close(row, right), (row, right)
    assert sum(row["score"] is not None for row in expected) > 3
    assert sum(row["n_explanations"] > 1 for row in expected) > 3
    for row in rows:
        values = [figure["value"] for figure in row["scores"] or ()]
        assert (row["score"] is None) == (not values)
        assert not values or math.isclose(row["score"], sum(values) / len(values))


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", get_args(Sort))
def test_every_order_with_what_has_no_value_last(
    listed: WorkspaceFeatures, expected: list[dict[str, Any]], sort: str, descending: bool
) -> None:
    rows, _ = listed.page(listed.chosen(None, None), Wanted(sort=sort, descending=descending), 100, 0)
    column = SORTS[sort]
    having = [row for row in expected if row[column] is not None]
    having.sort(key=lambda row: (-row[column] if descending else row[column], row["feature"]))
    lacking = [row["feature"] for row in expected if row[column] is None]
    assert [row["feature"] for row in rows] == [*(row["feature"] for row in having), *lacking]


CHOICES: list[tuple[dict[str, Any], Any]] = [
    ({"min_density": 0.1}, lambda row: row["density"] >= 0.1),
    ({"max_density": 0.1}, lambda row: row["density"] <= 0.1),
    ({"min_density": 0.05, "max_density": 0.15}, lambda row: 0.05 <= row["density"] <= 0.15),
    ({"min_score": 0.3}, lambda row: row["score"] is not None and row["score"] >= 0.3),
    ({"explained": True}, lambda row: row["explanation"] is not None or row["label"] is not None),
    ({"explained": False}, lambda row: row["explanation"] is None and row["label"] is None),
    ({"dead": True}, lambda row: row["n_active"] == 0),
    ({"dead": False, "explained": True}, lambda row: row["n_active"] > 0 and row["explanation"] is not None),
    ({"bucket": "safety"}, lambda row: row["bucket"] == "safety"),
    ({"bucket": "unknown"}, lambda row: row["bucket"] == "unknown"),
]


@pytest.mark.parametrize(("wanted", "is_one"), CHOICES, ids=[str(given) for given, _ in CHOICES])
def test_what_is_left_out(
    listed: WorkspaceFeatures, expected: list[dict[str, Any]], wanted: dict[str, Any], is_one: Any
) -> None:
    rows, total = listed.page(listed.chosen(None, None), Wanted(sort="index", descending=False, **wanted), 100, 0)
    right = [row["feature"] for row in expected if is_one(row)]
    assert [row["feature"] for row in rows] == right
    assert total == len(right)


def test_pages_follow_one_another(listed: WorkspaceFeatures) -> None:
    chosen = listed.chosen(None, None)
    whole, total = listed.page(chosen, Wanted(), 100, 0)
    parts = [listed.page(chosen, Wanted(), 5, offset) for offset in range(0, 20, 5)]
    assert [row for rows, _ in parts for row in rows] == whole
    assert {n for _, n in parts} == {total}


def test_saes_of_a_cache_are_listed_together(workspace: Workspace) -> None:
    make_cache(workspace, cache_id="e" * 16, sae=OTHER, scale=2.0)
    make_cache(workspace)
    features = WorkspaceFeatures(workspace, built_in(), look_every_s=0.0)
    (one,) = features.chosen(None, None)
    assert one.cache_id == CACHE_ID, "the cache merged last"
    (other,) = features.chosen("layer_4", None)
    assert (other.sae, other.cache_id) == (OTHER, "e" * 16), "the cache that holds it"
    for sae, cache in (("nothing", None), (None, "nothing"), ("layer_4", CACHE_ID)):
        with pytest.raises(UnknownNameError):
            features.chosen(sae, cache)
    features.close()
    assert features.page([one], Wanted(), 1, 0)[1] == D_SAE, "what was closed opens again"
    features.close()


def test_what_is_new_is_in_the_list(features: WorkspaceFeatures, said: Workspace) -> None:
    chosen = features.chosen(None, None)

    def row(feature: int) -> dict[str, Any]:
        rows, _ = features.page(chosen, Wanted(sort="index", descending=False), 100, 0)
        return rows[feature]

    write(said.cache(CACHE_ID), "another", [explanation(3, "newest", explanation_id="n", run_id="explain-9")])
    assert "newest" in [it["description"] for it in features.own.explanations_in(features.own_of(chosen[0]), [3])[3]]
    assert row(3)["n_explanations"] == by_hand(said)[3]["n_explanations"]
    Labels(said).say(FeatureId(SAE, 3), "ann", label="a new word")
    assert row(3)["label"] == "a new word"


def test_what_is_said_here_is_seen_at_once(said: Workspace) -> None:
    """Though nobody looks for what others did."""
    features = WorkspaceFeatures(said, built_in(), look_every_s=3600.0)
    chosen = features.chosen(None, None)
    assert features.page(chosen, Wanted(bucket="safety"), 100, 0)[1] >= 0
    before = {row["feature"]: row["label"] for row in features.page(chosen, Wanted(), 100, 0)[0]}
    features.say(FeatureId(SAE, 2), "ann", label="mine")
    after = {row["feature"]: row["label"] for row in features.page(chosen, Wanted(), 100, 0)[0]}
    assert after == before | {2: "mine"}
    features.close()


def test_damage_is_said(features: WorkspaceFeatures, said: Workspace) -> None:
    paths = (one.path for one in said.files.scan(f"caches/{CACHE_ID}/findings/scores"))
    path = next(path for path in paths if path.endswith(".parquet"))
    said.files.commit(path, b"PAR1 not at all")
    with pytest.raises(DamagedFileError, match=path):
        features.page(features.chosen(None, None), Wanted(), 10, 0)
    said.files.delete(path)
    said.files.delete(f"{path.removesuffix('.parquet')}.json")
    assert features.page(features.chosen(None, None), Wanted(), 10, 0)[1] == D_SAE
