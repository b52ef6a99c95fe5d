"""``kill -9`` of an encoder, of the driver and of the merge: a rerun equals a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cache_runs import Made, cache_words, make
from raylens.config import CacheConfig
from raylens.errors import DamagedFileError
from raylens.store.housekeeping import gc
from raylens.store.runs import read_runs
from raylens.store.workspace import Workspace


def cli(workspace: Path, *words: str) -> subprocess.Popen[bytes]:
    """``raylens`` as a process group of its own, as a terminal would start it."""
    command = [sys.executable, "-m", "raylens", "--workspace", str(workspace), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    """``kill -9`` the driver as soon as ``happened``; Ray's own processes notice and leave."""
    while not happened():
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        raise AssertionError(f"it ended before it could be killed: {process.stderr.read().decode()[-2000:]}")
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=30)


def n_files(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


def test_an_encoder_killed_mid_run_changes_nothing(
    undisturbed: Made, ray_cluster: None, config: CacheConfig, folder: Path
) -> None:
    killed: list[int] = []

    def kill_one(_: object) -> None:
        if not killed:
            workers = [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]
            # Those of an earlier run in the same cluster may still be on their way out.
            own = max(workers, key=lambda p: p.create_time())
            os.kill(own.pid, signal.SIGKILL)
            killed.append(own.pid)

    made = make(folder, config, kill_one)
    assert killed
    assert made.rows().equals(undisturbed.rows())
    # What the encoder was writing when it died is no file of the cache, and goes with the next collection.
    left = {one.path for one in made.workspace.files.scan() if one.temporary}
    assert {one.path for one in gc(made.workspace, grace_s=0).removals if one.reason == "unfinished file"} == left
    assert not [one.path for one in made.workspace.files.scan() if one.temporary]
    assert made.rows().equals(undisturbed.rows())


@pytest.mark.slow
def test_a_driver_killed_mid_run_is_shown_as_lost_and_a_rerun_completes_it(
    undisturbed: Made, config: CacheConfig, texts: Path, folder: Path
) -> None:
    process = cli(folder, *cache_words(texts))
    kill_when(process, lambda: n_files(folder, "caches/*/shards/*/0*.json") >= 3)
    reported = {p.name: p.stat().st_mtime_ns for p in folder.glob("caches/*/shards/*/0*.json")}
    assert [run.status for run in read_runs(Workspace.open(folder).files)] == ["lost"]
    made = make(folder, config)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("caches/*/shards/*/0*.json")}
    assert {name: after[name] for name in reported} == reported, "what was done was done again"
    assert made.rows().equals(undisturbed.rows())


@pytest.mark.slow
def test_a_merge_killed_midway_leaves_readers_where_they_were(
    undisturbed: Made, config: CacheConfig, texts: Path, tmp_path: Path
) -> None:
    # Not ``folder``: making the map is what keeps the merge busy until it is killed.
    process = cli(tmp_path, *cache_words(texts))
    kill_when(process, lambda: n_files(tmp_path, "caches/*/generations/*/activations/*.parquet") >= 2)
    workspace = Workspace.open(tmp_path)
    assert workspace.cache(undisturbed.cache_id).manifest() is None
    made = make(tmp_path, config)
    assert made.figures["tokens"] == 0
    assert made.rows().equals(undisturbed.rows())


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_a_damaged_shard_is_named_and_made_again(
    undisturbed: Made, ray_cluster: None, config: CacheConfig, folder: Path, harm: str
) -> None:
    make(folder, config.model_copy(update={"n_tokens": 4_000}))
    shard = sorted(folder.glob("caches/*/shards/*/00000001-*.parquet"))[0]
    content = shard.read_bytes()
    middle = len(content) // 3
    if harm == "truncate":
        shard.write_bytes(content[:middle])
    else:
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
        with pytest.raises(DamagedFileError, match=shard.name):
            make(folder, config)
        shard.unlink()
    made = make(folder, config)
    assert made.rows().equals(undisturbed.rows())
