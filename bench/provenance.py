"""What it takes to follow one feature back through two earlier layers, ablations included, and how far it is right.

Windows of 128 tokens of held-out modules; in each the feature of pico's last SAE that is fifth on the last token, whose
causes may lie on any token before it. The model and its SAEs are loaded, on one thread; the first window warms them up.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylens.api.provenance import Provenance
from raylens.bundle.stdlib import read_stdlib
from raylens.engine.encode import encode_sparse
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.tap import tap
from raylens.ids import FeatureId
from raylens.workbench.provenance import provenance

TOKENS = 128
RANK = 5
WINDOWS = 20
STEPS = 10


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Seconds, agreement and shares over windows, by the gradient and by integrated gradients."""
    torch.set_num_threads(1)  # a second one waits, wherever the machine has other work
    model = load_model("raylens/pico", device="cpu")
    saes = [load_sae(f"raylens-pico-res/layer_{layer}") for layer in (1, 3, 5)]
    texts = windows(model, max(2, int(WINDOWS * scale)) + 1)
    targets = [(ids, target_of(model, saes[-1], ids)) for ids in texts]
    figures: dict[str, Any] = {"windows": len(targets) - 1}
    for name, steps in (("provenance", None), ("integrated", STEPS)):
        found: list[Provenance] = []
        seconds: list[float] = []
        for ids, target in targets:
            began = time.perf_counter()
            found.append(provenance(model, saes, target, ids, TOKENS - 1, integrated=steps))
            seconds.append(time.perf_counter() - began)
        figures |= {
            f"{name}_s": round(float(np.quantile(seconds[1:], 0.95)), 3),
            f"{name}_median_s": round(float(np.median(seconds[1:])), 3),
            f"{name}_edges": sum(len(one.edges) for one in found),
            **{f"{name}_{key}": value for key, value in judged(found).items()},
        }
    return figures


def windows(model: LoadedModel, n: int) -> list[list[int]]:
    """Windows from all over the held-out modules, BOS included."""
    tokenizer: Any = model.tokenizer
    text = "".join(file.text for file in read_stdlib("held_out"))[: 4_000 * n]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    size = TOKENS - len(model.prefix_ids)
    starts = np.linspace(0, len(ids) - size, n).astype(int).tolist()
    return [[*model.prefix_ids, *ids[start : start + size]] for start in starts]


def target_of(model: LoadedModel, sae: LoadedSae, ids: list[int]) -> FeatureId:
    """The fifth feature on the last token, or the last where fewer fire."""
    hidden = tap(model, [sae.spec.hook], torch.tensor([ids]))[sae.spec.hook][0, -1:]
    codes = encode_sparse(sae, hidden)
    order = np.argsort(-codes.activation)
    return FeatureId(sae.id, int(codes.feature[order[min(RANK, len(order)) - 1]]))


def judged(found: list[Provenance]) -> dict[str, float]:
    """Edges that ablation confirms, how near attributions come to effects, and what layers account for."""
    edges = [edge for one in found for edge in one.edges]
    pairs = np.array([(edge.attribution, edge.ablation_effect) for edge in edges])
    shares = np.array(
        [np.array([s.features, s.errors, s.rest]) / one.target.activation for one in found for s in one.layers]
    )
    features, errors, rest = np.median(shares, axis=0)
    return {
        "agreement": round(sum(edge.confirmed for edge in edges) / len(edges), 4),
        "correlation": round(float(np.corrcoef(pairs.T)[0, 1]), 4),
        "features_share": round(float(features), 3),
        "errors_share": round(float(errors), 3),
        "rest_share": round(float(rest), 3),
        "rest_share_size": round(float(np.median(np.abs(shares[:, 2]))), 3),
    }
