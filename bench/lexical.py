"""The lexical explainer on pico: held-out F1 of its rules, how long it takes, and whether memory stays flat.

At least 4 M tokens of Python are cached: the standard library, and the tests that come with it, which
no bundled model was trained on. Every feature of the middle SAE with a density of 1e-4 to 1e-1 is
explained, and its rule scored on excerpts of other documents, half of them random silent ones. The
distribution goes to ``bench/results/lexical.png``.
"""

from __future__ import annotations

import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.growth import watched
from bench.subjects import pico
from raylens.store.findings import passes
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

TOKENS: Final = 4_200_000
DENSITY: Final = (1e-4, 1e-1)
PLOT: Final = Path(__file__).parent / "results" / "lexical.png"


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Cache, explain a tenth and then all of the features, score them, and draw."""
    workspace, sae = Workspace.open(folder / "workspace", create=True), pico().sae
    text = unseen(folder / "text")
    words = ["--sae", sae, "--n-tokens", str(int(TOKENS * scale)), "--text", "stdlib", "--text", str(text)]
    cached, _ = watched(folder / "workspace", "cache", *words, "--workers", "2", "--num-gpus", "0")
    reader = CacheReader(workspace, cached["cache_id"])
    (sae_id,) = reader.saes
    features = eligible(reader)
    few, few_peak = watched(folder / "workspace", "explain", *chosen(features[::10]))
    # Others than those, so that both do all of their work.
    rest = sorted(set(features) - set(features[::10]))
    many, many_peak = watched(folder / "workspace", "explain", *chosen(rest))
    scored, _ = watched(folder / "workspace", "score", "--scorer", "rule")
    rows = passes(workspace.cache(reader.cache_id), sae_id, "scores")[-1].read().to_pylist()
    own = {name: values(rows, name, None) for name in ("f1", "prevalence_corrected_precision", "balanced_accuracy")}
    shuffled = values(rows, "f1", "shuffled")
    explained = len(own["f1"])
    # A feature of which no rule says anything counts as an F1 of zero.
    f1 = np.array([*own["f1"], *[0.0] * (len(features) - explained)])
    draw(f1, np.array(shuffled), PLOT if scale == 1.0 else folder / PLOT.name)
    return {
        "lexical_median_f1": round(float(np.median(f1)), 4),
        "lexical_median_f1_explained": round(float(np.median(own["f1"])), 4),
        "median_balanced_accuracy": round(float(np.median(own["balanced_accuracy"])), 4),
        "median_prevalence_corrected_precision": round(float(np.median(own["prevalence_corrected_precision"])), 4),
        "median_shuffled_f1": round(float(np.median(shuffled)), 4),
        "features": len(features),
        "explained": explained,
        "statuses": {key: few["statuses"].get(key, 0) + many["statuses"].get(key, 0) for key in many["statuses"]},
        "tokens": cached["tokens_total"],
        "explain_ms_a_feature": round(1000 * many["seconds"] / len(rest), 1),
        "score_ms_a_feature": round(1000 * scored["seconds"] / max(1, explained), 1),
        "explain_memory_ratio": round(many_peak / few_peak, 4),
        "peak_mb_tenth": round(few_peak / 1e6),
        "peak_mb_all": round(many_peak / 1e6),
    }


def unseen(folder: Path) -> Path:
    """A folder with the tests of the standard library, as text."""
    folder.mkdir()
    tests = Path(sysconfig.get_path("stdlib")) / "test"
    for path in sorted(tests.rglob("*.py")):
        with suppress(UnicodeDecodeError):  # some test what that does
            name = "_".join(path.relative_to(tests).parts)
            (folder / f"{name}.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def eligible(reader: CacheReader) -> list[int]:
    """Features of the densities that the figure is about."""
    (sae,) = reader.saes
    table = reader.table("feature_stats", sae, ["feature", "density"])
    assert table is not None
    density = table["density"].to_numpy()
    return table["feature"].to_numpy()[(density >= DENSITY[0]) & (density <= DENSITY[1])].tolist()


def chosen(features: list[int]) -> list[str]:
    return ["--min-examples", "100", *(word for feature in features for word in ("--feature", str(feature)))]


def values(rows: list[dict[str, Any]], metric: str, control: str | None) -> list[float]:
    of = (row for row in rows if row["metric"] == metric and row["control"] == control)
    return [0.0 if row["value"] is None else row["value"] for row in of]


def draw(f1: np.ndarray, shuffled: np.ndarray, path: Path) -> None:
    """Both distributions as a histogram."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 41).tolist()
    axes.hist(shuffled, edges, color="#b8bcc4", label=f"another feature's rule (median {np.median(shuffled):.2f})")
    axes.hist(f1, edges, color="#2f6db3", alpha=0.85, label=f"its own rule (median {np.median(f1):.2f})")
    axes.set(xlabel="F1 on held-out documents, half of the excerpts silent", ylabel="features", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
