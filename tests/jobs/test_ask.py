"""Explaining and scoring through a language model: over real HTTP, against a judge whose answers are known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy.stats import binom

from cache_runs import SAE
from fake_llm import Answer, Asked, FakeLlm
from raylens.config import ExampleConfig
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader
from raylens.store.findings import findings_of, passes
from raylens.store.reader import CacheReader
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from reading_judge import Judge
from truths import Table

FEW = ExampleConfig(min_examples=20, n_examples_train=10, n_examples_test=12, n_non_activating=12)
EXPLAIN = ["explain", "--sae", SAE, "--min-examples", "20", "--n-examples-train", "10", "--n-non-activating", "12"]
SCORE = ["score", "--sae", SAE, "--n-examples-test", "12", "--n-non-activating", "12"]
CHAT_SCORERS = ("detection", "fuzz", "recall", "simulation", "intruder", "concept")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def sets(undisturbed: Any) -> dict[int, ExampleSets]:
    """Examples of features in which no text occurs twice with different activations: nobody could be right on those."""
    reader = CacheReader(undisturbed.workspace, undisturbed.cache_id)
    found = _sets(reader, FEW, range(0, 400, 4))
    conflicts = _table(reader, found).conflicts
    return {feature: one for feature, one in found.items() if feature not in conflicts}


def _sets(reader: CacheReader, config: ExampleConfig, features: Sequence[int] | range) -> dict[int, ExampleSets]:
    read = ExampleReader(reader, SaeId.parse(SAE), config).sets(features)
    return {feature: one for feature, one in read if isinstance(one, ExampleSets)}


def _table(reader: CacheReader, sets: dict[int, ExampleSets], names: dict[int, str] | None = None) -> Table:
    table = Table(sets, names)
    whole = _sets(reader, FEW.model_copy(update={"center_examples": False}), list(sets))
    for feature, one in whole.items():
        table.add(feature, (*one.test, *one.test_negatives))
    return table


@pytest.fixture
def judge(undisturbed: Any, sets: dict[int, ExampleSets]) -> Judge:
    return Judge(_table(CacheReader(undisturbed.workspace, undisturbed.cache_id), sets))


@pytest.fixture
def llm(judge: Judge) -> Iterator[FakeLlm]:
    with FakeLlm(judge) as server:
        yield server


def features(sets: dict[int, ExampleSets], n: int) -> list[str]:
    return [word for feature in list(sets)[:n] for word in ("--feature", str(feature))]


def at(llm: FakeLlm, flag: str = "--explainer-model") -> list[str]:
    return [flag, "fake", "--base-url", llm.base_url]


def scorers(*names: str) -> list[str]:
    return [word for name in names for word in ("--scorer", name)]


def figures(copy: Workspace, control: str | None = None) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the last scores by scorer and metric."""
    rows = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "scores")[-1].read().to_pylist()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["control"] == control:
            found.setdefault((row["scorer"], row["metric"]), []).append(row)
    return found


def explain(raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], n: int, *more: str) -> dict[str, Any]:
    code, found, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, n), *more)
    assert code == 0, err
    return found


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


