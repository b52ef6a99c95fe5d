"""The tree that a run exports: what its files hold, what a rerun changes, and what it refuses to lose."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens import schema
from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.store.reader import CacheReader
from raylens.store.results import STAGES, ResultsTree, Stage, _numbers, _ranges, checked_name, file_word
from raylens.store.workspace import Workspace

SAE = SaeId.parse("pico-res/layer_3")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
SETTINGS: Mapping[str, Any] = {
    "n_tokens": 10, "explainer": "lexical", "log_probs": False, "max_latents": 3, "hf_token": "hf_" + "a" * 34,
    "base_url": "http://me:secret@host/v1",
}  # fmt: skip
STAGE_OF: Mapping[str, Stage] = {"n_tokens": "cache", "explainer": "explanations", "log_probs": "scores"}


@pytest.fixture
def tree(tmp_path: Path) -> ResultsTree:
    return ResultsTree(str(tmp_path / "results"), "run")


def config(tree: ResultsTree) -> dict[str, Any]:
    return json.loads(Path(tree.url, "run_config.json").read_text())


def explanation(feature: int, **other: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(schema.EXPLANATIONS.names) | {"feature": feature, "status": "ok"}
    return row | {"explanation": f"word {feature}", "created_at": NOW} | other


def score(feature: int, metric: str, value: float | None, control: str | None = None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(schema.SCORES.names) | {"feature": feature, "scorer": "fuzz", "metric": metric}
    return row | {"value": value, "n": 9, "n_failed": 1, "control": control, "judge": "m", "explanation_id": "e"}


def files(tree: ResultsTree) -> set[str]:
    return {path.relative_to(tree.url).as_posix() for path in Path(tree.url).rglob("*") if path.is_file()}


def test_explanations_and_scores_are_a_file_each(tree: ResultsTree) -> None:  # A1.10
    tree.begin(SETTINGS, ())
    rows = [
        explanation(7, rule='{"clauses": []}', n_examples=40),
        explanation(8, status="failed", explanation=None, error="no answer"),
        explanation(9, status="dead", explanation=None),
    ]
    assert tree.write_explanations("layers.3", SAE, "c", rows) == 2
    figures = [score(7, "f1", 0.5), score(7, "f1", 0.1, "shuffled"), score(7, "roc_auc", float("nan"))]
    assert tree.write_scores("layers.3", SAE, "c", figures) == 1
    assert files(tree) == {
        "run_config.json",
        "explanations/layers.3_latent7.json",
        "explanations/layers.3_latent8.json",
        "scores/fuzz/layers.3_latent7.json",
    }
    said = json.loads(Path(tree.url, "explanations/layers.3_latent7.json").read_text())
    assert (said["sae"], said["latent"], said["explanation"]) == (str(SAE), 7, "word 7")
    assert (said["rule"], said["created_at"]) == ({"clauses": []}, NOW.isoformat())
    failed = json.loads(Path(tree.url, "explanations/layers.3_latent8.json").read_text())
    assert (failed["explanation"], failed["status"], failed["error"]) == (None, "failed", "no answer")
    scored = json.loads(Path(tree.url, "scores/fuzz/layers.3_latent7.json").read_text())
    assert scored["metrics"]["f1"] == {"value": 0.5, "ci_low": None, "ci_high": None, "n": 9, "n_failed": 1}
    assert scored["metrics"]["roc_auc"]["value"] is None, "JSON knows no NaN"
    assert scored["shuffled"]["f1"]["value"] == 0.1
    assert (scored["judge"], scored["explanation_id"]) == ("m", "e")


def test_the_config_holds_every_setting_and_no_secret(tree: ResultsTree) -> None:  # A1.10
    tree.begin(SETTINGS, ())
    tree.note("layers.3", {"cache_id": "c"})
    tree.note("layers.3", {"scores": "p"})
    found = config(tree)
    assert {name: found[name] for name in ("n_tokens", "explainer", "log_probs")} == {
        "n_tokens": 10, "explainer": "lexical", "log_probs": False,
    }  # fmt: skip
    assert found["made"] == {"layers.3": {"cache_id": "c", "scores": "p"}}
    text = json.dumps(found)
    assert "hf_aaa" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("changed", "overwrite", "refused"),
    [
        ({}, (), False),
        ({"max_latents": 9}, (), False),
        ({"hf_token": "hf_" + "b" * 34}, (), False),
        ({"n_tokens": 20}, (), True),
        ({"n_tokens": 20}, ("explanations",), True),
        ({"n_tokens": 20}, ("cache",), False),
        ({"explainer": "cot"}, ("scores",), True),
        ({"explainer": "cot"}, ("explanations",), False),
        ({"log_probs": True}, (), True),
        ({"log_probs": True}, ("scores",), False),
        ({"log_probs": True, "explainer": "cot"}, ("scores", "neighbours"), False),
    ],
)
def test_other_settings_need_leave_to_overwrite(
    tree: ResultsTree, changed: dict[str, Any], overwrite: tuple[Stage, ...], refused: bool
) -> None:
    tree.refuse_unless_mine(SETTINGS, STAGE_OF, ())
    tree.begin(SETTINGS, ())
    before = config(tree)
    if not refused:
        tree.refuse_unless_mine({**SETTINGS, **changed}, STAGE_OF, overwrite)
        return
    name = next(iter(changed))
    with pytest.raises(InputError, match=f"holds results with {name} .*--overwrite {STAGE_OF[name]}"):
        tree.refuse_unless_mine({**SETTINGS, **changed}, STAGE_OF, overwrite)
    assert config(tree) == before


def test_a_folder_of_something_else_is_left_alone(tree: ResultsTree) -> None:
    Path(tree.url).mkdir(parents=True)
    Path(tree.url, "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty and holds no run_config\.json"):
        tree.refuse_unless_mine(SETTINGS, STAGE_OF, STAGES)


@pytest.mark.parametrize(
    ("overwrite", "left"),
    [((), "les"), (("scores",), "le"), (("explanations",), "l"), (("neighbours",), "l"), (("cache",), "")],
)
def test_overwriting_a_stage_lets_all_that_follows_go(
    tree: ResultsTree, overwrite: tuple[Stage, ...], left: str
) -> None:
    tree.begin(SETTINGS, ())
    tree.write_explanations("p", SAE, "c", [explanation(1)])
    tree.write_scores("p", SAE, "c", [score(1, "f1", 1.0)])
    tree.files.commit("latents/p/0_1.parquet", b"")
    tree.note("p", {"latents": "0-1"})
    tree.begin(SETTINGS, overwrite)
    assert {path[0] for path in files(tree) if "/" in path} == set(left)
    assert ("p" in config(tree)["made"]) == ("l" in left)


def test_a_rerun_writes_what_is_missing_or_other(tree: ResultsTree) -> None:
    tree.begin(SETTINGS, ())
    tree.write_explanations("p", SAE, "c", [explanation(1), explanation(2, status="failed", explanation=None)])
    paths = [Path(tree.url, f"explanations/p_latent{latent}.json") for latent in (1, 2)]
    inodes = [path.stat().st_ino for path in paths]
    paths[0].with_name("p_latent9.json").write_text("{}")
    tree.write_explanations("p", SAE, "c", [explanation(1), explanation(2), explanation(3)])
    assert paths[0].stat().st_ino == inodes[0], "what is the same is not written again"
    assert json.loads(paths[1].read_text())["explanation"] == "word 2"
    assert len(list(paths[0].parent.iterdir())) == 4, "nothing is removed"


@pytest.fixture
def corpus(local_workspace: Workspace, build: Callable[..., Any]) -> Any:
    made = build(local_workspace)
    made.merge()
    return made


def exported(tree: ResultsTree, query: str) -> list[tuple]:
    with duckdb.connect() as connection:
        return connection.execute(query.replace("$", f"{tree.url}/latents")).fetchall()


def test_latents_are_what_the_cache_holds_of_them(tree: ResultsTree, corpus: Any, local_workspace: Workspace) -> None:
    tree.begin(SETTINGS, ())
    reader, wanted = CacheReader(local_workspace, corpus.cache.cache_id), [0, 3, 4, 5, 21, 39]
    made = tree.write_latents(local_workspace.files, reader, SAE, "layers.3", wanted, 4)
    assert made["latents"] == "0,3-5,21,39"
    splits = sorted(path for path in files(tree) if "layers.3" in path)
    assert splits == [f"latents/layers.3/{name}.parquet" for name in ("0_3", "21_21", "39_39", "4_5")]
    assert exported(tree, "SELECT * FROM '$/layers.3/*.parquet' ORDER BY feature, peak DESC, window_id, position") == [
        row for row in corpus.ordered if row[0] in wanted
    ]
    windows = exported(tree, "SELECT window_id, text, token_ids FROM '$/windows.parquet' ORDER BY window_id")
    table = reader.windows(range(len(corpus.lengths)), ["window_id", "text", "token_ids"]).to_pylist()
    assert windows == [(row["window_id"], row["text"], row["token_ids"]) for row in table]


def test_more_latents_join_those_that_are_there(tree: ResultsTree, corpus: Any, local_workspace: Workspace) -> None:
    tree.begin(SETTINGS, ())

    def export(latents: list[int], n_splits: int = 2) -> tuple[set[str], str]:
        reader = CacheReader(local_workspace, corpus.cache.cache_id)
        made = tree.write_latents(local_workspace.files, reader, SAE, "p", latents, n_splits)
        tree.note("p", made)
        return {path for path in files(tree) if path.startswith("latents/p/")}, str(made["latents"])

    assert export([1, 2]) == ({"latents/p/1_1.parquet", "latents/p/2_2.parquet"}, "1-2")
    inode = Path(tree.url, "latents/p/1_1.parquet").stat().st_ino
    corpus.merge()  # a later merge that changes nothing
    assert export([2])[1] == "1-2"
    assert Path(tree.url, "latents/p/1_1.parquet").stat().st_ino == inode
    assert export([5]) == ({"latents/p/1_2.parquet", "latents/p/5_5.parquet"}, "1-2,5")
    assert export([1], 100) == ({f"latents/p/{i}_{i}.parquet" for i in (1, 2, 5)}, "1-2,5"), "an upper bound (A1.04)"


@given(st.sets(st.integers(0, 300)))
def test_ranges_say_the_same_numbers(numbers: set[int]) -> None:
    assert list(_numbers(_ranges(sorted(numbers)))) == sorted(numbers)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "x" * 101, "a*"])
def test_a_name_is_a_plain_folder(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a folder of results"):
        checked_name(name)


@given(st.text(min_size=1, max_size=20))
def test_a_hook_point_is_a_file_name(text: str) -> None:
    assert checked_name(f"_{file_word(text)}")
    assert file_word("layers.3") == "layers.3"
    assert file_word("layer_20/width_16k") == "layer_20-width_16k"
