"""What Ray reads from the environment when it is imported: to be called before, so nothing here imports it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from raylens.net.ray_access import MODE, PATH, TOKEN
from raylens.net.secret_file import make_secret

SERVE_VARIABLES: Final[Mapping[str, str]] = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
"""One event loop a replica. Ray Serve would have three, so that health checks are answered while a deployment blocks
its loop, which none of these does; between loops each call waits for two threads to wake (a fifth of the throughput).
Images have the same variables, as a cluster's processes have the environment of their node."""


def prepare_ray(address: str | None = None) -> None:
    """No telemetry, and a token: Ray's dashboard starts jobs for whoever has it, and for nobody else.

    Args:
        address: Of a running cluster, which has a token already or wants none; None for a Ray that is started here.

    Raises:
        InputError: The token's file cannot be written.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in SERVE_VARIABLES.items():
        os.environ.setdefault(name, value)
    if address is not None:
        return
    os.environ.setdefault(MODE, "token")
    if os.environ[MODE] == "token" and not os.environ.get(TOKEN):
        # Ray makes one where there is none, in a file that others may read.
        named = os.environ.get(PATH)
        make_secret(Path(named) if named else Path.home() / ".ray" / "auth_token", f"set {PATH}.")
