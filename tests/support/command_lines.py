"""Several ``raylens`` commands in one process with one Ray, in an environment or mount namespace of its own.

Workers get the environment and the mounts that Ray was started with, so what needs others cannot use the Ray
of the session; and a Ray costs seconds to start, so all commands of a test share one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHELL = "!"
"""First word of a step that is a program to run between two commands and no command of ``raylens``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What one step did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that stdout holds."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """Lines of stderr that say what failed."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def run_all(steps: Sequence[Sequence[str]], before: Sequence[str] = (), timeout_s: float = 280) -> list[Ended]:
    """Run each step in turn, in one new process.

    Args:
        steps: Words of ``raylens`` command lines, or of a program after ``SHELL``.
        before: Words of a command that the process is started with, as ``unshare`` or ``env`` are.
        timeout_s: Seconds for all of it.
    """
    command = [*before, sys.executable, __file__, json.dumps([list(step) for step in steps])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [Ended(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def on_small_disk(folder: Path, size: str) -> list[str]:
    """What to start a process with, for it to see an empty tmpfs of ``size`` at ``folder``.

    In a mount namespace: of root's, or of a user's own where the tests do not run as root.
    """
    unshare = shutil.which("unshare")
    assert unshare, "unshare (util-linux) is needed to make a small disk"
    namespace = "-m" if os.geteuid() == 0 else "-rm"
    script = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'
    return [unshare, namespace, "sh", "-c", script, size, str(folder)]


def _run(step: Sequence[str]) -> Ended:
    if step[0] == SHELL:
        done = subprocess.run(step[1:], capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)
    from raylens_app.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(step)
    return Ended(code, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    from raylens_jobs.cluster import cluster

    with cluster(None, num_cpus=2):
        ended = [asdict(_run(step)) for step in json.loads(sys.argv[1])]
    sys.stdout.write(json.dumps(ended) + "\n")