def test_an_answer_that_says_nothing_is_asked_for_once_more_and_then_a_failed_row(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    one, *_ = features(sets, 1)[1:]

    def respond(asked: Asked) -> Answer | str:
        return judge(asked) if "Asked again" in asked.prompt or len(asked.body["messages"]) > len(first) else "prose"

    first: list[Any] = []
    llm.script.append("I would rather talk about something else")
    explain(raylens, llm, sets, 1)
    assert len(llm.asked) == 2, "asked again, with the reason"
    first[:] = llm.asked[0].body["messages"]
    assert llm.asked[1].body["messages"][: len(first)] == first
    (row,) = findings_of(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations", int(one))
    assert row["status"] == "ok"

    llm.respond = lambda asked: '{"é": "no phrase"}'
    words = [*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 1), "--seed", "5"]
    code, found, err = raylens(*words)
    assert (code, found["statuses"]) == (1, {"failed": 1})
    assert "none of 1 features" in err
    assert "JSON" in err
    rows = findings_of(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations", int(one))
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["explanation"] is None
    assert "JSON" in failed["error"]
    with connect(copy) as connection:
        shown = connection.execute("SELECT status, error FROM explanations WHERE status <> 'ok'").fetchall()
    assert shown == [("failed", failed["error"])]
    code, _, err = raylens("score", "--sae", SAE, "--pass", found["pass_id"])
    assert code == 2
    assert "no explanation to score" in err


def test_what_could_not_be_read_is_asked_anew_where_a_pass_is_made_anew(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    unwilling: list[str] = []

    def respond(asked: Asked) -> Answer | str:
        chat = "".join(message["content"] for message in asked.body["messages"])
        unwilling.append(chat) if not unwilling else None
        return "I would rather not" if chat.startswith(unwilling[0]) else judge(asked)

    llm.respond = respond
    assert explain(raylens, llm, sets, 3)["statuses"] == {"ok": 2, "failed": 1}
    assert len(llm.asked) == 4, "once more with the reason"
    assert explain(raylens, llm, sets, 3)["features"] == 0, "a failed row is settled"
    (pass_,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    pass_.discard()
    llm.respond = judge
    again = explain(raylens, llm, sets, 3)
    assert again["statuses"] == {"ok": 3}
    assert (again["usage"]["cached"], len(llm.asked)) == (2, 5), "the others are not asked about again"


def test_a_context_that_is_too_long_is_trimmed_and_the_row_says_so(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    explain(raylens, llm, sets, 1, "--explainer-model-max-len", "1350")
    (_, name), cache = features(sets, 1), copy.cache(copy.caches()[0])
    (row,) = findings_of(cache, SaeId.parse(SAE), "explanations", int(name))
    assert (row["status"], row["trimmed"]) == ("ok", True)
    assert 0 < row["n_examples"] < 10
    # The endpoint counts otherwise than we do, and says so.
    limit = sum(len(m["content"]) for m in llm.asked[-1].body["messages"]) + 200

    def strict(asked: Asked) -> Answer | str:
        size = sum(len(m["content"]) for m in asked.body["messages"])
        said = "This model's maximum context length is 1000 tokens, and you asked for more"
        return judge(asked) if size <= limit else Answer.error(400, said, code="context_length_exceeded")

    llm.respond = strict
    explain(raylens, llm, sets, 1)
    rows = findings_of(cache, SaeId.parse(SAE), "explanations", int(name))
    assert [(row["status"], row["trimmed"]) for row in rows] == [("ok", True)] * 2, [row["error"] for row in rows]


def test_an_endpoint_that_answers_nothing_is_no_success(
    copy: Workspace, raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens.llm.client.backoff_s", lambda *_: 0.0)
    llm.respond = lambda asked: Answer(drop=True)
    code, found, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 2))
    assert (code, found["statuses"], found["unanswered"]) == (1, {}, 2)
    assert "none of 2 features" in err
    assert sum(found["lost"].values()) == 2
    run = copy.runs()[-1]
    assert (run.kind, run.status) == ("explain", "failed")  # and so over HTTP, where no score follows
    assert f"error: {run.error}\n" in err
    assert run.figures["unanswered"] == 2
    llm.respond = lambda asked: "I cannot say."
    code, found, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 2))
    assert (code, found["statuses"], copy.runs()[-1].status) == (1, {"failed": 2}, "failed")
    asked = len(llm.asked)
    code, found, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 2))
    assert (code, found["settled"], copy.runs()[-1].status) == (1, {"failed": 2}, "failed")
    assert "could not be read" in err
    assert len(llm.asked) == asked


def test_what_went_unexplained_beside_others_is_counted_and_shown(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets], capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "240")
    llm.respond = lambda asked: judge(asked) if asked.index == 0 else "I cannot say."
    code, found, _ = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 3))
    assert (code, found["statuses"]) == (0, {"ok": 1, "failed": 2})
    run = copy.runs()[-1]
    assert (run.status, run.progress["without_explanation"]) == ("succeeded", 2)
    assert run.figures["statuses"] == {"ok": 1, "failed": 2}
    assert main(["--workspace", copy.url, "runs", "--limit", "1"]) == 0
    assert "without explanation 2" in capsys.readouterr().out


