"""Explaining and scoring through a language model: over real HTTP, against a judge whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from asked import CHAT_SCORERS, EXPLAIN, SCORE, Run, at, explain, features, figures, scorers
from cache_runs import SAE
from fake_llm import FakeLlm
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.findings import passes
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from reading_judge import Judge


def _inside(row: dict[str, Any]) -> bool:
    return row["ci_low"] - 1e-9 <= row["value"] <= row["ci_high"] + 1e-9


def test_a_judge_who_is_right_scores_one_and_one_who_errs_zero(  # A1.05
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    explained = explain(raylens, llm, sets, 5)
    assert explained["statuses"] == {"ok": 5}
    words = [*SCORE, *at(llm, "--judge-model"), *scorers(*CHAT_SCORERS), "--log-probs"]
    code, scored, err = raylens(*words)
    assert code == 0, err
    assert scored["lost"] == {}
    right = figures(copy)
    for scorer in ("detection", "fuzz", "recall"):
        for metric in ("precision", "recall", "f1", "balanced_accuracy", "auc"):
            assert [row["value"] for row in right[scorer, metric]] == [1.0] * 5, (scorer, metric)
        assert all(row["n"] == 24 and row["n_failed"] == 0 for row in right[scorer, "f1"])
    assert [row["value"] for row in right["simulation", "correlation"]] == pytest.approx([1.0] * 5, abs=1e-6)
    assert [row["value"] for row in right["intruder", "accuracy"]] == [1.0] * 5
    outside = [row for rows in right.values() for row in rows if row["ci_low"] is not None and not _inside(row)]
    assert not outside
    assert [row["value"] for row in right["concept", "is_concept"]] == [1.0] * 5
    good = {row["metric"]: row for row in scored["aggregates"] if row["scorer"] == "detection"}
    assert (good["good_rate"]["value"], good["good_rate"]["n"]) == (1.0, 5)  # A1.02
    assert good["frequency_weighted_f1"]["value"] == 1.0
    assert sum(row["n"] for row in scored["by_density"] if row["scorer"] == "detection") == 5
    shuffled = [row["value"] for row in figures(copy, "shuffled")["detection", "balanced_accuracy"]]
    assert len(shuffled) == 5
    assert max(shuffled) <= 0.7, "another feature's explanation says nothing"
    assert not {"intruder", "concept"} & {scorer for scorer, _ in figures(copy, "shuffled")}

    calls = len(llm.asked)
    code, again, _ = raylens(*words)
    assert (code, again["features"], len(llm.asked)) == (0, 0, calls)

    judge.mode = "inverted"
    code, _, err = raylens(*words[:-1], "--no-shuffled", "--max-concurrency", "3", "--judge-model", "other")
    assert code == 0, err
    wrong = figures(copy)
    for scorer in ("detection", "fuzz", "recall"):
        for metric in ("precision", "recall", "f1", "balanced_accuracy"):
            assert [row["value"] for row in wrong[scorer, metric]] == [0.0] * 5, (scorer, metric)
    assert all(row["value"] < -0.99 for row in wrong["simulation", "correlation"])
    assert [row["value"] for row in wrong["concept", "is_concept"]] == [0.0] * 5
    assert [row["value"] for row in wrong["intruder", "accuracy"]] == [0.0] * 5
    assert llm.high_water <= 32
    assert not judge.refused


def test_intervals_of_a_coin_cover_chance(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    assert len(sets) >= 40, "enough features to count by"
    explain(raylens, llm, sets, 60)
    judge.mode = "coin"
    code, scored, err = raylens(
        *SCORE, *at(llm, "--judge-model"), *scorers("detection"), "--log-probs", "--no-shuffled"
    )
    assert code == 0, err
    found = figures(copy)
    for metric, chance in (("balanced_accuracy", 0.5), ("auc", 0.5), ("recall", 0.5)):
        # Where all test excerpts are of one document there is no interval.
        rows = [row for row in found["detection", metric] if row["ci_low"] is not None]
        assert len(rows) >= 40, found["detection", metric]
        covered = sum(row["ci_low"] <= chance <= row["ci_high"] for row in rows)
        # One in a thousand such tests would fall short by chance, were coverage 95 %.
        assert covered >= binom.ppf(0.001, len(rows), 0.95), (metric, covered, len(rows))
    values = [row["value"] for row in found["detection", "balanced_accuracy"] if row["value"] is not None]
    assert 0.4 < float(np.mean(values)) < 0.6
    assert float(np.std(values)) > 0, "a coin, not a constant"
    assert scored["lost"] == {}


@pytest.mark.parametrize("explainer", ["contrastive", "cot", "logits"])
def test_every_explainer_is_asked_in_its_own_words(  # A1.08
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets], explainer: str
) -> None:
    code, found, err = raylens(*EXPLAIN, "--explainer", explainer, *at(llm), *features(sets, 3))
    assert code == 0, err
    assert found["statuses"] == {"ok": 3}
    assert {one.prompt for one in judge.seen} == {f"explain-{explainer}"}
    rows = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")[-1].read().to_pylist()
    assert {row["explanation"] for row in rows} == {f"what feature {row['feature']} responds to" for row in rows}
    assert {(row["explainer"], row["model"]) for row in rows} == {(explainer, "fake")}
    assert all(len(row["prompt_hash"]) == 64 for row in rows)


def test_prompts_of_ones_own_are_sent_and_name_another_pass(  # A1.09
    copy: Workspace, raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], tmp_path: Path
) -> None:
    ours = explain(raylens, llm, sets, 2)
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "explain-default.txt").write_text("version: 7\n--- user\nName it. {rate} {examples}\n")
    llm.respond = lambda asked: "[EXPLANATION]: said to other words"
    theirs = explain(raylens, llm, sets, 2, "--prompt-dir", str(own))
    assert theirs["pass_id"] != ours["pass_id"]
    assert llm.asked[-1].prompt.startswith("Name it.")
    (own / "explain-default.txt").write_text("version: 7\n--- user\nName it. {sample}\n")
    code, _, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), "--prompt-dir", str(own))
    assert code == 2
    assert "unknown placeholder {sample}" in err


def test_specialization_is_the_mean_activation_inside_minus_outside(  # A1.01
    copy: Workspace, raylens: Run, sets: dict[int, ExampleSets]
) -> None:
    code, _, err = raylens(*EXPLAIN, *features(sets, 8))
    assert code == 0, err
    code, scored, err = raylens("score", "--sae", SAE, "--scorer", "rule", "--domain", "*heapq*")
    assert code == 0, err
    rows = figures(copy)["domain", "specialization"]
    assert len(rows) == scored["features_total"] > 0
    query = """
        SELECT sum(a.activation) FILTER (d.path LIKE '%heapq%') AS inside,
               sum(a.activation) FILTER (d.path NOT LIKE '%heapq%') AS outside
        FROM activations a JOIN windows w USING (cache_id, window_id) JOIN documents d USING (cache_id, doc_id)
        WHERE a.sae = ? AND a.feature = ? AND a.position > 0
    """
    with connect(copy) as connection:
        tokens = connection.execute(
            "SELECT sum(n_tokens) FILTER (path LIKE '%heapq%'), sum(n_tokens) FILTER (path NOT LIKE '%heapq%') "
            "FROM documents"
        ).fetchone()
        for row in rows:
            found = connection.execute(query, [SAE, row["feature"]]).fetchone()
            assert tokens is not None
            assert found is not None
            inside, outside = (float(total or 0) / n for total, n in zip(found, tokens, strict=True))
            assert row["value"] == pytest.approx(inside - outside, rel=1e-4, abs=1e-6)
            assert row["n"] == 7
    code, _, err = raylens("score", "--sae", SAE, "--scorer", "rule", "--domain", "nowhere")
    assert code == 2
    assert "matches no document" in err


def test_negatives_that_read_alike_choose_the_contrastive_prompt(  # A1.08
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    found = explain(raylens, llm, sets, 3, "--non-activating-source", "faiss")
    assert found["statuses"] == {"ok": 3}
    assert {one.prompt for one in judge.seen} == {"explain-contrastive"}
    assert all(one.negatives for one in judge.seen)
    code, scored, err = raylens("score", "--sae", SAE, "--scorer", "embedding", "--feature", features(sets, 1)[1])
    assert code == 0, err
    assert scored["features_total"] == 1
    (pass_,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "scores")
    assert pass_.settings["examples"]["non_activating_source"] == "faiss"  # type: ignore[index]
    assert pass_.settings["index"]
