"""What only browses starts without the model stack (A0.20), proved in subprocesses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers",
    "faiss",
}  # fmt: skip

PROBE = """
import sys

HEAVY = {heavy!r}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"a light command imported {{name}}", name=name)

sys.meta_path.insert(0, Refuse())
{body}
loaded = sorted(HEAVY & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else code)
"""

ROOMS = """
import raylens.bundle.paths, raylens.bundle.stdlib, raylens.catalog, raylens.config, raylens.errors, raylens.ids
import raylens.audit.verdict, raylens.labels.client, raylens.labels.proxies, raylens.suites.checks
import raylens.corpus, raylens.corpus.tokenize, raylens.corpus.windows, raylens.schema, raylens.sources
import raylens.score.aggregate, raylens.score.scorers, raylens.score.shuffled, raylens.score.specialization
import raylens.store.cofiring, raylens.store.housekeeping, raylens.store.merge, raylens.store.publish
import raylens.store.reader, raylens.store.runs, raylens.store.shards, raylens.store.sql, raylens.store.views
import raylens.store.faiss_negatives, raylens.store.workspace
import raylens_app.cli.main
code = 0
"""

COMMAND = """
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
Workspace.open("made-here", create=True)
code = main(["--workspace", "made-here", *{arguments!r}])
"""


def run(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY, body=body)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_light_rooms_import_without_the_model_stack(tmp_path: Path) -> None:  # A0.20
    done = run(ROOMS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["cache", "--help"],
        ["sql", "SELECT count(*) FROM feature_stats", "--format", "json"],
        ["runs", "--json"],
        ["du", "--json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_run_without_the_model_stack(tmp_path: Path, arguments: list[str]) -> None:  # A0.20
    done = run(COMMAND.format(arguments=arguments), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("name", ["features", "feature f_3_0"])
def test_reading_features_refuses_an_empty_workspace_without_the_model_stack(tmp_path: Path, name: str) -> None:
    done = run(COMMAND.format(arguments=name.split()), tmp_path)
    assert done.returncode == 2
    assert "raylens cache makes a cache" in done.stderr
