"""``raylens suites vary --model`` over real HTTP, against a judge that knows the prompt to the letter (A2.19)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_llm import Answer, FakeLlm
from paraphrasing_judge import ParaphrasingJudge, ToVary, usable, written
from raylens.sources.suites import load_suite
from raylens.store.workspace import Workspace
from raylens.suites.paraphrases import KIND, paraphrase_prompts
from raylens.suites.same_code import same_code
from raylens.suites.shipped import shipped_suite
from raylens.suites.suite import Suite

MINE = """
- id: area
  text: |-
    def area(radius):
        \"\"\"Return the area of a circle.\"\"\"
  checks: [python_parses]
- id: queue
  text: "When the queue {name} is empty, a thread that asks for an item"
- id: talk
  chat:
    - {role: system, content: Be brief.}
    - {role: user, content: Hello.}
    - {role: assistant, content: Hello!}
    - {role: user, content: "How long is {x}, and why?"}
  variants:
    - chat: [{role: user, content: "Why is {x} so long?"}]
      kind: mine
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The base directory, with a suite of the user's; its parent is outside."""
    base = tmp_path / "base"
    base.mkdir()
    monkeypatch.delenv("RAYLENS_BASE_DIR", raising=False)
    monkeypatch.chdir(base)
    (base / "mine.yaml").write_text(MINE)
    return base


@pytest.fixture
def judge() -> ParaphrasingJudge:
    return ParaphrasingJudge()


@pytest.fixture
def llm(judge: ParaphrasingJudge) -> Iterator[FakeLlm]:
    with FakeLlm(judge) as server:
        yield server
    assert judge.refused == []


@pytest.fixture
def vary(raylens: Callable[..., Any], llm: FakeLlm, tmp_path: Path) -> Callable[..., Any]:
    """``vary("minimal", …)`` writes ``out.yaml``, asking the judge."""

    def run(suite: str, *more: str) -> Any:
        words = ["suites", "vary", suite, "-o", "out.yaml", "--model", "fake", "--base-url", llm.base_url]
        return raylens(tmp_path / "workspace", *words, *more)

    return run


def paraphrases(suite: Suite) -> dict[str, int]:
    return {one.id: sum(variant.kind == KIND for variant in one.variants) for one in suite.prompts}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"mine.yaml"}


def test_a_suite_is_written_that_is_read_shown_and_audited_like_any_other(
    vary: Callable[..., Any], raylens: Callable[..., Any], llm: FakeLlm, judge: ParaphrasingJudge, tmp_path: Path
) -> None:
    done = vary("mine.yaml", "--json")
    assert done.code == 0, done.err
    assert leftovers(Path.cwd()) == {"out.yaml"}
    suite = load_suite("out.yaml")
    assert paraphrases(suite) == {"area": 2, "queue": 2, "talk": 2}
    area, queue, talk = suite.prompts
    assert all(same_code(area.text or "", one.text or "") for one in area.variants)
    assert queue.variants[0].text == "As it happens, when the queue {name} is empty, a thread that asks for an item"
    assert [one.kind for one in talk.variants] == ["mine", KIND, KIND]
    assert talk.chat is not None
    assert all(one.chat is not None and one.chat[:3] == talk.chat[:3] for one in talk.variants[1:])
    mine = load_suite("mine.yaml")
    assert [one.original for one in suite.prompts] == [one.original for one in mine.prompts]
    assert [one.checks for one in suite.prompts] == [one.checks for one in mine.prompts]
    assert {one.text for one in judge.seen} == {area.text, queue.text, "How long is {x}, and why?"}

    about = done.document
    assert (about["n_prompts"], about["n_variants"], about["short"], about["failed"], about["unanswered"]) == (
        3, 6, 0, 0, 0,
    )  # fmt: skip
    assert about["usage"]["calls"] == len(llm.asked) == 3
    assert about["usage"]["completion_tokens"] > 0
    assert about["cost_usd"] is None, "no prices were given"
    assert (about["digest"], about["n_forms"], about["name"]) == (suite.digest, suite.n_forms, "out")
    text = Path("out.yaml").read_text()
    assert f"prompt hash {paraphrase_prompts().prompt_hash}" in text
    assert f"# Paraphrases by fake, of suite mine, digest {mine.digest}." in text

    workspace = tmp_path / "workspace"
    checked = raylens(workspace, "suites", "check", "out.yaml")
    assert checked.out == "out.yaml: 3 prompts, 10 wordings; checks: python_parses 1\n"
    shown = raylens(workspace, "suites", "show", "out.yaml", "--prompt", "queue")
    assert shown.out.count("── queue · paraphrase\n") == 2
    (run,) = Workspace.open(workspace).runs()
    assert (run.kind, run.status, run.figures["n_variants"]) == ("vary", "succeeded", 6)


