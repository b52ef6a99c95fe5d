"""``raylens export features`` and ``raylens import features``, as a person sees them; a real cache's is tests/jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Raylens = Callable[..., Any]

HEAVY = {"torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers"}
PROBE = """
import sys
from raylens_app.cli.main import main
code = main({arguments!r})
loaded = sorted({heavy!r} & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else code)
"""


@pytest.mark.parametrize("form", ["parquet", "neuronpedia"])
def test_a_workspace_takes_in_and_looks_after_what_a_colleague_sent(
    raylens: Raylens, tiny_workspace: Path, tmp_path: Path, form: str
) -> None:  # A3.07
    sent, own = tmp_path / "sent", tmp_path / "own"
    done = raylens(tiny_workspace, "export", "features", "-s", "layer_3", "--format", form, "-o", str(sent), "-n", "5")
    assert done.code == 0, done.err
    assert "40 features of tiny-res/layer_3" in done.out
    done = raylens(own, "import", "features", str(sent), "--name", "theirs")
    assert done.code == 0, done.err
    cache = done.out.split()[1].rstrip(":")
    assert f"raylens features --cache {cache}" in done.err
    (run,) = raylens(own, "runs", "--json").document
    assert (run["kind"], run["status"]) == ("import", "succeeded")

    page = raylens(own, "feature", "f_3_0", "--json").document
    theirs = raylens(tiny_workspace, "feature", "f_3_0", "--json").document
    for key in ("statistics", "logits", "neighbours"):
        assert page[key] == theirs[key]
    assert [one["tokens"] for one in page["windows"]] == [one["tokens"] for one in theirs["windows"]][:5]
    assert raylens(own, "features", "--limit", "3", "--json").document[0]["feature"] is not None
    windows = raylens(own, "sql", "SELECT count(*) AS n FROM windows", "--format", "json").document
    assert 0 < windows[0]["n"] <= 4 * 5

    # Where features are silent is not known of a part, so nothing is explained or scored from it.
    done = raylens(own, "explain", "--cache", "theirs")
    assert done.code == 2
    assert "holds a colleague's analysis" in done.err
    assert raylens(own, "gc", "--grace", "0s", "--json").document["removals"] == []
    assert raylens(own, "feature", "f_3_0", "--json").document == page
    assert "theirs" in raylens(own, "du").out
    assert raylens(own, "rm", "theirs", "--yes").code == 0
    assert raylens(own, "import", "features", str(sent), "--json").document["new"], "what was removed can come again"


def test_it_needs_none_of_the_model_stack(tiny_workspace: Path, tmp_path: Path) -> None:  # A0.20
    for form in ("parquet", "neuronpedia"):
        for words in (
            ["export", "features", "-s", "layer_3", "--format", form, "-o", str(tmp_path / form)],
            ["import", "features", str(tmp_path / form)],
        ):
            workspace = str(tiny_workspace if words[0] == "export" else tmp_path / "own")
            arguments = ["--workspace", workspace, *words]
            code = PROBE.format(arguments=arguments, heavy=HEAVY)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "40 features of tiny-res/layer_3" in done.stdout


def test_what_makes_no_sense_is_refused(raylens: Raylens, tiny_workspace: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")

    def refused(*words: str, workspace: Path = tiny_workspace) -> str:
        done = raylens(workspace, *words)
        assert (done.code, done.out) == (2, "")
        (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert " hint: " in line
        return line

    assert "holds 2 SAEs" in refused("export", "features", "-o", out)
    assert "layer_9" in refused("export", "features", "-s", "layer_9", "-o", out)
    assert "nowhere" in refused("export", "features", "-s", "layer_3", "--cache", "nowhere", "-o", out)
    assert "is there already" in refused("export", "features", "-s", "layer_3", "-o", str(tmp_path))
    assert "no workspace" in refused("export", "features", "-o", out, workspace=tmp_path / "none")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    assert "holds no analysis.json" in refused(
        "import", "features", str(tmp_path / "empty"), workspace=tmp_path / "own"
    )
    (tmp_path / "empty" / "analysis.json").write_text(json.dumps({"format": "else"}))
    assert "is no header" in refused("import", "features", str(tmp_path / "empty"), workspace=tmp_path / "own")
    assert not (tmp_path / "own").exists()
