"""The services as people run them: ``raylens serve up`` in a process of its own, on a Ray of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from raylens.client import Client

TOKEN = "a-token-of-more-than-sixteen-characters"


@dataclass(frozen=True)
class Live:
    """Services that are up.

    Attributes:
        workspace: Their workspace.
        url: Where they answer.
        environment: In which commands find them.
        said: By ``raylens serve up``, on stderr.
    """

    workspace: Path
    url: str
    environment: dict[str, str] = field(repr=False)
    said: str = ""

    def client(self) -> Client:
        from raylens.client import Client

        return Client(self.url, TOKEN)

    def raylens(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return raylens(self.workspace, words, self.environment, check=check)

    def replicas(self, name: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or ())
            if f"ServeReplica:raylens:{name}" in title and self._is_ours(process):
                found.append(process)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("RAYLENS_TEST_SERVICES") == str(self.workspace)
        except psutil.Error:
            return False


def raylens(
    workspace: Path, words: Sequence[str], environment: dict[str, str], *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raylens", "--workspace", str(workspace), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=check,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@contextmanager
def live_services(folder: Path, config: dict[str, Any] | None = None, **variables: str) -> Iterator[Live]:
    """Services over an empty workspace in ``folder``; ended as ``raylens serve down`` does.

    Args:
        folder: For workspace, token and base directory.
        config: ``args`` of the application.
        variables: Of the environment.
    """
    workspace, port = folder / "workspace", free_port()
    environment = {
        **os.environ,
        "RAYLENS_API_TOKEN": TOKEN,
        "RAYLENS_TEST_SERVICES": str(workspace),
        "RAYLENS_BASE_DIR": str(folder),
        "XDG_CONFIG_HOME": str(folder / "settings"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "ray-token"),
        **variables,
    }
    environment.pop("RAY_ADDRESS", None)
    words = ["serve", "up", "--detach", "--port", str(port)]
    if config is not None:
        file = folder / "serve.yaml"
        application = {"name": "raylens", "import_path": "raylens_serve.build:build", "args": config}
        file.write_text(json.dumps({"applications": [application]}))
        words += ["--config", str(file)]
    done = raylens(workspace, words, environment, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    try:
        yield Live(workspace, f"http://127.0.0.1:{port}", environment, done.stderr)
    finally:
        raylens(workspace, ["serve", "down"], environment, check=False)
