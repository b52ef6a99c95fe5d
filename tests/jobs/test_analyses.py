"""A colleague's analysis of a real SAE: exported, taken in elsewhere, and looked at there (A3.07)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache_runs import SAE
from raylens.ids import SaeId
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main

FEATURES = [str(feature) for feature in range(0, 60, 4)]


@pytest.fixture
def elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--workspace", str(tmp_path / "elsewhere"), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_analysis_goes_from_one_workspace_to_another(
    copy: Workspace, raylens: Callable[..., Any], elsewhere: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:  # A3.07
    chosen = [word for feature in FEATURES for word in ("--feature", feature)]
    code, explained, err = raylens("explain", "--sae", SAE, "--min-examples", "10", *chosen)
    assert code == 0, err
    assert explained["statuses"]["ok"] >= 5
    code, _, err = raylens("score", "--sae", SAE)
    assert code == 0, err
    own = CacheReader(copy, copy.caches()[0])
    best = max(own.table("feature_stats", SaeId.parse(SAE)).to_pylist(), key=lambda row: row["n_windows"])["feature"]  # pyright: ignore[reportOptionalMemberAccess]
    _, expected, _ = raylens("feature", f"f_3_{best}", "--windows", "5")

    for form in ("parquet", "neuronpedia"):
        sent = tmp_path / form
        code, figures, err = raylens("export", "features", "--sae", SAE, "--out", str(sent), "--format", form)
        assert code == 0, err
        assert figures["features"] == own.d_sae(SaeId.parse(SAE))
        assert figures["explanations"] == len(FEATURES)
        assert figures["scores"] > 0
        code, out, err = elsewhere("import", "features", str(sent), "--name", form, "--json")
        assert code == 0, err
        taken = json.loads(out)
        assert taken["new"]
        assert {key: taken[key] for key in ("features", "windows", "explanations", "scores")} == {
            key: figures[key] for key in ("features", "windows", "explanations", "scores")
        }

        code, out, err = elsewhere("feature", f"f_3_{best}", "--cache", form, "--windows", "5", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["statistics"] == expected["statistics"]
        assert shown(found) == shown(expected)
        code, out, err = elsewhere("features", "--cache", form, "--json", "--limit", "5")
        assert code == 0, err
        assert len(json.loads(out)) > 0

        again = tmp_path / f"{form}-again"
        words = ("export", "features", "--cache", form, "--out", str(again), "--format", form)
        assert elsewhere(*words)[0] == 0
        assert files(again) == files(sent)
        assert elsewhere("import", "features", str(sent))[1].endswith("holds it already\n")
    asked = "SELECT count(*) AS n, count(DISTINCT cache_id) AS caches FROM explanations"
    assert json.loads(elsewhere("sql", asked, "--format", "json")[1]) == [{"n": 2 * len(FEATURES), "caches": 2}]

    # The SAE is in two caches now: which one is meant has to be said.
    code, _, err = elsewhere("feature", f"f_3_{best}")
    assert code == 2
    assert "names 2 features" in err


def shown(page: dict[str, Any]) -> list[Any]:
    """Texts and activations of a feature's page; windows are numbered anew."""
    return [{key: one[key] for key in one if key not in ("window_id", "doc_id")} for one in page["windows"]]


def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    raylens: Callable[..., Any], elsewhere: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    code, _, err = raylens("export", "features", "--out", str(sent))
    assert code == 2
    assert "holds 2 SAEs" in err
    assert raylens("export", "features", "--sae", SAE, "--windows", "2", "--out", str(sent))[0] == 0
    code, _, err = raylens("export", "features", "--sae", SAE, "--out", str(sent))
    assert code == 2
    assert "is there already" in err
    code, _, err = elsewhere("import", "features", str(tmp_path / "nowhere"))
    assert code == 2
    assert "is no folder" in err
    (sent / "logits.parquet").write_bytes(b"\x80\x04N.")
    code, out, err = elsewhere("import", "features", str(sent))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sent / 'logits.parquet'} is no Parquet file, or damaged")
    assert err.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()
