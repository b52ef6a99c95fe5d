"""Cores, memory, GPUs and disk, as this process may use them.

A container sees the host's counts in ``os.cpu_count`` and ``/proc/meminfo``; what it may use stands in
its control groups. Both versions of them are read, and every group above the process's own counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raylens.home import from_home
from raylens_app.doctor.check import Check

_UNLIMITED_V1: Final = 1 << 60  # version 1 writes a huge number for "no limit"
_GIB: Final = 1 << 30
_LOW_DISK: Final = 2 * _GIB
_LOW_MEMORY: Final = 3 * _GIB
_LOW_SHARED: Final = 256 << 20
_CUDA_WHEELS: Final = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"


def cores(root: Path = Path("/")) -> float:
    """CPU cores this process may use: its affinity, and the tightest quota of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_cpu_quotas(root)])


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits(root)])


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root, ""):
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]) / int(words[1])
    for folder in _groups(root, "cpu"):
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            yield int(quota[0]) / int(period[0])


def _memory_limits(root: Path) -> Iterator[int]:
    for controller, file in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for folder in _groups(root, controller):
            words = _words(folder / file)
            if words and words[0].isdecimal() and int(words[0]) < _UNLIMITED_V1:
                yield int(words[0])


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The process's group of a controller (empty: version 2) and all above it, as they are mounted."""
    mount = root / "sys/fs/cgroup" / controller
    own = "/"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = path
    group = mount / own.strip("/")
    while group != mount and mount in group.parents:
        yield group
        group = group.parent
    yield mount


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    lines = _lines(file)
    return lines[0].split() if lines else []


def check_machine() -> list[Check]:
    """Cores, memory and the shared memory that Ray's object store lives in."""
    bytes_of_memory = memory()
    few = bytes_of_memory < _LOW_MEMORY
    checks = [
        Check("machine", "CPU cores", "ok", f"{cores():g}"),
        Check(
            "machine",
            "memory",
            "warning" if few else "ok",
            f"{bytes_of_memory / _GIB:.1f} GiB",
            f"Ray and a small model want {_LOW_MEMORY / _GIB:g} GiB" if few else "",
        ),
    ]
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < _LOW_SHARED:
        checks.append(
            Check(
                "machine",
                "/dev/shm",
                "warning",
                f"{size >> 20} MiB",
                "Ray's object store at memory speed (it lies in /tmp instead)",
                "docker run --shm-size=2g …",
            )
        )
    return checks


def check_gpus(torch_devices: list[str] | None) -> Check:
    """GPUs that the driver shows, and whether torch sees them.

    Args:
        torch_devices: Names torch gives; None where torch is not installed or does not import.
    """
    found = _nvidia_smi()
    if torch_devices:
        return Check("machine", "GPU", "ok", "; ".join(found or torch_devices))
    if found and torch_devices is not None:
        unlocks = "running models on it: this torch is built without CUDA, or for another driver"
        return Check("machine", "GPU", "warning", f"{'; '.join(found)}, not seen by torch", unlocks, _CUDA_WHEELS)
    if found:
        return Check(
            "machine", "GPU", "warning", f"{'; '.join(found)}, no torch", "running models on it", models_command()
        )
    return Check(
        "machine", "GPU", "missing", "none", "models of billions of parameters; pico and small models need none"
    )


def models_command() -> str:
    """How to install what runs models."""
    return "pip install 'raylens[models]'"


def _nvidia_smi() -> list[str]:
    """``name, memory`` of each GPU that the driver shows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()] if result.returncode == 0 else []


def check_disk(workspace: str) -> Check:
    """Room and permission to write where the workspace is, or would be."""
    if "://" in workspace and not workspace.startswith("file://"):
        return Check("workspace", "disk", "ok", f"{workspace} (an object store: room is not measured)")
    folder = from_home(workspace.removeprefix("file://")).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        return Check(
            "workspace", "disk", "broken", f"{existing} is a file", "caching", "raylens --workspace FOLDER doctor"
        )
    if not os.access(existing, os.W_OK):
        detail, command = f"{existing} cannot be written", "raylens --workspace FOLDER doctor"
        return Check("workspace", "disk", "broken", detail, "caching; reading still works", command)
    free = shutil.disk_usage(existing).free
    low = free < _LOW_DISK
    return Check(
        "workspace",
        "disk",
        "warning" if low else "ok",
        f"{free / _GIB:.1f} GiB free at {existing}",
        "caches of more than some million tokens" if low else "",
        "raylens du" if low else "",
    )
