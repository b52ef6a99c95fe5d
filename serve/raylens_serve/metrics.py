"""Figures of a deployment for Prometheus, through Ray; where no replica runs, nothing is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS: Final = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]


def in_replica() -> bool:
    """Whether this process is a replica of a deployment."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True


class Metrics:
    """What one deployment counts.

    ==============================  ==============================================
    name, after Ray's own ``ray_``  labels
    ==============================  ==============================================
    ``raylens_requests``            ``part``, ``method``, ``model``, ``outcome``
    ``raylens_request_seconds``     ``part``, ``method``
    ``raylens_tokens``              ``part``, ``model``
    ``raylens_loaded_bytes``        ``part``
    ==============================  ==============================================

    ``outcome`` is ``ok`` or the class of the error; ``model`` is one that is served, or ``unknown``, so that clients
    cannot make up labels.

    Args:
        part: The deployment.
        counts: Whether anything is counted; by default in a replica.
    """

    def __init__(self, part: str, counts: bool | None = None) -> None:
        self._counts = in_replica() if counts is None else counts
        if not self._counts:
            return
        tags = {"part": part}
        self._requests = Counter("raylens_requests", "Requests answered.", ("part", "method", "model", "outcome"))
        self._seconds = Histogram("raylens_request_seconds", "Of a request.", _SECONDS, ("part", "method"))
        self._tokens = Counter("raylens_tokens", "Tokens read.", ("part", "model"))
        self._loaded = Gauge("raylens_loaded_bytes", "Taken by models and SAEs.", ("part",))
        for one in (self._requests, self._seconds, self._tokens, self._loaded):
            one.set_default_tags(tags)

    @contextmanager
    def request(self, method: str, model: str) -> Iterator[None]:
        """Count what is done in the block as one request."""
        began, outcome = time.perf_counter(), "ok"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            if self._counts:
                self._requests.inc(tags={"method": method, "model": model, "outcome": outcome})
                self._seconds.observe(time.perf_counter() - began, tags={"method": method})

    def tokens(self, model: str, n: int) -> None:
        """Count tokens that were read."""
        if self._counts and n:
            self._tokens.inc(n, tags={"model": model})

    def loaded(self, n_bytes: int) -> None:
        """Say how much is taken by what is loaded."""
        if self._counts:
            self._loaded.set(n_bytes)
