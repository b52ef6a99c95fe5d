"""Which packages are installed, of which version, told from their metadata: nothing is imported here.

torch and ray are imported too, in processes of their own: an installation may be there and not load.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

import raylens
from raylens_app.doctor.check import Check

UNLOCKS: Final = {
    "models": "running models: cache, merge, record, train and evaluate",
    "s3": "workspaces on s3://",
    "serve": "the HTTP gateway",
}
_PYTHON: Final = (3, 11)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^]]*)\])?\s*(?:>=\s*([0-9.]+))?[^;]*(?:;\s*(.*))?")
_EXTRA: Final = re.compile(r"extra == ['\"](\w+)['\"]")
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")
_IMPORTS: Final = {
    "torch": "import json, torch; d = torch.cuda; n = d.device_count() if d.is_available() else 0; "
    "print(json.dumps([d.get_device_name(i) for i in range(n)]))",
    "ray": "import json, ray; import ray.data; print(json.dumps([]))",
}
_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Requirement:
    """A dependency: its minimum version, the extra it belongs to (empty: always), and whether we name it ourselves."""

    name: str
    minimum: str
    extra: str
    direct: bool


def declared() -> list[Requirement]:
    """What this package declares, and what the extras of its dependencies (``ray[serve]``) add.

    Each package once, with the first extra that needs it; empty where RayLens runs uninstalled.
    """
    found: dict[str, Requirement] = {}
    for name, inner, minimum, extra in _parsed("raylens"):
        if name == "raylens" or extra not in ("", *UNLOCKS):
            continue
        found.setdefault(name, Requirement(name, minimum, extra, direct=True))
        for added, _, least, wanted in _parsed(name) if inner else ():
            if wanted and wanted in inner.split(","):
                found.setdefault(added, Requirement(added, least, extra, direct=False))
    return list(found.values())


def _parsed(name: str) -> list[tuple[str, str, str, str]]:
    """Name, extras in brackets, minimum version and extra of each requirement of an installed package.

    Those with a marker on anything else (platform, Python version) are left out.
    """
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return []
    parsed = []
    for match in filter(None, map(_REQUIREMENT.match, lines)):
        extra = _EXTRA.fullmatch((match[4] or "").strip())
        if extra or not match[4]:
            parsed.append((match[1].lower(), match[2] or "", match[3] or "0", extra[1] if extra else ""))
    return parsed


def installed(name: str) -> str | None:
    """The installed version of a distribution, without a local part (``2.13.0+cpu`` → ``2.13.0``)."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def checkout() -> Path:
    """The repository this package runs from, where it does; what lies there says whether it is one."""
    return Path(raylens.__file__).resolve().parents[2]


def check_python() -> Check:
    """Python's version, and the environment it runs in."""
    found = platform.python_version()
    if sys.version_info[:2] < _PYTHON:
        needed = ".".join(str(part) for part in _PYTHON)
        return Check("python", "Python", "broken", f"{found} is too old", f"RayLens needs {needed}", "")
    return Check("python", "Python", "ok", f"{found} on {platform.system()} {platform.machine()}")


def check_packages(find: Callable[[str], str | None] = installed) -> list[Check]:
    """RayLens itself and everything it declares, one check a package; what those bring only where it is amiss.

    Args:
        find: The installed version of a package; None where it is not installed.
    """
    checks = [Check("packages", "raylens", "ok", raylens.__version__)]
    for requirement in declared():
        found = find(requirement.name)
        extra = f"[{requirement.extra}]" if requirement.extra else ""
        command = f"pip install 'raylens{extra}'"
        unlocks = UNLOCKS.get(requirement.extra, "RayLens itself")
        if found is None:
            state = "missing" if requirement.extra else "broken"
            checks.append(Check("packages", requirement.name, state, "not installed", unlocks, command))
        elif _numbers(found) < _numbers(requirement.minimum):
            detail = f"{found} is older than {requirement.minimum}"
            checks.append(Check("packages", requirement.name, "warning", detail, unlocks, command))
        elif requirement.direct:
            checks.append(Check("packages", requirement.name, "ok", found))
    return checks


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def check_tested_set(constraints: Path | None = None) -> Check:
    """Whether what is installed is the set that the tests ran with.

    Args:
        constraints: The pinned set; by default the one of the checkout this package runs from.
    """
    file = constraints or checkout() / "constraints.txt"
    if not file.is_file():
        return Check("packages", "tested set", "ok", "not a checkout; minimum versions count")
    pinned = {match[1].lower(): match[2] for match in map(_PIN.match, file.read_text().splitlines()) if match}
    names = sorted({requirement.name for requirement in declared()} & pinned.keys())
    here = {name: found for name in names if (found := installed(name))}
    others = [f"{name} {found} (tested {pinned[name]})" for name, found in here.items() if found != pinned[name]]
    if others:
        command = "pip install -c constraints.txt -e '.[all]'"
        return Check("packages", "tested set", "warning", ", ".join(others), "results as tested", command)
    return Check("packages", "tested set", "ok", f"{len(here)} packages as pinned")


class Imports:
    """torch and ray, importing in processes of their own while other things are looked at."""

    def __init__(self, code: Mapping[str, str] = _IMPORTS) -> None:
        """Start one process for each package that is installed."""
        quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        self._processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", program],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=quiet,
            )
            for name, program in code.items()
            if installed(name)
        }

    def result(self, name: str) -> list[str] | str | None:
        """What the process printed; a sentence where it failed; None where the package is not installed."""
        process = self._processes.get(name)
        if process is None:
            return None
        try:
            output, errors = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"took longer than {_SECONDS} s to import"
        if process.returncode != 0:
            return next((line for line in reversed(errors.splitlines()) if line.strip()), f"exit {process.returncode}")
        return [str(item) for item in json.loads(output.splitlines()[-1])]


def check_import(name: str, result: list[str] | str | None) -> Check | None:
    """Whether an installed package imports; None where it is not installed (another check says so)."""
    if result is None:
        return None
    if isinstance(result, str):
        command = f"pip install --force-reinstall -c constraints.txt {name}"
        return Check("packages", f"import {name}", "warning", result, UNLOCKS["models"], command)
    return Check("packages", f"import {name}", "ok", "imports")
