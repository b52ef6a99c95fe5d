"""``--text`` items parse strictly, and every refusal says what to write instead (A1.13)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.sources import parse_source
from raylens.sources.spec import FileSource, HubSource, SplitSlice, StdlibSource


def test_stdlib_and_its_parts() -> None:
    assert parse_source("stdlib") == StdlibSource("stdlib", "all")
    assert parse_source("stdlib:train") == StdlibSource("stdlib:train", "train")
    assert parse_source("stdlib:tests") == StdlibSource("stdlib:tests", "tests")
    assert parse_source("stdlib:held_out") == StdlibSource("stdlib:held_out", "held_out")


def test_paths_are_made_absolute_and_keep_their_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source("a/**/*.txt") == FileSource("a/**/*.txt", str(tmp_path / "a/**/*.txt"), "text")
    assert parse_source("x.csv", "body") == FileSource("x.csv", str(tmp_path / "x.csv"), "body")
    home = parse_source("~/texts")
    assert isinstance(home, FileSource)
    assert home.pattern == str(Path.home() / "texts")


@pytest.mark.parametrize(
    ("spec", "repo", "config", "split"),
    [
        ("hf:owner/name", "owner/name", None, "train"),
        ("hf:imdb", "imdb", None, "train"),
        ("hf:owner/name:test", "owner/name", None, "test"),
        ("hf:owner/name:en", "owner/name", "en", "train"),
        ("hf:owner/name:wikitext-103-raw-v1", "owner/name", "wikitext-103-raw-v1", "train"),
        ("hf:owner/name:20231101.en:validation", "owner/name", "20231101.en", "validation"),
        ("hf:owner/name::forget10", "owner/name", None, "forget10"),
        ("hf:owner/name:train[:1%]", "owner/name", None, "train[0%:1%]"),
        ("hf:owner/name:en:train[5%:10%]", "owner/name", "en", "train[5%:10%]"),
        ("hf:owner/name:odd[100:]", "owner/name", None, "odd[100:]"),
        ("hf:owner/name:train:train", "owner/name", "train", "train"),
    ],
)
def test_hub_forms(spec: str, repo: str, config: str | None, split: str) -> None:  # A1.04: --dataset_split train[:1%]
    parsed = parse_source(spec, "body")
    assert parsed == HubSource(spec, repo, config, SplitSlice.parse(split), "body")
    assert isinstance(parsed, HubSource)
    assert str(parsed.split) == split


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "  ",
        "stdlib:test",
        "stdlib:",
        "hf:",
        "hf:/name",
        "hf:owner/name/more",
        "hf:owner name",
        "hf:owner/name:a:b:c",
        "hf:owner/name:en:",
        "hf:owner/name:bad config:train",
        "hf:owner/name:train[",
        "hf:owner/name:train[1%:20]",
        "hf:owner/name:train[:-5]",
        "hf:owner/name:train[9:3]",
        "hf:owner/name:train[:200%]",
        "https://example.org/a.txt",
        "s3://bucket/a.txt",
        "hf://datasets/owner/name",
    ],
)
def test_what_is_none_of_the_forms_is_refused(spec: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_source(spec)
    assert raised.value.hint


@given(
    st.tuples(st.integers(0, 100), st.integers(0, 100)).filter(lambda p: p[0] < p[1]),
    st.booleans(),
    st.integers(0, 999),
)
def test_slices_print_back_and_stay_inside_the_split(bounds: tuple[int, int], percent: bool, n_rows: int) -> None:
    sliced = SplitSlice("train", *bounds, percent)
    assert SplitSlice.parse(str(sliced)) == sliced
    low, high = sliced.rows(n_rows)
    assert 0 <= low <= high <= n_rows
    if percent:
        assert high - low == pytest.approx((bounds[1] - bounds[0]) * n_rows / 100, abs=1)
    else:
        assert list(range(n_rows))[low:high] == list(range(n_rows))[bounds[0] : bounds[1]]


def test_percent_slices_of_a_split_are_disjoint_and_cover_it() -> None:
    cuts = [SplitSlice("train", low, low + 10, percent=True).rows(1237) for low in range(0, 100, 10)]
    assert [row for low, high in cuts for row in range(low, high)] == list(range(1237))
