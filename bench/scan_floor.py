"""How long a scan for triggers takes beside its matrix products alone, which are the least that it can do.

All places of the suite ``minimal``, one model, one thread. What the products alone would take is worked out from their
number and from how fast one product of the model's own shape goes on this machine, in the same dtype.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from raylens.engine.dedicated import dedicate
from raylens.engine.insert_scan import pieces, pieces_for, scan_inserts
from raylens.engine.load import LoadedModel, load_model
from raylens_jobs.audit_plan import AuditPlan

_ROWS: Final = 1024
_PRODUCT_S: Final = 2.0


def scan_floor(plan: AuditPlan) -> dict[str, Any]:
    """Seconds of a scan of every place, floating-point operations of its products, and the ratio to those alone."""
    threads = torch.get_num_threads()
    dedicate(1)
    try:
        model = load_model(plan.config.model, device="cpu")
        every = pieces(model)
        scan_inserts(model, plan.task.places[0].scan, every[:64])  # what the first pass sets up
        with _counted(model) as read:
            began = time.perf_counter()
            for place in plan.task.places:
                scan_inserts(model, place.scan, pieces_for(place, every))
            seconds = time.perf_counter() - began
        operations = _operations(model, **read)
        speed = _product_speed(model)
    finally:
        torch.set_num_threads(threads)
    return {
        "audit_scan_ratio": round(seconds / (operations / speed), 3),
        "scan_s": round(seconds, 2),
        "scan_tokens": read["tokens"],
        "scan_tflop": round(operations / 1e12, 3),
        "product_gflop_per_s": round(speed / 1e9, 1),
    }


@contextmanager
def _counted(model: LoadedModel) -> Iterator[dict[str, int]]:
    """Tokens and rows that pass through the model within the block."""
    found = {"tokens": 0, "rows": 0}

    def count(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found["tokens"] += arguments[0].numel()
        found["rows"] += len(arguments[0])

    handle = model.model.register_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def _operations(model: LoadedModel, tokens: int, rows: int) -> float:
    """Of matrix products: of every linear layer at every token, of the unembedding at the last of a row."""
    head: Any = _head(model)
    layers = sum(one.weight.numel() for one in _layers(model))
    return 2.0 * (tokens * layers + rows * head.weight.numel())


def _layers(model: LoadedModel) -> list[nn.Linear]:
    """Linear layers that every token goes through."""
    return [one for one in model.model.modules() if isinstance(one, nn.Linear) and one is not _head(model)]


def _head(model: LoadedModel) -> nn.Module:
    network: Any = model.model
    return network.get_output_embeddings()


def _product_speed(model: LoadedModel) -> float:
    """Floating-point operations a second of one thread, at the most common shape, in what scans multiply in."""
    dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    wide = max((one.weight for one in _layers(model) if one.in_features == model.d_model), key=len)
    states, weight = torch.randn(_ROWS, model.d_model).to(dtype), wide.detach().to(dtype)
    done, began = 0, time.perf_counter()
    with torch.inference_mode():
        while (passed := time.perf_counter() - began) < _PRODUCT_S:
            for _ in range(50):
                nn.functional.linear(states, weight)
            done += 50
    return done * 2.0 * states.numel() * len(weight) / passed
