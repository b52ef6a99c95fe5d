"""What the project is made of: the packages that the mission names, each used, and the fixed top level (A4.05)."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest

from raylens.engine.load import Quantization, load_model

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = {
    "ray": "ray",
    "torch": "torch",
    "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes",
    "sae-lens": "sae_lens",
    "pyarrow": "pyarrow",
    "duckdb": "duckdb",
    "sentence-transformers": "sentence_transformers",
    "faiss-cpu": "faiss",
    "streamlit": "streamlit",
}
TOP = {"pyproject.toml", "platform", "jobs", "serve", "app", "infra", "tests", "README.md"}
MAY_JOIN = {"bench", "docs", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt"}


def requirements() -> dict[str, set[str]]:
    """Package → its extras, over all that the project asks for."""
    found: dict[str, set[str]] = {}
    for line in [
        *PROJECT["dependencies"],
        *(one for some in PROJECT["optional-dependencies"].values() for one in some),
    ]:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[([^]]*)\])?", line)
        assert match is not None
        found.setdefault(match[1], set()).update((match[2] or "").split(",") if match[2] else ())
    return found


def imported() -> set[str]:
    """Top-level modules that the sources import."""
    found: set[str] = set()
    for root in ("platform", "jobs", "serve", "app"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {one.name.split(".")[0] for one in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", NAMED)
def test_a_package_that_the_mission_names_is_asked_for_and_pinned(package: str) -> None:  # A4.05
    assert package in requirements()
    assert re.search(rf"(?m)^{re.escape(package)}==\S+$", (ROOT / "constraints.txt").read_text())


def test_ray_comes_with_data_and_serve() -> None:  # A4.05
    assert requirements()["ray"] >= {"data", "serve"}


def test_what_is_asked_for_is_used() -> None:  # A4.05
    # These two are imported by what loads models: over several GPUs, and in 8 or 4 bits (Quantization of engine.load).
    while_loading = {"accelerate", "bitsandbytes"}
    assert {module for package, module in NAMED.items() if package not in while_loading} <= imported()
    assert set(get_args(Quantization)) == {"bnb-8bit", "bnb-4bit"}
    assert "num_gpus" in signature(load_model).parameters


def test_the_top_level_is_the_fixed_one() -> None:  # A4.05
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.split("/")[0] for line in tracked.splitlines()}
    assert names >= TOP
    assert {name for name in names - TOP - MAY_JOIN if not name.startswith(".")} == set()