def test_passes_that_overlap_give_one_figure_each(copy: Workspace, raylens: Run, sets: dict[int, ExampleSets]) -> None:
    raylens(*EXPLAIN, *features(sets, 4))
    for words in ([], ["--scorer", "rule"], features(sets, 1)):
        code, _, err = raylens("score", "--sae", SAE, *words)
        assert code == 0, err
    with connect(copy) as connection:
        twice = connection.execute(
            "SELECT feature, scorer, metric, control, count(*) FROM scores GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
        rows = connection.execute("SELECT count(*) FROM scores WHERE metric = 'f1' AND control IS NULL").fetchone()
    assert twice == []
    assert rows is not None
    stored = [
        row["feature"]
        for feature in list(sets)[:4]
        for row in findings_of(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "scores", feature)
        if (row["metric"], row["control"]) == ("f1", None)
    ]
    assert len(stored) == len(set(stored)) == rows[0] > 0


def test_an_endpoint_that_is_gone_stops_the_run_and_a_rerun_asks_only_for_the_rest(
    raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens.llm.client.backoff_s", lambda *_: 0.0)

    def dies(asked: Asked) -> Answer:
        return judge(asked) if asked.index < 12 else Answer.error(500)

    llm.respond = dies
    words = [*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 40), "--max-concurrency", "4"]
    code, _, err = raylens(*words)
    assert code == 1
    assert err.count("error: ") == 1
    assert "500" in err
    assert "run the same command again" in err
    answered = 12
    llm.respond = judge
    before = len(llm.asked)
    code, rest, err = raylens(*words)
    assert code == 0, err
    assert rest["statuses"] == {"ok": rest["features"]}
    assert len(llm.asked) - before == 40 - answered, "no question twice"


@pytest.mark.parametrize(
    ("answer", "says"),
    [(Answer.error(401, "bad key"), "401"), (Answer.error(404, "no such model"), "404")],
)
def test_an_endpoint_that_refuses_stops_at_once(
    copy: Workspace, raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], answer: Answer, says: str
) -> None:
    llm.respond = lambda asked: answer
    code, _, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 20), "--max-concurrency", "2")
    assert code == 1
    assert says in err
    assert err.count("error: ") == 1
    assert len(llm.asked) <= 4
    (empty,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    assert not empty.settled()


def test_a_budget_stops_the_run_and_keeps_what_was_paid_for(
    copy: Workspace, raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets]
) -> None:
    words = [*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, 20)]
    code, _, err = raylens(*words, "--max-calls", "10")
    assert code == 1
    assert "raise --max-calls" in err
    assert len(llm.asked) == 10
    code, found, err = raylens(*words, "--prompt-price", "1", "--answer-price", "1", "--budget-usd", "5")
    assert code == 0, err
    assert len(llm.asked) == 20, "the first ten answers are not paid for again"
    assert found["usage"]["usd"] > 0
    code, _, err = raylens(*words, "--budget-usd", "5")
    assert code == 2
    assert "without the prices" in err


def test_lost_answers_are_counted_and_shown(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    explain(raylens, llm, sets, 2)

    def half(asked: Asked) -> Answer | str:
        return judge(asked) if asked.index % 2 else "ⓘ yes, no, yes"

    llm.respond = half
    code, found, err = raylens(*SCORE, *at(llm, "--judge-model"), *scorers("detection"), "--no-shuffled")
    assert code == 0, err
    rows = figures(copy)["detection", "f1"]
    failed = sum(row["n_failed"] for row in rows)
    assert failed == sum(found["lost"].values()) > 0
    assert all(row["n"] + row["n_failed"] == 24 for row in rows)
    assert all(row["value"] == 1.0 for row in rows), "those that were answered were answered rightly"


def test_a_key_is_sent_and_written_nowhere(
    copy: Workspace, raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-that-nobody-may-read-0123456789")
    explain(raylens, llm, sets, 2)
    assert llm.asked[0].headers["authorization"].endswith("0123456789")
    for folder, _, names in os.walk(copy.files.native("")):
        for name in names:
            assert b"0123456789" not in Path(folder, name).read_bytes(), name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["explain", "--explainer", "cot"], "none is named"),
        (["explain", "--explainer", "cot", "--explainer-model", "m"], "it is not said where m runs"),
        (["explain", "--explainer-model", "m", "--provider", "openrouter"], "the lexical explainer asks nobody"),
        (["explain", "--base-url", "http://127.0.0.1:1/v1"], "--base-url is about a language model"),
        (["explain", "--explainer", "cot", "--explainer-model", "m", "--base-url", "ftp://x"], "--base-url is not"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(raylens: Run, words: list[str], says: str) -> None:
    command, *rest = words
    code, out, err = raylens(command, "--sae", SAE, *rest)
    assert (code, out) == (2, None)
    assert says in err
    assert err.count("error: ") == 1


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


def test_after_kill_9_nothing_is_asked_twice(
    copy: Workspace, raylens: Run, llm: FakeLlm, judge: Judge, sets: dict[int, ExampleSets]
) -> None:
    n, at_once = 40, 4
    words = [*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, n), "--max-concurrency", str(at_once)]
    judge.delay_s = 0.3
    process = subprocess.Popen(
        [sys.executable, "-m", "raylens", "--workspace", copy.url, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(llm.asked) < 18:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for child in children:  # Ray's, which take half a minute to notice
        with suppress(psutil.NoSuchProcess):
            child.kill()
    judge.delay_s, before = 0.0, len(llm.asked)
    assert before < n
    code, found, err = raylens(*words)
    assert code == 0, err
    # Those under way at the moment of death, and no others, are asked again.
    assert n <= len(llm.asked) <= n + at_once
    (whole,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    rows = whole.read().to_pylist()
    assert [row["feature"] for row in rows] == sorted(sets)[:n]
    assert {row["status"] for row in rows} == {"ok"}
    assert found["usage"]["cached"] + found["usage"]["calls"] == found["features"]
