"""Whole audits by each pooling: what is said of a feature follows from its activations, token for token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from fine_tunes import make_adapter
from raylens.audit.feature_rows import Side
from raylens.audit.pooling import POOLINGS
from raylens.store.workspace import Workspace
from small_audits import audit, config

SUITE = '- {id: area, text: "def area(radius):\\n"}\n'
OVER: dict[str, Callable[[Sequence[float], int], float]] = {
    "mean": lambda activations, _: float(np.mean(activations[1:])),
    "max": lambda activations, _: max(activations[1:]),
    "last": lambda activations, _: activations[-1],
    "answer": lambda activations, n_prompt: float(np.mean(activations[n_prompt:])),
    "prompt": lambda activations, n_prompt: float(np.mean(activations[1:n_prompt])),
}
"""By pooling: what becomes of a feature's activations on a prompt and its answer; the first one is left out."""


@pytest.fixture(scope="module", autouse=True)
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fine-tune, in a base directory with a suite of one prompt."""
    base = tmp_path_factory.mktemp("base")
    (base / "suite.yaml").write_text(SUITE)
    make_adapter(base / "tuned", scale=0.06)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYLENS_BASE_DIR", str(base))
        yield base / "tuned"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_audit_by_each_pooling(tmp_path: Path, tuned: Path, pooling: str) -> None:  # A2.09
    done = audit(Workspace.open(tmp_path / "ws", create=True), tuned, config(pooling=pooling, panel_windows=0, k=5))
    evidence, score = done.artefacts.interp_evidence, done.artefacts.score
    assert evidence is not None
    assert evidence.pooling == score.settings["pooling"] == pooling
    assert f"pooled by `{pooling}`" in (Path(done.folder) / "report.md").read_text()
    shown = {one.index: one for one in evidence.highlights}
    assert list(shown) == [row.index for row in evidence.features]
    for row in evidence.features:
        assert row.delta == pytest.approx(
            pooled(shown[row.index].candidate, pooling) - pooled(shown[row.index].reference, pooling), abs=2e-6
        )
    # The method that gives the verdict sums the largest of the same differences.
    assert score.aggregate_score == pytest.approx(sum(abs(row.delta) for row in evidence.features), rel=1e-5)
    assert score.aggregate_score > 0


def pooled(side: Side, pooling: str) -> float:
    assert len(side.tokens) > side.n_prompt_tokens, "it wrote something"
    return OVER[pooling](side.activations, side.n_prompt_tokens)
