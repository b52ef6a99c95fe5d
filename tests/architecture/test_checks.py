"""The checks that contributors rely on are there and do something: markers, linters, types, pre-commit (A3.13)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTEST = PROJECT["tool"]["pytest"]["ini_options"]
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}


def version(tool: str) -> str:
    found = subprocess.run([str(BIN / tool), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+\.\d+\.\d+", found)
    assert match is not None
    return match[0]


def pinned(package: str) -> str:
    (found,) = re.findall(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    return found


def test_markers_are_registered_used_and_left_out_by_default() -> None:  # A3.13
    registered = {line.partition(":")[0] for line in PYTEST["markers"]}
    assert registered >= {"slow", "gpu"}
    assert "--strict-markers" in PYTEST["addopts"]
    for marker in ("slow", "gpu"):
        assert f"not {marker}" in PYTEST["addopts"]
        others = [path for path in ROOT.glob("tests/**/test_*.py") if path != Path(__file__)]
        marked = [path for path in others if f"@pytest.mark.{marker}" in path.read_text()]
        assert marked, f"no test is marked {marker}"


def test_a_test_that_is_marked_is_left_out_and_can_be_asked_for(tmp_path: Path) -> None:  # A3.13
    file = tmp_path / "test_marked.py"
    file.write_text(
        "import pytest\n\n"
        "@pytest.mark.slow\ndef test_slow(): pass\n\n"
        "@pytest.mark.gpu\ndef test_gpu(): pass\n\n"
        "def test_plain(): pass\n"
    )

    def chosen(*words: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--collect-only", "-p"]
        done = subprocess.run(
            [*command, "no:cacheprovider", "--rootdir", str(tmp_path), *words, str(file)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        return set(re.findall(r"::(test_\w+)", done.stdout))

    assert chosen() == {"test_plain"}
    assert chosen("-m", "gpu or slow") == {"test_gpu", "test_slow"}
    file.write_text("import pytest\n\n@pytest.mark.slwo\ndef test_misspelt(): pass\n")
    assert chosen() == set(), "a marker that is not registered is an error"


def test_linters_and_type_checks_are_of_pinned_versions_and_cover_the_code() -> None:  # A3.13
    assert version("ruff") == pinned("ruff")
    assert version("pyright") == pinned("pyright")
    assert set(PROJECT["tool"]["pyright"]["include"]) >= {"platform", "jobs", "serve", "app", "bench", "tests"}
    assert {"E", "F", "I", "B", "ANN", "PT", "T20"} <= set(PROJECT["tool"]["ruff"]["lint"]["select"])
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    for command in ("ruff check .", "ruff format --check .", "pyright", "pytest tests/architecture"):
        assert command in recipe


def test_pre_commit_runs_the_same_tools() -> None:  # A3.13
    assert {"ruff-format", "ruff", "architecture"} <= HOOKS.keys()
    for hook in HOOKS.values():
        # The environment's own tools: no other version can be meant.
        assert hook["language"] == "system", hook["id"]
        assert hook["entry"].startswith(".venv/bin/"), hook["id"]
        assert (BIN / hook["entry"].split(" ")[0].removeprefix(".venv/bin/")).exists(), hook["id"]
    assert HOOKS["ruff"]["entry"].split(" ")[1:2] == ["check"]
    assert HOOKS["ruff-format"]["entry"].split(" ")[1:2] == ["format"]
    done = subprocess.run(
        [str(BIN / "pre-commit"), "validate-config", str(ROOT / ".pre-commit-config.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_linters_find_what_they_are_there_for(tmp_path: Path) -> None:  # A3.13
    faulty = tmp_path / "faulty.py"
    faulty.write_text("import os\ndef f(x):\n  print( x )\n")
    config = str(ROOT / "pyproject.toml")
    found = subprocess.run(
        [str(BIN / "ruff"), "check", "--config", config, "--output-format", "concise", "--no-cache", str(faulty)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert {"F401", "T201", "ANN001"} <= set(re.findall(r"\b[A-Z]+\d{3}\b", found.stdout))
    formatted = subprocess.run(
        [str(BIN / "ruff"), "format", "--config", config, "--check", "--no-cache", str(faulty)],
        capture_output=True,
        check=False,
    )
    assert formatted.returncode == 1
