"""More than one node: one that leaves mid-run changes nothing, one that cannot see the workspace is refused.

The session's process holds a local Ray of its own, so each case runs this file as a program, which starts two
raylets, gives them a run and prints what came of it.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cache_runs import Made, lend_map, make
from raylens.config import CacheConfig
from raylens.errors import WorkspaceError
from raylens.store.runs import read_runs
from raylens.store.workspace import Workspace
from raylens_jobs.cache import plan_cache

STORE_BYTES = 100 * 2**20
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A dead node is noticed in seconds, where Ray's own settings take a quarter of a minute."""
SUPPORT = Path(__file__).parents[1] / "support"


def run_case(case: str, workspace: Path, config: CacheConfig) -> dict[str, Any]:
    """Run one of the cases below in a process of its own; what it said."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, case, str(workspace), config.model_dump_json()]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=220)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(240)
# A4.04: a run over several nodes, of which one goes.
def test_a_node_removed_mid_run_changes_nothing(undisturbed: Made, config: CacheConfig, tmp_path: Path) -> None:
    """On two simulated Ray nodes, one removed mid-run, the result equals an undisturbed run."""
    # Blocks of one batch: many, so that some are still to come, and batched as in the blocks of two.
    config = config.model_copy(update={"workers": 2, "shard_windows": 8})
    lend_map(undisturbed, tmp_path, plan_cache(config).cache_id)
    said = run_case("remove", tmp_path, config)
    assert said["encoders_there"] == 1, "the node that was removed had an encoder"
    assert 0 < said["shards_then"] < said["figures"]["blocks_total"], "it was removed mid-run"
    assert said["alive_after"] == 1
    made = Made(Workspace.open(tmp_path), said["cache_id"], said["figures"])
    assert made.rows().equals(undisturbed.rows())
    assert [run.status for run in read_runs(made.workspace.files)] == ["succeeded"]
    assert not [one.path for one in made.workspace.files.scan() if one.temporary]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_workspace_that_one_node_cannot_see_is_refused_before_work(config: CacheConfig, tmp_path: Path) -> None:
    """The second node runs where another, empty disk is mounted over the workspace's folder."""
    said = run_case("hide", tmp_path / "disk" / "workspace", config)
    assert said["error"] == "WorkspaceError"
    assert said["hidden_node"][:8] in said["message"]
    assert "does not see the workspace" in said["message"]
    workspace = Workspace.open(tmp_path / "disk" / "workspace")
    (run,) = read_runs(workspace.files)
    assert run.status == "failed"
    # The lock of the refused run stays as a released claim; there is no cache and no probe.
    written = {Path(one.path).parts[0] if "/lock/" not in one.path else "lock" for one in workspace.files.scan()}
    assert written == {"raylens.json", "runs", "lock"}


# --------------------------------------------------------------------------- what runs in the other process


@contextmanager
def head() -> Iterator[Any]:
    """A Ray of one node with one CPU, to which this process is connected; more nodes may join it."""
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def remove(workspace: Path, config: CacheConfig) -> dict[str, Any]:
    """Take the second node away after the first shard."""
    import ray

    with head() as cluster:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        seen: dict[str, Any] = {}

        def remove_once(_: Any) -> None:
            if not seen:
                raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
                seen["encoders_there"] = sum("MapWorker" in " ".join(child.cmdline()) for child in raylet.children())
                cluster.remove_node(second, allow_graceful=False)
                seen["shards_then"] = sum(1 for _ in workspace.glob("caches/*/shards/*/0*.json"))

        made = make(workspace, config, remove_once)
        alive = sum(node["Alive"] for node in ray.nodes())
        return seen | {"cache_id": made.cache_id, "figures": made.figures, "alive_after": alive}


def hide(workspace: Path, config: CacheConfig) -> dict[str, Any]:
    """Have a second node that sees an empty folder where the workspace is."""
    import ray

    workspace.parent.mkdir(parents=True)
    with head() as cluster:
        own = ray.get_runtime_context().get_node_id()
        with blind_node(cluster, workspace.parent):
            (hidden,) = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {own}
            try:
                make(workspace, config)
            except WorkspaceError as error:
                return {"error": type(error).__name__, "message": str(error), "hidden_node": hidden}
    return {"error": None}


@contextmanager
def blind_node(cluster: Any, folder: Path) -> Iterator[None]:
    """A raylet in a mount namespace of its own, with an empty file system over ``folder``."""
    options = f"--num-cpus=1 --object-store-memory={STORE_BYTES} --dashboard-agent-listen-port=0 --block"
    start = f"{shlex.quote(sys.executable)} -m ray.scripts.scripts start --address={cluster.address} {options}"
    namespace = "-m" if os.geteuid() == 0 else "-rm"
    script = f"mount -t tmpfs none {shlex.quote(str(folder))} && exec {start}"
    process = subprocess.Popen(["unshare", namespace, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        # It says so once it has joined.
        assert any("Ray runtime started" in line for line in process.stdout), "the second node did not start"
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(timeout=30)
        for child in psutil.wait_procs(children, timeout=5)[1]:
            child.kill()


if __name__ == "__main__":
    case, folder, request = sys.argv[1:]
    outcome = {"remove": remove, "hide": hide}[case](Path(folder), CacheConfig.model_validate_json(request))
    sys.stdout.write(json.dumps(outcome) + "\n")
