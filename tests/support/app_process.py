"""``raylens app`` as people run it: a process of its own, ended as by Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from followed import followed
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
    environment = {**os.environ, "RAYLENS_URL": "http://127.0.0.1:9", **variables}
    command = [sys.executable, "-m", "raylens", "--workspace", str(workspace), "app", "--port", str(free_port())]
    with followed([*command, *words], environment, " at http://", STARTS_S) as running:
        found = re.search(r" at (http://\S+);", "".join(running.said))
        assert found, running.said
        yield AppProcess(found[1], running.process, running.said)
