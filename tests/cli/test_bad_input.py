"""What a user can get wrong about ``raylens cache``: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylens.engine.models import describe_model
from raylens_app.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], workspace: Path, *words: str) -> str:
    """The one line that ``raylens cache`` refuses with; nothing but an empty workspace may be left."""
    code = main(["--workspace", str(workspace), "cache", *words])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert code == 2, captured.err
    assert captured.out == ""
    assert len(lines) == 1
    assert " hint: " in lines[0]
    left = [p.name for p in workspace.rglob("*") if p.is_file()] if workspace.exists() else []
    assert left in ([], ["raylens.json"])
    return lines[0]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def add(a, b):\n    return a + b\n" * 20)
    return path


def test_a_model_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "./no-such-folder" in refused(capsys, tmp_path / "ws", "--model", "./no-such-folder", "--sae", "a/b")


def test_an_sae_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, tmp_path / "ws", "--sae", "raylens-pico-res/layer_77")
    assert "layer_77" in line
    assert "layer_3" in line, "it says what there is"


def test_no_sae_for_a_model_without_a_default(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "raylens catalog --model openai-community/gpt2" in refused(
        capsys, tmp_path / "ws", "--model", "openai-community/gpt2"
    )


def test_an_sae_of_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A2.15, A0.04."""
    line = refused(capsys, tmp_path / "ws", "--sae", "gpt2-small-res-jb/blocks.3.hook_resid_pre")
    assert "gpt2" in line


def sae_on(hook: str, folder: Path) -> Path:
    """An SAE as wide as pico, saved by sae-lens, that reads ``hook``."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="raylens/pico", hook_name=hook)
    d_model = describe_model("raylens/pico").d_model
    TopKSAE(TopKSAEConfig(d_in=d_model, d_sae=64, k=4, metadata=metadata)).save_model(folder / "sae")
    return folder / "sae"


def test_a_layer_that_the_model_lacks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    layers = describe_model("raylens/pico").n_layers
    line = refused(capsys, tmp_path / "ws", "--sae", str(sae_on(f"blocks.{layers}.hook_resid_post", tmp_path)))
    assert f"resid_post.{layers}" in line
    assert f"layers 0 to {layers - 1}" in line


def test_a_hook_point_that_no_model_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Named by an SAE's own config, and by the user's catalogue; it says what exists."""
    sae = sae_on("resid_past.3", tmp_path)
    line = refused(capsys, tmp_path / "ws", "--sae", str(sae))
    assert "no hook point resid_past" in line
    assert "resid_post" in line
    assert "mlp_out" in line
    (tmp_path / "mine.yaml").write_text(
        f"saes:\n  - {{sae: mine/odd, path: {sae}, model: raylens/pico, hook: resid_past.3, width: 64}}\n"
    )
    line = refused(capsys, tmp_path / "ws", "--catalog-file", str(tmp_path / "mine.yaml"), "--sae", "mine/odd")
    assert "resid_past" in line
    assert "resid_post" in line


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty"),
        ("binary.txt", b"\x00\x01\x02\xff" * 100, "binary"),
        ("other.jsonl", b'{"body": "x"}\n', "body"),
        ("broken.jsonl", b'{"text": "x"}\n{"text": \n', "broken.jsonl"),
        ("other.csv", b"body,n\nx,1\n", "body"),
    ],
)
def test_text_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """A1.13: what is wrong with a file, and where."""
    (tmp_path / name).write_bytes(content)
    line = refused(capsys, tmp_path / "ws", "--text", str(tmp_path / name))
    assert says in line
    assert name in line


def test_text_that_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nothing.txt" in refused(capsys, tmp_path / "ws", "--text", str(tmp_path / "nothing.txt"))
    assert "*.jsonl" in refused(capsys, tmp_path / "ws", "--text", str(tmp_path / "*.jsonl"))


def test_values_out_of_range(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    assert "ctx_len" in refused(capsys, tmp_path / "ws", "--text", str(text), "--ctx-len", "2")
    assert "1024" in refused(capsys, tmp_path / "ws", "--text", str(text), "--ctx-len", "5000")
    assert "dtype" in refused(capsys, tmp_path / "ws", "--text", str(text), "--dtype", "float13")
    assert "n-tokens" in refused(capsys, tmp_path / "ws", "--n-tokens", "0")


def test_a_hub_that_cannot_be_reached_with_nothing_cached(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    code = main(["--workspace", str(tmp_path / "ws"), "cache", "--model", "nobody/nothing-here", "--sae", "a-b/c"])
    error = capsys.readouterr().err
    assert code == 1
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("error: ")


def test_a_workspace_of_another_schema_version(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws/raylens.json").write_text(json.dumps({"schema_version": 999, "raylens": "9.0"}))
    line = refused(capsys, tmp_path / "ws", "--text", str(text))
    assert "999" in line


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path
) -> None:
    words = ["cache", "--text", str(text), "--n-tokens", "1000000", "--dry-run"]
    assert main(["--workspace", str(tmp_path / "ws"), *words, "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["tokens"] == 1_000_000
    assert estimate["hours"] > 0
    assert estimate["memory_bytes_per_worker"] > 100_000_000
    assert estimate["stored_bytes"] > 1_000_000
    assert not (tmp_path / "ws").exists()
    assert main(["--workspace", str(tmp_path / "ws"), *words]) == 0
    assert "memory" in capsys.readouterr().out
