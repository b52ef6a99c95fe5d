"""A fingerprint changes with content and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from raylens.bundle.stdlib import HELD_OUT, python_version
from raylens.ids import cache_id
from raylens.sources import fingerprint, parse_source


def of(spec: object, column: str | None = None) -> str:
    found = fingerprint(parse_source(str(spec), column))
    assert json.loads(json.dumps(found)) == found
    return cache_id(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("alpha")
    (root / "sub/b.txt").write_text("beta")
    return root


def test_where_it_lies_and_how_it_is_named_do_not_count(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    os.utime(copied / "a.txt", (1, 1))
    assert of(folder) == of(copied) == of(folder / "**/*.txt")
    assert of(folder, "body") == of(folder), "no file has columns"


def test_content_names_and_columns_count(folder: Path) -> None:
    seen = {of(folder), of(folder / "a.txt"), of(folder / "sub")}
    (folder / "a.txt").write_text("alphA")
    seen.add(of(folder))
    (folder / "a.txt").rename(folder / "c.txt")
    seen.add(of(folder))
    (folder / "rows.jsonl").write_text('{"text": "x", "body": "y"}\n')
    seen |= {of(folder), of(folder, "body")}
    assert len(seen) == 7


def test_large_files_are_known_by_their_edges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens.sources.identity.WHOLE_BYTES", 50)
    monkeypatch.setattr("raylens.sources.identity.EDGE_BYTES", 10)
    big = folder / "big.txt"
    big.write_text("x" * 100)
    os.utime(big, ns=(10**18, 10**18))
    first = of(folder)
    assert fingerprint(parse_source(str(folder)))["sampled"] == 1
    big.write_text("x" * 99 + "y")
    os.utime(big, ns=(10**18, 10**18))
    second = of(folder)
    os.utime(big, ns=(10**18, 10**18 + 1))
    assert len({first, second, of(folder)}) == 3


def test_stdlib_names_its_python() -> None:
    found = fingerprint(parse_source("stdlib:held_out"))
    assert (found["python"], found["part"], found["files"]) == (python_version(), "held_out", len(HELD_OUT))
