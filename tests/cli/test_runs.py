"""``raylens runs`` and ``raylens stop``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.cli.output import data_size, duration

Raylens = Callable[..., Any]


def test_runs_are_listed_the_newest_first(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "runs")
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["train-1", "failed"], ["cache-1", "succeeded"]]
    assert "600 of 1,200 tokens (50%)" in lines[3]
    assert "it␛[31m broke" in lines[2]
    assert "1 older runs; --limit 2 shows all." in raylens(tiny_workspace, "runs", "--limit", "1").err


def test_runs_as_json_hold_the_whole_record_and_no_secret(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "runs", "--json")
    assert [record["run_id"] for record in done.document] == ["train-1", "cache-1"]
    assert done.document[1]["config"]["n_tokens"] == 1234
    assert datetime.fromisoformat(done.document[1]["started_at"]) <= datetime.now(UTC)
    assert "hf_not_to_be_seen" not in done.out


def test_one_run_in_full(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "runs", "cache")
    assert done.out.startswith("cache-1  succeeded\n")
    for part in ("0123456789abcdef", "tokens_total   1,200", "n_tokens   1,234", "600 of 1,200 tokens (50%)"):
        assert part in done.out
    assert raylens(tiny_workspace, "runs", "train-1", "--json").document["error"] == "it\x1b[31m broke"
    unknown = raylens(tiny_workspace, "runs", "nope")
    assert unknown.code == 2
    assert "cache-1" in unknown.err


def test_no_runs_is_no_error(raylens: Raylens, own_workspace: Workspace) -> None:
    done = raylens(own_workspace.url, "runs")
    assert (done.code, done.out) == (0, "")
    assert raylens(own_workspace.url, "runs", "--json").document == []


def test_stop_reaches_a_run_at_work_and_waits_for_its_end(raylens: Raylens, own_workspace: Workspace) -> None:
    began, asked = threading.Event(), threading.Event()

    def work() -> None:
        with RunJournal.start(own_workspace.files, "cache", {}, run_id="cache-7", beat_s=0.02) as journal:
            began.set()
            while not journal.stop_requested():
                asked.wait(0.01)
            journal.stopped()

    worker = threading.Thread(target=work)
    worker.start()
    assert began.wait(30)
    done = raylens(own_workspace.url, "stop", "cache-7", "--wait")
    worker.join(30)
    assert not worker.is_alive()
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        "asked cache-7 to stop; it finishes what it is at.",
        "cache-7 has ended: stopped.",
    ]
    assert "is not running: it is stopped." in raylens(own_workspace.url, "stop", "cache-7").err
    assert raylens(own_workspace.url, "stop", "nope").code == 2


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
)
def test_durations_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (3_449_000, "3.4 MB"), (999_600, "1.0 MB"), (12e9, "12 GB")]
)
def test_sizes_for_people(size: float, shown: str) -> None:
    assert data_size(size) == shown
