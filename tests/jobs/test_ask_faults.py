"""Explaining and scoring through a language model that fails: by its answers, its limits, or the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from asked import EXPLAIN, SCORE, Run, at, explain, features, figures, scorers
from cache_runs import SAE
from fake_llm import Answer, Asked, FakeLlm
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.findings import findings_of, passes
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from reading_judge import Judge


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
    # Those under way at the moment of death, and no others, are asked again; while answers are put on the disk, as many
    # questions are on their way.
    assert n <= len(llm.asked) <= n + 2 * at_once
    (whole,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    rows = whole.read().to_pylist()
    assert [row["feature"] for row in rows] == sorted(sets)[:n]
    assert {row["status"] for row in rows} == {"ok"}
    assert found["usage"]["cached"] + found["usage"]["calls"] == found["features"]
