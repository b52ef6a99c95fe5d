"""``raylens app`` as people run it: a process of its own, ended as by Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from live_services import free_port

STARTS_S = 120.0
ENDS_S = 30.0


@dataclass(frozen=True)
class AppProcess:
    """An app that answers.

    Attributes:
        url: Where.
        process: That serves it.
        said: Lines on stderr so far; the last ones come until it has ended.
    """

    url: str
    process: subprocess.Popen[str]
    said: list[str]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(ENDS_S)


@contextmanager
def app_process(workspace: str | Path, *words: str, **variables: str) -> Iterator[AppProcess]:
    """An app over ``workspace``, at a port of its own."""
    port = free_port()
    environment = {**os.environ, "RAYLENS_URL": "http://127.0.0.1:9", **variables}
    command: Sequence[str] = [
        sys.executable,
        "-m",
        "raylens",
        "--workspace",
        str(workspace),
        "app",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port), *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    ready = threading.Event()
    assert process.stderr is not None
    lines = process.stderr

    def follow() -> None:
        for line in lines:
            said.append(line)
            if " at http://" in line:
                ready.set()
        ready.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        assert ready.wait(STARTS_S), said
        found = re.search(r" at (http://\S+);", "".join(said))
        assert found, said
        yield AppProcess(found[1], process, said)
    finally:
        process.kill()
        process.wait(ENDS_S)
        follower.join(ENDS_S)
