"""Two ``raylens cache`` at once in one workspace: of one cache the second is refused, of two both succeed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_runs import Made, cache_words
from raylens.store.lock import holder
from raylens.store.runs import read_runs
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main


@contextmanager
def another(workspace: Path, words: list[str], cache_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``raylens`` with ``words``, from the moment when it holds its cache."""
    command = [sys.executable, "-m", "raylens", "--workspace", str(workspace), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        store = Workspace.open(workspace).cache(cache_id)
        while holder(store.files, store.lock_folder) is None:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_of_one_cache_the_second_run_is_refused_and_of_another_it_goes_on_beside_it(
    undisturbed: Made, texts: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, few = cache_words(texts), folder.parent / "few.txt"
    few.write_text(sorted(texts.iterdir())[0].read_text()[:2000])
    with another(folder, words, undisturbed.cache_id) as first:
        # Held still, so that it is at work whatever this machine is busy with.
        os.kill(first.pid, signal.SIGSTOP)
        try:
            assert main(["--workspace", str(folder), *words]) == 2
        finally:
            os.kill(first.pid, signal.SIGCONT)
        said = capsys.readouterr()
        (at_work,) = [run for run in read_runs(Workspace.open(folder).files) if run.status == "running"]
        assert said.out == ""
        (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert f"cache {undisturbed.cache_id} is being written by run {at_work.run_id}" in line
        assert f"pid {first.pid}" in line
        assert f"hint: wait until it ends, or end it with raylens stop {at_work.run_id}" in line

        assert main(["--workspace", str(folder), *cache_words(few), "--json"]) == 0
        other = json.loads(capsys.readouterr().out)
        _, errors = first.communicate(timeout=200)
    assert first.returncode == 0, errors
    runs = {run.run_id: run for run in read_runs(Workspace.open(folder).files)}
    beside = runs[other["run_id"]]
    before, after = runs[at_work.run_id].finished_at, beside.finished_at
    assert before is not None
    assert after is not None
    assert beside.started_at < before, "they ran at once"
    assert sorted(run.status for run in runs.values()) == ["succeeded", "succeeded", "failed"]
    workspace = Workspace.open(folder)
    assert workspace.caches() == tuple(sorted([undisturbed.cache_id, other["cache_id"]]))
    assert Made(workspace, undisturbed.cache_id, {}).rows().equals(undisturbed.rows())
    small = Made(workspace, other["cache_id"], other).rows()
    assert small.num_rows == other["activations_merged"] > 0
