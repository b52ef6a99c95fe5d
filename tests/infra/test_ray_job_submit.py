"""Every job runs through ``ray job submit``, on a Ray that wants a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ray_with_jobs import RayWithJobs, ray_with_jobs
from raylens.bundle.paths import ROOT as BUNDLE
from raylens.store.workspace import Workspace
from shown_commands import require_known

ADAPTER = next(path for path in sorted((BUNDLE / "organisms/adapters").iterdir()) if path.is_dir())
AUDITED = ["--no-sae", "--suite", "suite.yaml", "--max-new-tokens", "4", "--workers", "1"]
SUITE = 'prompts: [{id: add, text: "import os"}]'
# Each uses what those before it made.
JOBS: dict[str, list[str]] = {
    "cache": ["cache", "--n-tokens", "20000", "--workers", "1", "--no-merge", "--name", "submitted"],
    "merge": ["merge", "submitted"],
    "explain": ["explain", "--sae", "layer_3", "--max-latents", "2", "--min-examples", "5"],
    "score": ["score", "--sae", "layer_3", "--scorer", "rule"],
    "autointerp": ["raylens/pico", "--explainer", "lexical", "--n_tokens", "20000", "--max_latents", "1",
                    "--name", "a"],
    "record": ["record", "--layer", "3", "--max-samples", "64", "--workers", "1", "--out", "acts"],
    "train": ["train", "--activations", "acts", "--width", "64", "--k", "4", "--steps", "20", "--out", "own"],
    "evaluate": ["evaluate", "--sae-path", "own", "--model", "raylens/pico", "--text", "stdlib:held_out",
                 "--n-tokens", "2000"],
    "audit": ["audit", "run", "--candidate", str(ADAPTER), "--no-trigger-search", "--score-method",
              "logit_kl", "--session", "submitted", *AUDITED],
    "calibrate": ["audit", "calibrate", "--candidate", str(ADAPTER), *AUDITED],
    "find-trigger": ["audit", "find-trigger", "--candidate", str(ADAPTER), "--suite", "suite.yaml", "--workers", "1"],
}  # fmt: skip
WITHOUT_RAY = {"evaluate"}
"""They run in the process that Ray starts for the job."""


def entrypoint(name: str) -> list[str]:
    words = ["python", "-m", "raylens", *JOBS[name]]
    return words if name in WITHOUT_RAY else [*words, "--address", "auto"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_a_command_that_joins_a_cluster(name: str) -> None:
    assert require_known(entrypoint(name))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayWithJobs]:
    folder = tmp_path_factory.mktemp("submitted")
    workspace = str(folder / "workspace")
    Workspace.open(workspace, create=True)
    (folder / "suite.yaml").write_text(SUITE)
    with ray_with_jobs(RAYLENS_WORKSPACE=workspace, RAYLENS_BASE_DIR=str(folder)) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_it_runs_when_it_is_submitted(name: str, cluster: RayWithJobs) -> None:
    done = cluster.submit(*entrypoint(name))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_what_they_made_is_in_the_workspace(cluster: RayWithJobs) -> None:
    def shown(*words: str) -> Any:
        command = [sys.executable, "-m", "raylens", *words, "--json"]
        done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    kinds = {run["kind"] for run in shown("runs") if run["status"] == "succeeded"}
    assert {"cache", "merge", "explain", "score", "record", "train", "audit"} <= kinds
    assert [run["session"] for run in shown("audit", "list")] == ["submitted"]


@pytest.mark.slow
def test_nobody_starts_a_job_without_the_token(cluster: RayWithJobs) -> None:
    environment = {**cluster.environment, "RAY_AUTH_TOKEN": "another-token-than-that-of-this-ray-9876543210"}
    done = RayWithJobs(cluster.address, environment).submit("python", "-m", "raylens", "--version")
    assert done.returncode != 0
    assert "raylens " not in done.stdout
    assert os.environ.get("RAY_AUTH_TOKEN") is None