def test_a_rerun_costs_nothing_and_gives_the_same_bytes(vary: Callable[..., Any], llm: FakeLlm) -> None:
    prices = ("--prompt-price", "1", "--answer-price", "2", "--budget-usd", "5", "--per-prompt", "3")
    first = vary("mine.yaml", "--json", *prices)
    assert first.code == 0, first.err
    assert first.document["cost_usd"] > 0
    once = Path("out.yaml").read_bytes()
    refused = vary("mine.yaml")
    assert (refused.code, refused.out) == (2, "")
    assert "out.yaml exists already" in refused.err
    assert "--force" in refused.err
    # No call can be made, and what is stored is enough.
    again = vary("mine.yaml", "--force", "--json", "--per-prompt", "3", "--max-calls", "0")
    assert (again.code, len(llm.asked), Path("out.yaml").read_bytes()) == (0, 3, once)
    assert (again.document["usage"]["cached"], again.document["cost_usd"]) == (3, 0.0)
    assert leftovers(Path.cwd()) == {"out.yaml"}


def test_variants_by_rules_are_kept_unless_they_are_to_be_left_out(vary: Callable[..., Any]) -> None:
    stress = shipped_suite("stress")
    before = replace(stress, prompts=stress.prompts[:3])
    Path("stressed.yaml").write_text(before.to_yaml())
    done = vary("stressed.yaml", "--per-prompt", "1")
    assert done.code == 0, done.err
    assert "3 paraphrases of 3 prompts" in done.out
    assert "asked 3 times" in done.out
    after = load_suite("out.yaml")
    assert [one.variants[:5] for one in after.prompts] == [one.variants for one in before.prompts]
    assert after.n_forms == before.n_forms + 3
    assert vary("stressed.yaml", "--per-prompt", "1", "--anew", "--force").code == 0
    assert load_suite("out.yaml").n_forms == 6


def test_what_cannot_be_used_is_asked_for_once_more_and_then_counted(
    vary: Callable[..., Any], judge: ParaphrasingJudge, llm: FakeLlm
) -> None:
    def answers(asked: ToVary) -> str | None:
        if asked.text.startswith("def area"):
            return "def area(r): it is πr²" if not asked.reason else written("Return the area of a circle, please now.")
        if asked.text.startswith("When"):
            one = usable(ToVary(asked.text, 1))
            return one if not asked.reason else "I have no more."
        return None if asked.reason else '{"é": "no wording"}'

    judge.answers = answers
    done = vary("mine.yaml", "--json")
    assert done.code == 0, done.err
    assert paraphrases(load_suite("out.yaml")) == {"area": 0, "queue": 1, "talk": 2}
    about = done.document
    assert (about["n_variants"], about["short"], about["failed"], about["unanswered"]) == (3, 1, 1, 0)
    assert about["without"] == ["area"]
    reasons = list(about["reasons"])
    assert reasons == [
        "nothing stood between <rewrite> and </rewrite>. Asked again: version 1 is not Python.",
        "it held 1 of 2 versions. Asked again: nothing stood between <rewrite> and </rewrite>.",
    ]
    assert len(llm.asked) == 6, "each once more, and not a third time"
    asked_again = {one.text[:4]: (one.n, one.reason) for one in judge.seen if one.reason}
    assert asked_again["When"] == (1, "it held 1 of 2 versions."), "only what is missing"
    assert asked_again["def "] == (2, "nothing stood between <rewrite> and </rewrite>.")

    judge.answers = lambda asked: None
    told = vary("mine.yaml", "--force")
    assert told.code == 0
    # What was of no use is asked about anew, what was of some is not.
    assert paraphrases(load_suite("out.yaml")) == {"area": 2, "queue": 1, "talk": 2}
    assert len(llm.asked) == 7
    assert "1 have fewer than were asked for" in told.out
    assert "4 answers from the cache" in told.out
    assert "it held 1 of 2 versions." in told.out


