"""A process that does nothing but run models: as many threads as it has cores, and memory given back late."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import torch

_TRIM, _TOP_PAD, _MMAP = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h
_KEPT: Final = 512 * 2**20
_AT_A_TIME: Final = 16 * 2**20
_LARGEST: Final = 32 * 2**20  # more is refused


def dedicate(threads: int | None) -> None:
    """Make this process one whose work is passes of models: an actor's, a replica's; nobody else's.

    Args:
        threads: The cores that it has: every further thread makes torch slower, by up to six times. None for all.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to half a GiB, for what is allocated next.

    Each pass on a CPU allocates and frees the same tensors. Outside a program's first thread glibc gives them back
    after each use, and the system clears every page anew when they are wanted again: about a quarter of the time of
    an encoder's passes, and a fifth of an audit's. Where there is no glibc, nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_MMAP, _LARGEST), (_TRIM, _KEPT), (_TOP_PAD, _AT_A_TIME)):
            mallopt(parameter, value)
