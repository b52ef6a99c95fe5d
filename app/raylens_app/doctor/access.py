"""Tokens, telemetry and the embedded files. Tokens are reported as present or not, never shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from raylens.bundle import paths as bundle
from raylens.catalog import snapshot
from raylens.errors import RaylensError
from raylens.home import from_home
from raylens_app.doctor.check import Check
from raylens_app.doctor.packages import checkout, installed

_HUB_VARIABLES: Final = ("HF_TOKEN", "RAYLENS_SAE_MODEL_KEY", "HUGGING_FACE_HUB_TOKEN")
_OFF: Final = frozenset({"0", "false", "no", "off"})


def check_access(environment: Mapping[str, str] = os.environ) -> list[Check]:
    """Tokens and whether the hub may be asked at all."""
    checks = []
    place = _hub_token(environment)
    checks.append(
        Check("access", "Hugging Face token", "ok", f"present ({place})")
        if place
        else Check(
            "access",
            "Hugging Face token",
            "missing",
            "not set",
            "gated models (Gemma, Llama); open ones need none",
            "export HF_TOKEN=<a read token from huggingface.co/settings/tokens>",
        )
    )
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        detail = "HF_HUB_OFFLINE forbids downloads"
        checks.append(Check("access", "hub", "warning", detail, "models not cached yet", "unset HF_HUB_OFFLINE"))
    checks.append(
        Check("access", "Neuronpedia key", "ok", "present (NEURONPEDIA_API_KEY)")
        if environment.get("NEURONPEDIA_API_KEY")
        else Check(
            "access",
            "Neuronpedia key",
            "missing",
            "not set",
            "higher request limits for labels; reading needs none",
            "export NEURONPEDIA_API_KEY=<a key from neuronpedia.org/account>",
        )
    )
    checks.append(_telemetry(environment))
    return checks


def _hub_token(environment: Mapping[str, str]) -> str | None:
    """Where a hub token is found, in the order in which it is used."""
    for variable in _HUB_VARIABLES:
        if environment.get(variable, "").strip():
            return variable
    home = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    file = from_home(environment.get("HF_TOKEN_PATH") or Path(home) / "token")
    try:
        return str(file) if file.stat().st_size > 0 else None
    except OSError:
        return None


def _telemetry(environment: Mapping[str, str]) -> Check:
    # RayLens turns the hub client's off itself, and Ray's unless the environment asks for it.
    asked = environment.get("RAY_USAGE_STATS_ENABLED", "0").lower()
    if asked in _OFF:
        return Check("access", "telemetry", "ok", "off (hub client, Ray)")
    command = "unset RAY_USAGE_STATS_ENABLED"
    return Check("access", "telemetry", "warning", "Ray's is on: RAY_USAGE_STATS_ENABLED", "nothing leaves", command)


def check_bundle(root: Path = bundle.ROOT) -> Check:
    """The embedded models are there and are what was shipped."""
    built_here = (checkout() / "Makefile").is_file()
    repair = "make bundle" if built_here else "pip install --force-reinstall raylens"
    unlocks = "the embedded models and raylens demo"
    try:
        damaged = bundle.damaged_files(root)
        count = len(bundle.bundle_hashes(root))
    except (OSError, ValueError) as error:
        detail = f"the list of files does not read: {error}"
        return Check("bundle", "embedded models", "broken", detail, unlocks, repair)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        detail = f"missing or changed: {', '.join(damaged[:3])}{more}"
        return Check("bundle", "embedded models", "broken", detail, unlocks, repair)
    size = bundle.bundle_size(root) / 1e6
    return Check("bundle", "embedded models", "ok", f"{count} files, {size:.1f} MB, all as shipped")


def check_catalogue(path: Path = snapshot.PATH) -> Check:
    """The catalogue's snapshot reads, and is of the sae-lens that is installed."""
    try:
        content = snapshot.decode(path.read_bytes(), path)
    except (OSError, RaylensError) as error:
        reason = error.message if isinstance(error, RaylensError) else str(error)
        return Check("bundle", "catalogue", "broken", reason, "raylens catalog", "raylens catalog refresh")
    taken, here = content["sae_lens"], installed("sae-lens")
    saes = sum(len(release["saes"]) for release in content["releases"].values())
    detail = f"{saes} SAEs of {len(content['releases'])} releases, as in sae-lens {taken}"
    if here and here != taken:
        unlocks = f"what sae-lens {here} lists"
        return Check("bundle", "catalogue", "warning", detail, unlocks, "raylens catalog refresh")
    return Check("bundle", "catalogue", "ok", detail)