def test_nothing_is_written_where_no_answer_can_be_used(vary: Callable[..., Any], judge: ParaphrasingJudge) -> None:
    judge.answers = lambda asked: written(asked.text)
    done = vary("mine.yaml", "--json")
    assert (done.code, done.out) == (1, "")
    assert "none of 3 prompts was given a paraphrase: version 1 repeats the original" in done.err
    assert done.err.count("error: ") == 1
    assert leftovers(Path.cwd()) == set()


def test_a_budget_writes_nothing_and_a_rerun_goes_on(vary: Callable[..., Any], llm: FakeLlm, tmp_path: Path) -> None:
    done = vary("mine.yaml", "--max-calls", "2")
    assert (done.code, done.out) == (1, "")
    assert "raise --max-calls" in done.err
    assert (len(llm.asked), leftovers(Path.cwd())) == (2, set())
    assert vary("mine.yaml").code == 0
    assert len(llm.asked) == 3, "the first two answers are not paid for again"
    assert sum(paraphrases(load_suite("out.yaml")).values()) == 6
    assert [run.status for run in Workspace.open(tmp_path / "workspace").runs()] == ["failed", "succeeded"]


def test_lost_answers_are_counted_and_asked_for_again(
    vary: Callable[..., Any], judge: ParaphrasingJudge, llm: FakeLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens.llm.client.backoff_s", lambda *_: 0.0)
    judge.answers = lambda asked: Answer(drop=True) if asked.text.startswith("When") else None
    done = vary("mine.yaml", "--json")
    assert done.code == 0, done.err
    assert (done.document["unanswered"], done.document["without"]) == (1, ["queue"])
    judge.answers = lambda asked: None
    before = len(llm.asked)
    assert vary("mine.yaml", "--force", "--json").document["n_variants"] == 6
    assert len(llm.asked) == before + 1


def test_an_endpoint_that_refuses_stops_at_once(
    vary: Callable[..., Any], judge: ParaphrasingJudge, llm: FakeLlm
) -> None:
    judge.answers = lambda asked: Answer.error(401, "bad key")
    done = vary("minimal", "--max-concurrency", "2")
    assert done.code == 1
    assert "401" in done.err
    assert len(llm.asked) <= 4
    assert leftovers(Path.cwd()) == set()


def test_prompts_of_ones_own_are_sent_and_named(
    vary: Callable[..., Any], judge: ParaphrasingJudge, tmp_path: Path
) -> None:
    own = judge.prompt_dir = tmp_path / "prompts"
    own.mkdir()
    (own / "paraphrase.txt").write_text("version: 12\n--- user\n{n} times, otherwise: {text}\n")
    done = vary("mine.yaml", "--prompt-dir", str(own), "--json")
    assert done.code == 0, done.err
    assert done.document["prompt_hash"] == paraphrase_prompts(own).prompt_hash != paraphrase_prompts().prompt_hash
    assert "paraphrase version 12, paraphrase-retry version 1" in Path("out.yaml").read_text()
    (own / "paraphrase.txt").write_text("version: 12\n--- user\n{n} times, otherwise: {words}\n")
    done = vary("mine.yaml", "--prompt-dir", str(own), "--force")
    assert done.code == 2
    assert "unknown placeholder {words}" in done.err


ASK = ("--model", "fake", "--base-url", "URL")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--base-url", "URL"], "--base-url is about a language model, and none is named. hint: add --model."),
        (["--prompt-dir", "."], "--prompt-dir is about a language model, and none is named."),
        (["--model", "fake", "-o", "a.yaml"], "it is not said where fake runs"),
        ([*ASK], "--model needs a file to write the suite to."),
        (["--json"], "--json needs a file to write the suite to."),
        (
            [*ASK, "-o", "a.yaml", "--rule", "names"],
            "--rule is about variants by rule",
        ),
        ([*ASK, "-o", "a.yaml", "--seed", "0"], "--seed is about variants by rules"),
        ([*ASK, "-o", "a.yaml", "--address", "x"], "--address is for offline models"),
        ([*ASK, "-o", "../a.yaml"], "lies outside the base directory"),
        ([*ASK, "-o", "/tmp/a.yaml"], "lies outside the base directory"),
        ([*ASK, "-o", "a.json"], "a.json is not a YAML file"),
        ([*ASK, "-o", "new/a.yaml"], "new is no folder that you can write to"),
        ([*ASK, "-o", "mine.yaml"], "mine.yaml exists already"),
        ([*ASK, "-o", "a.yaml", "--budget-usd", "1"], "without the prices"),
        (
            [*ASK, "-o", "a.yaml", "--prompt-dir", "no"],
            "no is not a folder of prompts",
        ),
        ([*ASK, "-o", "a.yaml", "--per-prompt", "0"], "--per-prompt"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_asked_or_written(
    raylens: Callable[..., Any], llm: FakeLlm, tmp_path: Path, words: list[str], says: str
) -> None:
    given = [llm.base_url if word == "URL" else word for word in words]
    done = raylens(tmp_path / "workspace", "suites", "vary", "mine.yaml", *given)
    assert (done.code, done.out) == (2, ""), done.err
    assert says in done.err
    assert done.err.count("error: ") == 1
    assert (llm.asked, leftovers(Path.cwd())) == ([], set())
    assert not (tmp_path / "workspace").exists()


def test_no_more_is_asked_of_a_suite_that_is_full(raylens: Callable[..., Any], llm: FakeLlm, tmp_path: Path) -> None:
    many = "".join(f"    - x = {n}\n" for n in range(2, 102))
    Path("full.yaml").write_text(f"- id: a\n  text: x = 1\n  variants:\n{many}")
    words = ["suites", "vary", "full.yaml", "-o", "a.yaml", "--model", "fake", "--base-url", llm.base_url]
    done = raylens(tmp_path / "workspace", *words)
    assert done.code == 2
    assert "every prompt of full has 100 variants" in done.err
    assert llm.asked == []


PROBE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ray", "transformers"}:
            raise AssertionError(f"an endpoint is asked without {name}")

sys.meta_path.insert(0, Refuse())
from raylens_app.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_after_ctrl_c_nothing_is_half_written_and_no_question_is_paid_for_twice(
    vary: Callable[..., Any], judge: ParaphrasingJudge, llm: FakeLlm, tmp_path: Path
) -> None:
    judge.delay_s = 0.2
    words = ["suites", "vary", "minimal", "-o", "out.yaml", "--model", "fake", "--base-url", llm.base_url]
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, "--workspace", str(tmp_path / "workspace"), *words, "--max-concurrency", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(llm.asked) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("stopped by Ctrl-C.\n")
    assert "Traceback" not in err
    assert leftovers(Path.cwd()) == set()
    before, judge.delay_s = len(llm.asked), 0.0
    assert before < 24
    done = vary("minimal", "--json")
    assert done.code == 0, done.err
    # Those under way when it was stopped, and no others, are asked again.
    assert 24 <= len(llm.asked) <= 24 + 4
    assert done.document["usage"]["cached"] >= before - 4
    assert [run.status for run in Workspace.open(tmp_path / "workspace").runs()] == ["stopped", "succeeded"]


def test_variants_by_rules_are_written_whole_and_told(raylens: Callable[..., Any], tmp_path: Path) -> None:
    words = ["suites", "vary", "minimal", "-o", "ruled.yaml"]
    done = raylens(tmp_path / "workspace", *words, "--json")
    assert done.code == 0, done.err
    assert (done.document["n_prompts"], done.document["n_variants"], done.document["name"]) == (24, 120, "ruled")
    assert done.document["digest"] == load_suite("ruled.yaml").digest
    assert raylens(tmp_path / "workspace", *words).code == 2
    assert raylens(tmp_path / "workspace", *words, "--force", "--per-prompt", "1").code == 0
    assert load_suite("ruled.yaml").n_forms == 48
    assert json.loads(raylens(tmp_path / "workspace", "suites", "show", "ruled.yaml", "--json").out)["name"] == "ruled"
    assert not (tmp_path / "workspace").exists()
