"""The house of docs/architecture.md, as a test: who may import whom, and how large a file may grow."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"raylens": "platform", "raylens_jobs": "jobs", "raylens_serve": "serve", "raylens_app": "app"}
MAY_IMPORT = {
    "raylens": {"raylens"},
    "raylens_jobs": {"raylens", "raylens_jobs"},
    "raylens_serve": {"raylens", "raylens_serve"},
    "raylens_app": {"raylens", "raylens_app"},
}
LAYERS = [
    "errors", "home", "ids", "config", "schema", "specs", "chat", "net", "traces", "api", "client", "corpus",
    "examples", "explain", "score", "suites", "audit", "reports", "store", "bundle", "search", "sources",
    "catalog", "labels", "llm", "engine", "workbench", "organisms",
]  # fmt: skip
"""Rooms of ``raylens``; each imports only those to its left (and itself)."""

HEAVY = {
    "torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers",
    "faiss",
}  # fmt: skip
MAY_BE_HEAVY = (
    "platform/raylens/engine/",
    "platform/raylens/workbench/",
    "platform/raylens/organisms/",
    "jobs/",
    "serve/",
)
HEAVY_FILES = {"platform/raylens/bundle/pico.py", "platform/raylens/bundle/tokenizer.py"}


def python_files() -> list[Path]:
    return [p for top in SOURCES.values() for p in sorted((ROOT / top).rglob("*.py"))]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


def imports(tree: ast.AST, *, top_level_only: bool) -> set[str]:
    """Imported module names; imports under ``if TYPE_CHECKING`` do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module)
            elif (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)) or (
                top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            ):
                continue
            visit(child)

    visit(tree)
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "raylens" and len(parts) > 1 else None


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_keeps_the_rules_of_the_house(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    text = path.read_text()
    tree = ast.parse(text)

    ours = {m for m in imports(tree, top_level_only=False) if m.split(".")[0] in SOURCES}
    allowed = MAY_IMPORT[package_of(path)]
    if relative.startswith("app/raylens_app/cli/"):
        lazily = ours - {m for m in imports(tree, top_level_only=True) if m.split(".")[0] in SOURCES}
        ours -= {m for m in lazily if m.split(".")[0] in {"raylens_jobs", "raylens_serve"}}
    assert {m for m in ours if m.split(".")[0] not in allowed} == set(), "imports against the house's direction"

    if package_of(path) == "raylens":
        here = path.relative_to(ROOT / "platform/raylens").parts[0].removesuffix(".py")
        if here in LAYERS:
            above = set(LAYERS[: LAYERS.index(here) + 1])
            rooms = {r for m in ours if (r := room(m))}
            assert rooms - above == set(), f"{here} imports rooms below it"

    if not relative.startswith(MAY_BE_HEAVY) and relative not in HEAVY_FILES:
        heavy = {m.split(".")[0] for m in imports(tree, top_level_only=True)} & HEAVY
        assert heavy == set(), "imports the model stack at import time (A0.20)"

    lines = text.count("\n")
    assert lines <= 400 or "Longer than 400 lines because" in text, f"{lines} lines and no reason given"
    assert ast.get_docstring(tree), "a file says what it is for"


def test_platform_is_a_source_root_and_not_a_package() -> None:
    for top in SOURCES.values():
        assert not (ROOT / top / "__init__.py").exists(), f"{top}/__init__.py would shadow or rename packages"


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [p for p in python_files() if p.stem in drawers or drawers & set(p.parts)] == []


def test_the_picture_names_every_room() -> None:
    picture = (ROOT / "docs/architecture.md").read_text()
    rooms = {p.name.removesuffix(".py") for p in (ROOT / "platform/raylens").iterdir() if not p.name.startswith("_")}
    assert {r for r in rooms if not re.search(rf"`{r}`", picture)} == set()
