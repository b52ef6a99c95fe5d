"""A process that is followed until it says a certain thing on stderr."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ENDS_S = 90.0


@dataclass(frozen=True)
class Followed:
    """A process.

    Attributes:
        process: It.
        said: Lines on stderr so far; the last ones come until it has ended.
    """

    process: subprocess.Popen[str]
    said: list[str]


@contextmanager
def followed(command: Sequence[str], environment: Mapping[str, str], until: str, within_s: float) -> Iterator[Followed]:
    """Start a process in a session of its own, and wait until a line holds ``until``; it is killed in the end."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    ready = threading.Event()
    lines = process.stderr
    assert lines is not None

    def follow() -> None:
        for line in lines:
            said.append(line)
            if until in line:
                ready.set()
        ready.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        assert ready.wait(within_s), said
        yield Followed(process, said)
    finally:
        process.kill()
        process.wait(ENDS_S)
        follower.join(ENDS_S)
