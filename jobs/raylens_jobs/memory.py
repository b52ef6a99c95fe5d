"""Giving freed memory back to the machine, which allocators keep for the next time."""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa


def release() -> None:
    """Give back what this process has freed; where glibc is not the C library, what Arrow freed alone.

    Every thread of glibc keeps an arena of its own, as large as the most that thread ever held; actors whose
    threads take turns would keep the peak of a block once for each.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
