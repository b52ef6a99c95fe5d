"""What went wrong inside Ray, said as RayLens would have said it in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions

from raylens.errors import OutOfMemoryError, RaylensError, RunError


@contextmanager
def ray_failures(what: str) -> Iterator[None]:
    """Raise the :class:`RaylensError` that a task raised, and word Ray's own failures.

    Args:
        what: What was under way, for the message: ``"encoding"``.

    Raises:
        OutOfMemoryError: Ray killed workers to save the node's memory.
        RunError: A task raised something else, or workers died again and again.
    """
    try:
        yield
    except ray.exceptions.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{what}: Ray ended a worker because the node ran out of memory.",
            hint="lower --workers, --batch-size or --dtype; finished shards are kept, so a rerun goes on.",
        ) from error
    except ray.exceptions.RayError as error:
        raise _original(error) or RunError(
            f"{what} failed: {type(error).__name__}: {_last_line(error)}",
            hint="finished work is kept: run the same command again, with --verbose for Ray's own log.",
        ) from error


def _original(error: BaseException) -> RaylensError | None:
    """The RayLens error at the root of a chain of Ray wrappers."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        # A task error is an instance of both Ray's class and the cause's; the plain one is wanted.
        if isinstance(one, RaylensError) and not isinstance(one, ray.exceptions.RayError):
            return one
        seen.add(id(one))
        queue += [getattr(one, "cause", None), one.__cause__, one.__context__]
    return None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no further message."
