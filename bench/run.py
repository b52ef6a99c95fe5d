"""``make bench``: run the benchmarks named (default: all), judge them, keep the figures.

Each module of ``BENCHES`` has ``measure(folder) -> dict``: figures named in ``floors.yaml`` are
judged, the others are kept beside them. Results go to ``bench/results/<bench>.json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
BENCHES = (
    "cache_ratio",
    "two_workers",
    "growth",
    "queries",
    "llm_capacity",
    "examples",
    "faiss_negatives",
    "lexical",
    "audit",
    "serving",
    "soak",
    "workbench",
    "provenance",
    "app",
)


def judge(figures: dict[str, Any], floors: dict[str, dict[str, Any]]) -> list[tuple[str, float, str, bool]]:
    """``(name, value, floor, met)`` for every figure that has a floor."""
    rows = []
    for name, value in figures.items():
        if floor := floors.get(name):
            low, high = floor.get("min", float("-inf")), floor.get("max", float("inf"))
            rows.append((name, value, f"≥ {low}" if "min" in floor else f"≤ {high}", low <= value <= high))
    return rows


def main() -> int:
    """Run, print a table, write results; exit code 1 where a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benches", nargs="*", choices=[[], *BENCHES], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink token counts, for trying a bench out")
    arguments = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    floors = yaml.safe_load((HERE / "floors.yaml").read_text())
    missed = 0
    for name in arguments.benches or BENCHES:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="raylens-bench-") as folder:
            figures = importlib.import_module(f"bench.{name}").measure(Path(folder), arguments.scale)
        for figure, value, floor, met in judge(figures, floors):
            missed += not met
            print(f"{'ok    ' if met else 'MISSED'}  {figure:24} {value:8.3f}  ({floor})  {floors[figure]['what']}")
        if arguments.scale == 1.0:
            result = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "figures": figures}
            (HERE / "results").mkdir(exist_ok=True)
            (HERE / "results" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if missed else 0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "python": sys.version[:6]}


if __name__ == "__main__":
    sys.exit(main())
