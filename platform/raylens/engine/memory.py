"""Running out of memory, said in one sentence with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raylens.errors import OutOfMemoryError

# What allocators of devices without an exception class of their own say.
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def memory_advice(what: str, device: torch.device | str) -> Iterator[None]:
    """Turn an allocation failure while ``what`` into an error that says what to lower (A0.23).

    Raises:
        OutOfMemoryError: the allocator of any device gave up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not exhausted and not any(phrase in str(error) for phrase in _PHRASES):
            raise
        raise OutOfMemoryError(
            f"{torch.device(device)} ran out of memory while {what}.",
            hint="lower --batch-size or --ctx-len, take --dtype bfloat16 or --quantization bnb-4bit, fewer SAEs at "
            "once, or more GPUs (in 16 bits gemma-2-2b needs about 8 GB, Llama-3.1-8B about 16 GB).",
        ) from error
