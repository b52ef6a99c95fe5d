"""``make bundle``: the targets that are cheap in full, the dear ones on a small recipe (slow)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from raylens.bundle import paths
from raylens.bundle.cards import render_cards
from raylens.bundle.corpus_manifest import read_manifest, running_manifest
from raylens.bundle.pico import PicoRecipe
from raylens.bundle.stdlib import StdlibFile
from raylens.config import SaeRecipe
from raylens_jobs.bundle import build_pico, main, measure_bits
from raylens_jobs.bundle_folders import Folders
from raylens_jobs.bundle_saes import Finish, SaePlan, build_saes


def test_the_manifest_is_written_where_asked(tmp_path: Path) -> None:
    main(["manifest", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    assert read_manifest(tmp_path / "out") == running_manifest()
    assert paths.damaged_files(tmp_path / "out") == []


def test_cards_are_written_and_hashed(tmp_path: Path) -> None:
    weights = shutil.ignore_patterns("*.safetensors", "tokenizer.json", "__pycache__", "*.py")
    shutil.copytree(paths.ROOT, tmp_path / "out", ignore=weights)
    for card in (tmp_path / "out").rglob("README.md"):
        card.unlink()
    main(["cards", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    for card in (tmp_path / "out").rglob("README.md"):
        assert card.read_text() == (paths.ROOT / card.relative_to(tmp_path / "out")).read_text()
    assert paths.damaged_files(tmp_path / "out") == []


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(SystemExit) as refused:
        main(["everything"])
    assert refused.value.code == 2


def test_bits_are_counted_per_file_and_together() -> None:
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(paths.ROOT / "pico").eval()
    files = [StdlibFile("a.py", "x = 1\n" * 20), StdlibFile("b.py", "é" * 50)]
    ids = [np.arange(5, 45), np.arange(100, 130)]
    measured = measure_bits(model, files, ids)
    assert measured["bytes"] == 120 + 100
    assert measured["tokens"] == 70
    each = measured["per_file"]
    assert measured["bits_per_byte"] == pytest.approx((120 * each["a.py"] + 100 * each["b.py"]) / 220, abs=1e-3)
    low, high = measured["interval"]
    assert (low, high) == pytest.approx(sorted(each.values()), abs=1e-3)
    assert measured["xz_together"] < measured["xz_each"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_saes_are_recorded_trained_finished_evaluated_and_found(tmp_path: Path) -> None:
    shutil.copytree(paths.ROOT / "pico", tmp_path / "out/pico")
    recipe = SaeRecipe(d_sae=256, k=8, tokens=20_000, batch_size=256)
    plan = SaePlan({2: recipe}, ctx_len=64, max_samples=200, n_tokens=2000)
    finished = replace(
        plan,
        recipes={4: recipe.model_copy(update={"architecture": "batchtopk", "k": 8.0})},
        texts=("stdlib:train", "stdlib:tests"),
        seed=-1,
        finish=Finish(l0=(7.0,), threshold_tokens=8192, decoder_tokens=8192, min_firing_rate=1e-3),
    )
    build_saes(Folders(tmp_path / "out", tmp_path / "work"), [plan, finished])
    found = paths.list_saes(tmp_path / "out")
    assert [str(sae.id) for sae in found] == ["raylens-pico-res/layer_2", "raylens-pico-res/layer_4"]
    metrics = {}
    for sae in found:
        folder = paths.sae_path(sae.id, tmp_path / "out")
        assert folder is not None
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["held_out"]["held_out"] is True
        assert metrics["held_out"]["fvu"]["value"] < 1
        # Windows at the end of a file are shorter.
        assert 150 * 63 < metrics["train"]["recorded_tokens"] <= 200 * 63
        assert str(tmp_path) not in (folder / "metrics.json").read_text() + (folder / "cfg.json").read_text()
        assert str(sae.id) in render_cards(tmp_path / "out")[folder / "README.md"]
    assert found[0].width == 256
    assert 0 < metrics["train"]["finish"]["left_out"] == 256 - found[1].width
    assert metrics["held_out"]["l0"]["value"] < 7.5


@pytest.mark.slow
def test_pico_is_built_from_nothing_and_again_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = PicoRecipe(steps=20, tokens_per_step=1024, window=64, long_window=128, warmup_steps=5)
    for out in ("first", "second"):
        build_pico(Folders(tmp_path / out, tmp_path / "work"), recipe)
    names = ("model.safetensors", "tokenizer.json", "config.json", "metrics.json")
    for name in names:
        assert (tmp_path / "first/pico" / name).read_bytes() == (tmp_path / "second/pico" / name).read_bytes()
    shipped = paths.ROOT / "pico" / "tokenizer.json"
    if json.loads((paths.ROOT / "pico/metrics.json").read_text())["corpus"] == running_manifest().digest:
        assert (tmp_path / "first/pico/tokenizer.json").read_bytes() == shipped.read_bytes()
