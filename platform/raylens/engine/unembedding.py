"""From the residual stream after the final norm to logits, some rows at a time: they are most of a model's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from interp_engine.lens import apply_logit_transform
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.errors import RunError
from raylens.ids import HookPoint

FINAL_NORM: Final = HookPoint("final_norm")
"""What the unembedding reads."""

LOGITS: Final = 1 << 26
"""Held at once: 256 MiB of float32."""


def logits_of(loaded: LoadedModel, hidden: Tensor, most: int = LOGITS) -> Iterator[Tensor]:
    """float32 logits ``[rows, vocabulary]`` of ``hidden`` ``[n, d_model]``, as the model's own forward has them.

    Args:
        loaded: The model; each block holds its lock.
        hidden: At :data:`FINAL_NORM`.
        most: Logits in a block.

    Raises:
        RunError: They are not finite numbers.
        OutOfMemoryError: A block does not fit.
    """
    engine: Any = loaded.engine
    quirks = engine.arch.quirks
    rows = max(1, most // loaded.info.vocab_size)
    with loaded.lock, torch.inference_mode(), memory_advice("reading next tokens", loaded.device):
        for start in range(0, len(hidden), rows):
            logits = engine.arch.lm_head(hidden[start : start + rows])
            logits = apply_logit_transform(
                logits, multiplier=quirks.logit_multiplier, softcap=quirks.final_logit_softcapping
            ).float()
            if not bool(torch.isfinite(logits).all()):
                raise RunError(
                    f"the logits of {loaded.name} are not all finite numbers.",
                    hint="activations overflow or weights are damaged: try --dtype float32, else train it again.",
                )
            yield logits
