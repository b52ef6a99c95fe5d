"""Effects of fine-tunes come back as they went in, the last of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raylens.audit.calibration import AuditIdentity
from raylens.store.audit_effects import Effect, Effects, matrix
from raylens.store.workspace import Workspace

IDENTITY = AuditIdentity(model="m", sae="s", suite="x", method="benign_standardised")


def test_they_come_back(tmp_path: Path) -> None:
    files = Workspace.open(tmp_path / "ws", create=True).files
    kept = Effects(files, IDENTITY)
    assert kept.read() == ()
    rows = np.array([[0.0, 1.5, 0.0, -2.0], [0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 1e-9, 0.0]])
    for name, row in zip("bac", rows, strict=True):
        kept.append(Effect.of(name, f"family-{name}", "r1", row))
    found = kept.read()
    assert [(one.organism, one.family) for one in found] == [("a", "family-a"), ("b", "family-b"), ("c", "family-c")]
    assert matrix(found, 4).toarray().tolist() == rows[[1, 0, 2]].tolist()
    assert [one.organism for one in kept.read({"c", "nobody"})] == ["c"]

    kept.append(Effect.of("c", "family-c", "r2", np.array([0.0, 0.0, 0.0, 7.0])))
    assert [one.made for one in kept.read()] == ["r1", "r1", "r2"]
    assert matrix(kept.read(), 4).toarray()[2].tolist() == [0.0, 0.0, 0.0, 7.0]
    assert Effects(files, IDENTITY.model_copy(update={"suite": "y"})).read() == ()


def test_a_feature_that_the_sae_lacks() -> None:
    with pytest.raises(ValueError, match="feature 1 of an SAE of 1"):
        matrix([Effect.of("a", "f", "r", np.array([0.0, 1.0]))], 1)
    assert matrix([], 3).shape == (0, 3)
