"""What Ray reads from the environment when it is imported: to be called before, so nothing here imports it."""

from __future__ import annotations

import os
from pathlib import Path

from raylens.net.secret_file import make_secret


def prepare_ray() -> None:
    """No telemetry, and a token: Ray's dashboard starts jobs for whoever has it, and for nobody else.

    Raises:
        InputError: The token's file cannot be written.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        # Ray makes one where there is none, in a file that others may read.
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        make_secret(Path(named) if named else Path.home() / ".ray" / "auth_token", "set RAY_AUTH_TOKEN_PATH.")
