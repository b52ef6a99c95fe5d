"""``raylens label`` and ``raylens labels``: what people say, kept, shown and exported."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raylens.store.housekeeping import remove_cache
from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]
CACHE = "a" * 16


@pytest.fixture
def labelled(own_workspace: Workspace, tiny_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """A workspace of the test's own with two caches of one SAE; user ann."""
    monkeypatch.delenv("RAYLENS_AUTHOR", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    tiny_cache(own_workspace, CACHE, name="one")
    tiny_cache(own_workspace, "b" * 16, name="two")
    return own_workspace.url


def test_a_label_is_kept_and_shown_wherever_the_feature_is(raylens: Raylens, labelled: str) -> None:
    done = raylens(labelled, "label", "f_3_0", "the word return", "--star", "--note", "check the end of files")
    assert (done.code, done.err) == (0, "")
    head, *said = done.out.splitlines()
    assert head == "f_3_0  tiny-res/layer_3/0"
    assert said[0] == "  ★ the word return [human, ann]"
    assert said[1].startswith("  note: check the end of files [ann, ")
    raylens(labelled, "label", "tiny-res/layer_3/0", "closing a function", "--author", "bob")
    for cache in ("one", "two"):
        shown = raylens(labelled, "feature", "f_3_0", "--cache", cache, "-n", "0").out
        assert "★ the word return [human, ann]" in shown
        assert "closing a function [human, bob]" in shown
        assert "note: check the end of files" in shown
    listed = raylens(labelled, "features", "--cache", "one", "--sae", "layer_3").out
    assert "people say" in listed.splitlines()[1]
    [row] = [line for line in listed.splitlines() if line.startswith("f_3_0 ")]
    assert "★ the word return; closing a function" in row


def test_json_and_sql_export_labels_beside_explanations(raylens: Raylens, labelled: str) -> None:
    raylens(labelled, "label", "f_3_0", "the word return", "--star", "--note", "hm")
    document = raylens(labelled, "feature", "f_3_0", "--cache", "one", "--json").document
    [explained] = document["explanations"]
    assert (explained["explainer"], explained["explanation"], explained["author"]) == (
        "human",
        "the word return",
        "ann",
    )
    [label], [note] = document["labels"], document["notes"]
    assert (label["starred"], label["type"], note["note"]) == (True, "human", "hm")
    assert datetime.fromisoformat(label["updated_at"]).utcoffset() is not None
    [row] = [row for row in raylens(labelled, "features", "--cache", "one", "--json").document if row["feature"] == 0]
    assert row["labels"] == [label]
    assert raylens(labelled, "label", "f_3_0", "--json").document["labels"] == [label]
    table = raylens(labelled, "sql", "SELECT * FROM labels", "--format", "csv").out
    [found] = csv.DictReader(io.StringIO(table))
    assert (found["sae"], found["feature"], found["label"]) == ("tiny-res/layer_3", "0", "the word return")
    query = "SELECT explanation FROM explanations JOIN feature_stats USING (cache_id, sae, feature) WHERE n_active > 0"
    assert raylens(labelled, "sql", query, "--format", "json").document == [{"explanation": "the word return"}] * 2


def test_words_are_taken_back_one_by_one(raylens: Raylens, labelled: str) -> None:
    said = raylens(labelled, "label", "f_3_0", "x", "--star", "--note", "one", "--json").document
    again = raylens(labelled, "label", "f_3_0", "--remove", "--json").document
    assert [(each["label"], each["starred"]) for each in again["labels"]] == [(None, True)]
    left = raylens(labelled, "label", "f_3_0", "--unstar", "--remove-note", said["notes"][0]["note_id"], "--json")
    assert (left.document["labels"], left.document["notes"]) == ([], [])
    assert "nobody has said anything" in raylens(labelled, "label", "f_3_0").err
    assert "people say" not in raylens(labelled, "feature", "f_3_0", "--cache", "one").out


def test_labels_lists_everything_and_outlives_caches(raylens: Raylens, labelled: str) -> None:
    assert "nobody has said anything" in raylens(labelled, "labels").err
    raylens(labelled, "label", "f_3_1", "self")
    raylens(labelled, "label", "f_3_0", "--star", "--note", "two\nlines", "--author", "bob")
    rows = raylens(labelled, "labels", "--json").document
    assert [(row["id"], len(row["labels"]), len(row["notes"])) for row in rows] == [("f_3_0", 1, 1), ("f_3_1", 1, 0)]
    assert [row["id"] for row in raylens(labelled, "labels", "--starred", "--json").document] == ["f_3_0"]
    assert [row["id"] for row in raylens(labelled, "labels", "--author", "ann", "--json").document] == ["f_3_1"]
    assert "nothing that was said is of this" in raylens(labelled, "labels", "--author", "nobody").err
    shown = raylens(labelled, "labels").out
    assert "two↵lines" in shown
    for cache in (CACHE, "b" * 16):
        remove_cache(Workspace.open(labelled), cache)
    assert [row["id"] for row in raylens(labelled, "labels", "--json").document] == [
        "tiny-res/layer_3/0",
        "tiny-res/layer_3/1",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["f_3_0", "a\x1b[2J"], "a label must be printable"),
        (["f_3_0", "x" * 301], "a label may have 300 characters, and this has 301."),
        (["f_3_0", ""], "a label must not be empty."),
        (["f_3_0", "x", "--remove"], "a label is given and taken away."),
        (["f_3_0", "--remove"], "tiny-res/layer_3/0 has no label of ann."),
        (["f_3_0", "--remove-note", "x"], "unknown note of ann on tiny-res/layer_3/0 'x'."),
        (["f_3_4000", "x"], "there is no feature f_3_4000."),
        (["nonsense", "x"], "'nonsense' is not a feature id."),
        (["f_3_0", "x", "--author", "a\nb"], "an author's name must be printable"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    raylens: Raylens, labelled: str, words: list[str], message: str
) -> None:
    done = raylens(labelled, "label", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1
    assert raylens(labelled, "labels", "--json").document == []


def test_two_people_at_once_lose_nothing(raylens: Raylens, labelled: str, environment: dict[str, str]) -> None:
    command = [str(Path(sys.executable).parent / "raylens"), "--workspace", labelled, "label"]
    processes = [
        subprocess.Popen(
            [*command, "f_3_0", f"by {who}", "--note", f"note {who}", "--author", who, "--json"],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for who in ("ann", "bob", "eve")
    ]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    for who, answer in zip(("ann", "bob", "eve"), answers, strict=True):
        assert f"by {who}" in [each["label"] for each in answer["labels"]], "each sees at least its own"
    [row] = raylens(labelled, "labels", "--json").document
    assert {each["label"] for each in row["labels"]} == {f"by {who}" for who in ("ann", "bob", "eve")}
    assert len(row["notes"]) == 3
