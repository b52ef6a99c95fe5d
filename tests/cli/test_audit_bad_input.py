"""What an audit cannot be asked for: one sentence, exit code 2, and nothing is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]
AUDIT = ("audit", "run", "-c", "raylens/pico")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*AUDIT, "--device", "tpu"), "device is not valid: it is one of auto, cpu, cuda, cuda:1 and mps (got 'tpu')"),
        ((*AUDIT, "--device", "cuda:7"), "there is no device 'cuda:7' here"),
        ((*AUDIT, "--no-sae", "--sae", "raylens-pico-res/layer_3"), "--sae and --no-sae exclude one another"),
        ((*AUDIT, "--sae", ""), "--sae names nothing"),
        ((*AUDIT, "--run", ""), "--run names nothing"),
        ((*AUDIT, "--revision", "abc"), "raylens/pico holds revision afc43130db2f, and abc was asked for"),
        (
            (*AUDIT, "--target-fpr", "3e-30"),
            "target_fpr is not valid: input should be greater than or equal",
        ),
        (("audit", "run", "-c", ""), "the name of the model is empty"),
        (("audit", "run", "-c", "a-file"), "a-file is a file, and a model is a folder"),
        (("audit", "run", "-c", "~nobody-of-this-name/x"), "unknown model '~nobody-of-this-name/x'"),
        (
            ("audit", "bench", "--target-fpr", "1e-300"),
            "a target false-positive rate of 1e-300 is not between",
        ),
        (("audit", "calibrate", "-c", "raylens/pico", "--dry-run"), "raylens/pico is the reference itself"),
        (("audit", "calibrate", "-c", "x", "--remove", "y"), "--remove excludes --candidate and --dry-run"),
        (("audit", "calibrate", "--remove", "mine"), "unknown benign fine-tune 'mine'"),
        (("audit", "calibrations", "--of", "mine"), "unknown calibration 'mine'"),
        (("audit", "find-trigger", "-c", "x", "--no-sae", "--sae", "a/b"), "--sae and --no-sae exclude one another"),
        (("organisms", "list", "--kind", "foo"), "--kind is not 'foo'"),
    ],
)
def test_it_is_said_in_one_sentence(
    raylens: Raylens,
    own_workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    done = raylens(own_workspace.url, *words)
    told = " ".join(done.err.split())
    assert (done.code, done.out) == (2, "")
    assert says in told
    assert told.count("error: ") == 1
    assert not own_workspace.files.folders("audits")


@pytest.mark.parametrize("words", [AUDIT, ("audit", "list")])
def test_a_file_is_no_workspace(raylens: Raylens, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    done = raylens(tmp_path / "file", *words)
    assert done.code == 2
    assert "is a file, and a workspace is a folder" in done.err or "there is no workspace at" in done.err


def test_benign_fine_tunes_are_listed(raylens: Raylens, own_workspace: Workspace) -> None:
    rows = json.loads(raylens(own_workspace.url, "audit", "calibrations", "--json").out)
    assert {(row["of"], row["n"], row["families"]) for row in rows} == {("bundle", 120, 12)}
    assert all(row["settings"]["dtype"] == "float32" for row in rows)
    first = rows[0]["id"]
    scores = json.loads(raylens(own_workspace.url, "audit", "calibrations", "--of", first, "--json").out)
    assert len(scores) == 120
    assert set(scores[0]) == {"organism", "family", "score"}
    assert first in raylens(own_workspace.url, "audit", "calibrations").out
