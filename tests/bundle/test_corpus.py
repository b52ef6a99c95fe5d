"""The corpus: which files, which split, and that nothing held out was trained on in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from raylens.bundle.corpus_manifest import (
    matches_running_python,
    read_manifest,
    running_manifest,
    write_manifest,
)
from raylens.bundle.stdlib import HELD_OUT, StdlibFile, read_stdlib


@pytest.fixture(scope="module")
def corpus() -> dict[str, StdlibFile]:
    return {file.path: file for file in read_stdlib()}


def test_splits_are_disjoint_and_complete(corpus: dict[str, StdlibFile]) -> None:
    train = {f.path: f for f in read_stdlib("train")}
    held_out = {path: f for path, f in corpus.items() if path not in train}
    assert train.keys() <= corpus.keys()
    assert {f.split for f in train.values()} == {"train"}
    assert {f.split for f in held_out.values()} == {"held_out"}
    assert held_out.keys() <= HELD_OUT
    assert {f.sha256 for f in train.values()} & {f.sha256 for f in held_out.values()} == set()


def runs_of_lines(text: str) -> set[str]:
    """Lines of prose or code, three in a row."""
    lines = [line for line in map(str.strip, text.splitlines()) if len(line) > 12]
    return {"\n".join(lines[i : i + 3]) for i in range(len(lines) - 2)}


@pytest.mark.parametrize(("part", "most"), [("train", 0.1), ("tests", 0.01)])
def test_no_held_out_file_is_printed_again_where_something_is_trained(
    part: Literal["train", "tests"], most: float, corpus: dict[str, StdlibFile]
) -> None:
    """Near-copies would make held-out figures flatter the models."""
    held_out = {f.path: runs_of_lines(f.text) for f in corpus.values() if f.split == "held_out"}
    seen = set().union(*(runs_of_lines(f.text) for f in read_stdlib(part)))
    assert len(seen) > 10_000
    assert {path for path, own in held_out.items() if own and len(own & seen) / len(own) > most} == set()


def test_tests_are_apart_from_the_corpus_and_test_nothing_held_out(corpus: dict[str, StdlibFile]) -> None:
    tests = {f.path: f for f in read_stdlib("tests")}
    assert {f.split for f in tests.values()} == {"tests"}
    assert tests.keys().isdisjoint(corpus)
    assert {"test/test_dict.py", "test/test_list.py"} <= tests.keys()
    assert {"test/test_heapq.py", "test/test_json/test_decode.py", "test/test_asyncio/test_locks.py"}.isdisjoint(tests)


def test_test_folders_and_generated_tables_are_left_out(corpus: dict[str, StdlibFile]) -> None:
    assert not [p for p in corpus if {"test", "tests", "site-packages", "dist-packages"} & set(p.split("/"))]
    assert "encodings/cp1252.py" not in corpus
    assert "encodings/idna.py" in corpus
    assert corpus["json/decoder.py"].domain == "json"
    assert corpus["heapq.py"].domain == "."


def test_a_manifest_reads_back_the_same(tmp_path: Path) -> None:
    written = write_manifest(tmp_path)
    assert read_manifest(tmp_path) == written
    assert read_manifest(tmp_path).digest == written.digest
    assert written.bytes() == written.bytes("train") + written.bytes("held_out")


def test_the_shipped_manifest_is_of_this_corpus_or_of_another_python(corpus: dict[str, StdlibFile]) -> None:
    shipped = read_manifest()
    assert set(shipped.paths("held_out")) == HELD_OUT
    assert matches_running_python() == (shipped == running_manifest())
    if matches_running_python():
        assert shipped.paths() == list(corpus)
        assert {path: shipped.files[path].sha256 for path in corpus} == {p: f.sha256 for p, f in corpus.items()}
