"""``raylens catalog``: what a person and a program read."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from raylens.catalog import Catalog, snapshot, supported_models
from raylens_app.cli.main import main

Cli = Callable[..., subprocess.CompletedProcess[str]]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_file_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAYLENS_CATALOG", raising=False)
    monkeypatch.delenv("RAYLENS_WORKSPACE", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def test_it_lists_every_release(capsys: Capture) -> None:
    assert main(["catalog"]) == 0
    out = capsys.readouterr().out
    catalog = Catalog.load()
    assert all(release in out for release in catalog.release_names)
    assert "google/gemma-2-2b" in out
    assert "labels" in out  # A0.08


def test_json_is_the_supported_models_list(capsys: Capture) -> None:  # A0.07
    assert main(["catalog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == supported_models(Catalog.load())


def test_a_models_releases_then_the_saes_of_one(capsys: Capture) -> None:  # A0.03
    assert main(["catalog", "--model", "gemma-2-2b"]) == 0
    shown = capsys.readouterr()
    assert "gemma-scope-2b-pt-res " in shown.out
    assert "--release" in shown.err
    assert main(["catalog", "--release", "gemma-scope-2b-pt-res", "--all"]) == 0
    assert capsys.readouterr().out.count("gemma-scope-2b-pt-res/") == 316


def test_few_saes_are_listed_at_once(capsys: Capture) -> None:  # A0.05
    assert main(["catalog", "--model", "mistral-7b"]) == 0
    out = capsys.readouterr().out
    assert out.count("mistral-7b-res-wg/blocks.") == 3
    assert "resid_pre.16" in out


def test_saes_of_another_model_are_shown_as_such(capsys: Capture) -> None:  # A0.04
    assert main(["catalog", "--model", "meta-llama/Llama-3.1-8B"]) == 0
    own, _, other = capsys.readouterr().out.partition("trained on another model")
    assert "llama_scope_lxr_8x" in own
    assert "llama-3-8b-it-res-jh" not in own
    assert "llama-3-8b-it-res-jh" in other
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in other

    assert main(["catalog", "--model", "meta-llama/Llama-3.1-8B", "--json"]) == 0
    fits = {row["sae"]: row["fit"] for row in json.loads(capsys.readouterr().out)}
    assert fits["llama-3-8b-it-res-jh/blocks.25.hook_resid_post"] == "trained on another model"
    assert fits["llama_scope_lxr_8x/l0r_8x"] == "exact"


def test_a_correction_is_told(capsys: Capture) -> None:
    assert main(["catalog", "--release", "gemma-scope-9b-it-res"]) == 0
    assert "and 29 more: sae-lens lists it under gemma-2-9b" in capsys.readouterr().out


def test_limits_and_labels(capsys: Capture) -> None:
    assert main(["catalog", "--model", "gpt2", "--limit", "5", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
    assert main(["catalog", "--release", "gemma-2-2b-res-matryoshka-dc", "--labels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 13
    assert all(row["labels_available"] for row in rows)
    assert main(["catalog", "--limit", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert main(["catalog", "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(Catalog.load().entries)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--model", "gemma-2-2c"], "unknown model 'gemma-2-2c'", "gemma-2-2b"),
        (["--model", "gpt-4o"], "through an API only", "ablation and counterfactuals"),  # A0.06
        (["--release", "gemma-scop"], "unknown SAE release", "gemma-scope"),
        (["--catalog-file", "missing.yaml"], "missing.yaml does not exist", "--catalog-file"),
    ],
)
def test_what_is_not_there_is_exit_2_and_one_line(
    capsys: Capture, arguments: list[str], message: str, hint: str
) -> None:
    assert main(["catalog", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert hint in shown.err.partition(" hint: ")[2]


def test_the_users_own_file_counts(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "saes:\n- {sae: ours/layer_3, model: me/mine, hook: resid_post.3, path: x}\n"
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws/catalog.yaml").write_text(text.replace("layer_3", "layer_4"))

    def names(*arguments: str) -> list[str]:
        assert main([*arguments, "--model", "me/mine", "--json"]) == 0
        return [row["sae"] for row in json.loads(capsys.readouterr().out)]

    assert names("--workspace", "ws", "catalog") == ["ours/layer_4"]
    assert names("catalog", "--catalog-file", "a.yaml") == ["ours/layer_3"]
    monkeypatch.setenv("RAYLENS_CATALOG", "a.yaml")
    assert names("--workspace", "ws", "catalog") == ["ours/layer_3"]

    (tmp_path / "a.yaml").write_text(text.replace("hook:", "hok:"))
    assert main(["catalog"]) == 2
    assert "a.yaml, line 2: saes.1." in capsys.readouterr().err


def test_refresh_writes_the_committed_snapshot(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "snapshot.json.gz"
    assert main(["catalog", "refresh", "--output", str(target)]) == 0
    shown = capsys.readouterr()
    assert gzip.decompress(target.read_bytes()) == gzip.decompress(snapshot.PATH.read_bytes())
    assert "13857 SAEs of 170 releases" in shown.err
    assert main(["catalog", "refresh", "--output", str(tmp_path / "no/where.gz")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_as_a_command(cli: Cli) -> None:
    done = cli("catalog", "--model", "pythia-70m-deduped", "--limit", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2
