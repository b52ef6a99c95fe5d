"""The embedded SAEs: on residual layers early, middle and late, and no worse than their cards say."""

from __future__ import annotations

import json

import pytest
import torch

from raylens.bundle import paths
from raylens.bundle.paths import BundledSae
from raylens.config import EvaluateConfig
from raylens_jobs.evaluate import run_evaluate

SAES = paths.list_saes()
D_MODEL = json.loads((paths.ROOT / "pico" / "config.json").read_text())["hidden_size"]


def figures(sae: BundledSae) -> dict:
    folder = paths.sae_path(sae.id)
    assert folder is not None
    return json.loads((folder / "metrics.json").read_text())


def test_there_is_an_early_a_middle_and_a_late_one() -> None:
    layers = [sae.hook.layer for sae in SAES]
    assert layers == [1, 3, 5]
    assert all(sae.width >= 8 * D_MODEL for sae in SAES)


@pytest.mark.parametrize("sae", SAES, ids=lambda s: s.id.name)
def test_card_figures_reach_their_floors(sae: BundledSae) -> None:
    held_out = figures(sae)["held_out"]
    assert held_out["held_out"] is True, "evaluated on text it was trained on"
    assert held_out["sae"] == str(sae.id)
    assert held_out["n_documents"] == 24
    assert held_out["fvu"]["value"] <= 0.10
    assert held_out["l0"]["value"] <= 32
    assert held_out["ce_recovered"]["value"] >= 0.92
    assert held_out["dead_fraction"] <= 0.05


@pytest.mark.parametrize("sae", SAES, ids=lambda s: s.id.name)
def test_a_small_evaluation_now_agrees_with_the_card(sae: BundledSae) -> None:
    """A3.08, on a sample: within what a few files may differ from all of them."""
    torch.set_num_threads(1)
    card = figures(sae)["held_out"]
    config = EvaluateConfig(texts=("stdlib:held_out",), n_tokens=3000, threads=1)
    now = run_evaluate(str(sae.id), config)
    assert now["held_out"] is True
    assert now["fvu"]["value"] == pytest.approx(card["fvu"]["value"], abs=0.05)
    assert now["l0"]["value"] <= card["l0"]["high"] + 2, "where each latent has a threshold, a few files may have more"
    assert now["ce_recovered"]["value"] == pytest.approx(card["ce_recovered"]["value"], abs=0.05)
