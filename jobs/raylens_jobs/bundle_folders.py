"""Where the embedded artefacts are built, and the figures that are kept beside each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylens.bundle import corpus_manifest
from raylens.bundle.stdlib import python_version


@dataclass(frozen=True, slots=True)
class Folders:
    """``out`` is the bundle that is written, ``work`` holds what a killed build resumes from."""

    out: Path
    work: Path


def provenance() -> dict[str, Any]:
    """What every ``metrics.json`` begins with."""
    return {"python": python_version(), "corpus": corpus_manifest.running_manifest().digest}


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write ``metrics.json`` beside the artefact that it measures."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
