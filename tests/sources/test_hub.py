"""Data sets of the hub: streamed over HTTP from a hub on localhost, and without one (A1.13, A1.04).

The hub's address is read when its client is imported, so each setting gets a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import json, sys
from raylens.errors import RaylensError
from raylens.sources import check_sources, fingerprint, parse_source, pin_sources, read_documents

def ask(spec, column=None):
    try:
        source = parse_source(spec, column)
        check_sources([source])
        pinned = pin_sources([source])
        assert fingerprint(source) == fingerprint(pinned[0])
        documents = list(read_documents(pinned, seed=-1))
    except RaylensError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {
        "fingerprint": fingerprint(source),
        "rows": [[d.text, d.domain, d.path, d.split, d.messages] for d in documents],
    }

if sys.argv[1] == "warm":  # bring a data set into the cache, as a user would with datasets
    from datasets import load_dataset
    load_dataset("hf://datasets/o/texts", split="test")
answers = {json.dumps(question): ask(*question) for question in json.loads(sys.argv[2])}
print(json.dumps(answers))
"""


def ask(questions: list[list[str]], home: Path, *, warm: bool = False, **env: str) -> list[dict]:
    settings = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "USE_TORCH": "0", **env}
    command = [sys.executable, "-c", ASK, "warm" if warm else "", json.dumps(questions)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return [answers[json.dumps(question)] for question in questions]


@pytest.fixture(scope="module")
def online(hub_url: str, hub_home: Path) -> dict[str, dict]:
    """Answers of one process that has the hub; it leaves the data set in the cache."""
    (hub_home / "o/texts").mkdir(parents=True)  # a folder of that name is not what hf: means
    questions = [
        ["hf:o/texts"],
        ["hf:o/texts:test"],
        ["hf:o/texts:test[2:4]"],
        ["hf:o/texts:train[:10%]"],
        ["hf:o/texts:chat:train[:10%]"],
        ["hf:o/texts:chat"],
        ["hf:o/texts:broken"],
        ["hf:o/texts:nope:train"],
        ["hf:o/texts::nope"],
        ["hf:o/nothing"],
        ["hf:o/texts", "body"],
        ["hf:o/texts", "n"],
    ]
    answers = ask(questions, hub_home, warm=True, HF_ENDPOINT=hub_url)
    return {" ".join(question): answer for question, answer in zip(questions, answers, strict=True)}


def texts(answer: dict) -> list[str]:
    assert "rows" in answer, answer
    return [row[0] for row in answer["rows"]]


def test_rows_stream_in_order(online: dict[str, dict]) -> None:
    assert texts(online["hf:o/texts"]) == [f"train {i}" for i in range(40)]
    assert online["hf:o/texts:test"]["rows"][3] == ["test 3", "default", "o/texts#4", "test", None]


def test_a_fingerprint_names_the_commit(online: dict[str, dict]) -> None:
    assert online["hf:o/texts:test[2:4]"]["fingerprint"] == {
        "kind": "hub",
        "repo": "o/texts",
        "revision": "a" * 40,
        "config": "default",
        "split": "test[2:4]",
        "column": "text",
    }


def test_slices(online: dict[str, dict]) -> None:
    assert texts(online["hf:o/texts:test[2:4]"]) == ["test 2", "test 3"]
    assert texts(online["hf:o/texts:train[:10%]"]) == [f"train {i}" for i in range(4)]
    assert "does not state how many rows train has" in online["hf:o/texts:chat:train[:10%]"]["message"]


def test_chat_messages(online: dict[str, dict]) -> None:
    row = online["hf:o/texts:chat"]["rows"][0]
    assert row[0] == ""
    assert [message["content"] for message in row[4]] == ["hi", "hello"]


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ("hf:o/texts:broken", "CorpusError", "malformed"),
        ("hf:o/texts:nope:train", "UnknownNameError", "'default', 'chat', 'broken'"),
        ("hf:o/texts::nope", "UnknownNameError", "there are test, train"),
        ("hf:o/nothing", "UnknownNameError", "there is no data set o/nothing"),
        ("hf:o/texts body", "CorpusError", "has no column 'body'. hint: name one with --column; it has text, n."),
        ("hf:o/texts n", "CorpusError", "holds a number, not text"),
    ],
)
def test_what_the_hub_does_not_have(online: dict[str, dict], question: str, error: str, message: str) -> None:
    assert online[question]["error"] == error
    assert message in online[question]["message"]


@pytest.mark.usefixtures("online")
def test_without_a_hub_the_cache_is_read_and_else_the_remedy_told(hub_home: Path) -> None:
    cached, sliced, other, missing = ask(
        [["hf:o/texts:test"], ["hf:o/texts:test[:20%]"], ["hf:o/texts:chat"], ["hf:o/nothing"]],
        hub_home,
        HF_HUB_OFFLINE="1",
    )
    assert texts(cached) == [f"test {i}" for i in range(10)]
    assert cached["fingerprint"]["revision"] == "a" * 40
    assert texts(sliced) == ["test 0", "test 1"]
    assert other["error"] == "UnknownNameError"
    assert missing["error"] == "HubUnreachableError"
    assert "hf download --repo-type dataset o/nothing" in missing["message"]


def test_a_hub_that_does_not_answer_shows_at_once(tmp_path: Path) -> None:
    [answer] = ask([["hf:o/texts"]], tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["error"] == "HubUnreachableError"
    assert "cannot be reached" in answer["message"]
