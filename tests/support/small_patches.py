"""Patches of the tiny models, and little text to measure them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylens.api.edits import Direction, Edit, PatchSpec
from raylens.engine.saes import LoadedSae
from raylens.workbench.patch_export import ExportSettings

IDS = [[0, 7, 31, 88, 120, 9, 64, 200, 5, 17]]


@pytest.fixture
def settings(tmp_path: Path, text: str) -> ExportSettings:
    for name in ("held_out", "fit"):
        (tmp_path / name).mkdir()
        for n in range(4):
            (tmp_path / name / f"{n}.txt").write_text(f"# {name} {n}\n" + text * 2)
    return ExportSettings(str(tmp_path / "held_out"), str(tmp_path / "fit"), n_tokens=500, ctx_len=64)


def vector(width: int = 32, seed: int = 3) -> tuple[float, ...]:
    return tuple(torch.randn(width, generator=torch.Generator().manual_seed(seed)).tolist())


def steering(hook: str = "resid_post.1", **edit: Any) -> PatchSpec:
    told = {"direction": "d", "unit": "activation", "strength": 2.0, **edit}
    return PatchSpec(edits=(Edit(**told),), directions=(Direction(name="d", hook=hook, vector=vector()),))


def of_feature(sae: LoadedSae, **edit: Any) -> PatchSpec:
    return PatchSpec(edits=(Edit(feature=f"{sae.id}/5", **edit),))


def logits(model: Any, ids: list[list[int]] | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(ids or IDS)).logits
