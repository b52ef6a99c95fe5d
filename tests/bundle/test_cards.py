"""Model cards say what was measured, and every artefact has one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raylens.bundle import paths
from raylens.bundle.cards import CARD, render_cards, write_cards


def artefacts() -> list[Path]:
    return [paths.ROOT / "pico", paths.embedding_path(), *(paths.ROOT / "saes" / s.id.name for s in paths.list_saes())]


@pytest.mark.parametrize("folder", artefacts(), ids=lambda p: p.name)
def test_every_artefact_has_a_card_of_its_own_figures(folder: Path) -> None:
    rendered = render_cards()[folder / CARD]
    assert (folder / CARD).read_text() == rendered, "stale: python -m raylens_jobs.bundle cards"
    for wanted in (
        "python -m raylens_jobs.bundle ",
        "## Licence",
        "Apache-2.0",
        "PSF License",
        "## Limits",
        "interval",
    ):
        assert wanted in rendered


def test_a_card_follows_its_figures(tmp_path: Path) -> None:
    shutil.copytree(paths.ROOT / "pico", tmp_path / "pico", ignore=shutil.ignore_patterns("*.safetensors"))
    metrics = json.loads((tmp_path / "pico/metrics.json").read_text())
    metrics["held_out"]["bits_per_byte"] = 1.0987
    (tmp_path / "pico/metrics.json").write_text(json.dumps(metrics))
    assert write_cards(tmp_path) == [tmp_path / "pico" / CARD]
    assert "**1.099**" in (tmp_path / "pico" / CARD).read_text()
