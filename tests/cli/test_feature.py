"""``raylens feature``: one feature in full, and which one a short name means (A0.16)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens import schema
from raylens.ids import SaeId
from raylens.store.findings import Findings
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from raylens_app.cli.feature import packed

Raylens = Callable[..., Any]
CACHE = "0123456789abcdef"
FEATURE = "tiny-res/layer_3/0"


def peaks(done: Any) -> list[float]:
    return [window["peak"] for window in done.document["windows"]]


@pytest.fixture
def all_peaks(tiny_workspace: Path) -> list[float]:
    """Peaks of every window of the feature, by the reader's plain list."""
    reader = CacheReader(Workspace.open(tiny_workspace), CACHE)
    return [activity.peak for activity in reader.top_windows(SaeId.parse("tiny-res/layer_3"), 0, 10_000)]


@pytest.mark.parametrize("name", ["f_3_0", FEATURE])  # A0.16
def test_both_names_show_the_same_feature(raylens: Raylens, tiny_workspace: Path, name: str) -> None:
    document = raylens(tiny_workspace, "feature", name, "--json").document
    assert document["id"] == "f_3_0"
    assert document["feature_id"] == FEATURE
    assert document["cache_id"] == CACHE
    assert document["url"] == "https://www.neuronpedia.org/tiny/3-res/0"
    assert [row["token"] for row in document["logits"]["top"]] == [f" top\x1b{rank}" for rank in range(4)]
    assert [row["id"] for row in document["neighbours"]] == ["f_3_1", "f_3_2", "f_3_3"]
    assert [row["jaccard"] for row in document["cofiring"]] == pytest.approx([0.5, 0.4, 0.3])
    statistics = document["statistics"]
    assert sum(statistics["histogram"]["counts"]) == statistics["n_active"]
    assert len(statistics["histogram"]["edges"]) == len(statistics["histogram"]["counts"]) + 1


def test_windows_come_with_all_tokens_and_the_strongest_first(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "feature", "f_3_0", "-n", "5", "--json")
    windows = done.document["windows"]
    assert len(windows) == 5
    assert peaks(done) == sorted(peaks(done), reverse=True)
    for window in windows:
        assert max(window["activations"]) == window["peak"]
        fires_on = {t for t, a in zip(window["tokens"], window["activations"], strict=True) if a > 0}
        assert {token.strip() for token in fires_on} == {"return"}
        assert window["path"].startswith("pkg/module_")


def test_the_page_says_what_a_researcher_looks_for(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "feature", "f_3_0")
    assert done.code == 0
    for part in (
        "f_3_0  tiny-res/layer_3/0  cache 0123456789abcdef (tiny)",
        "of 708, in 18 windows",
        "mean 5.24, max 8.00",
        "' top␛0' +2.00",
        "' bottom␛0' -2.00",
        "f_3_1 0.90",
        "f_3_1 0.50",
        "strongest windows",
        "def area ( self ) :↵⇥«return»(8.00) self . width",
        "pkg/module_0.py · 0",
    ):
        assert part in done.out
    assert "\x1b" not in done.out
    assert "\x9b" not in done.out
    assert "\u202e" not in done.out


def test_hostile_text_in_colour_holds_only_our_own_sequences(
    raylens: Raylens, tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    done = raylens(tiny_workspace, "feature", "f_3_2", "--context", "0", "--windows", "100")
    assert "␛]0;owned␇" in done.out
    assert "[bold]x[/bold]" in done.out
    sequences = {part.partition("m")[0] for part in done.out.split("\x1b")[1:]}
    assert all(sequence[0] == "[" and set(sequence[1:]) <= set("0123456789;") for sequence in sequences)
    assert not {"\x07", "\x9b", "\u202e"} & set(done.out)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=9)))
def test_packed_lines_hold_every_item_whole(items: list[str]) -> None:
    lines = packed(items, 20).split("\n")
    assert "  ".join(lines) == "  ".join(items)
    assert all(len(line) <= 20 for line in lines)


def test_context_cuts_around_the_peak(raylens: Raylens, tiny_workspace: Path) -> None:
    near = raylens(tiny_workspace, "feature", "f_3_0", "--windows", "1", "--context", "1").out
    assert "…⇥«return»(8.00) self…" in near
    whole = raylens(tiny_workspace, "feature", "f_3_0", "--windows", "1", "--context", "0").out
    assert "…" not in whole
    assert raylens(tiny_workspace, "feature", "f_3_0", "--windows", "0").code == 0


def test_an_interval_shows_windows_of_that_strength(
    raylens: Raylens, tiny_workspace: Path, all_peaks: list[float]
) -> None:
    wanted = [peak for peak in all_peaks if 3 <= peak < 6.5]
    assert wanted
    assert peaks(raylens(tiny_workspace, "feature", "f_3_0", "--interval", "3:6.5", "-n", "99", "--json")) == wanted
    assert peaks(raylens(tiny_workspace, "feature", "f_3_0", "--interval", "3:", "-n", "99", "--json")) == [
        peak for peak in all_peaks if peak >= 3
    ]
    assert (
        "windows with peaks from 3.00 to 6.50" in raylens(tiny_workspace, "feature", "f_3_0", "--interval", "3:6.5").out
    )


def test_quantiles_share_out_all_windows(raylens: Raylens, tiny_workspace: Path, all_peaks: list[float]) -> None:
    shares = [
        peaks(raylens(tiny_workspace, "feature", "f_3_0", "--quantile", f"{i}/4", "-n", "99", "--json"))
        for i in range(1, 5)
    ]
    assert sorted(np.concatenate(shares)) == sorted(all_peaks)
    assert all(max(weak) <= min(strong) for weak, strong in pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2
    assert peaks(raylens(tiny_workspace, "feature", "f_3_0", "--quantile", "1/1", "-n", "99", "--json")) == all_peaks


@pytest.mark.parametrize(
    "arguments",
    [
        ["--interval", "5"],
        ["--interval", "6:5"],
        ["--interval", "a:b"],
        ["--interval", "nan:1"],
        ["--quantile", "0/4"],
        ["--quantile", "5/4"],
        ["--quantile", "x"],
        ["--quantile", "1/2", "--interval", "1:2"],
    ],
)
def test_what_is_no_interval_or_quantile_is_refused(
    raylens: Raylens, tiny_workspace: Path, arguments: list[str]
) -> None:
    done = raylens(tiny_workspace, "feature", "f_3_0", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_explanations_come_with_their_scores_the_latest_first(
    raylens: Raylens, tiny_workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_workspace, tmp_path / "workspace")
    cache, sae = Workspace.open(tmp_path / "workspace").cache(CACHE), SaeId.parse("tiny-res/layer_3")
    for day, text in ((1, "an old phrase"), (2, "the word \x1b[31m`return`")):
        row: dict[str, Any] = {"feature": 0, "explanation_id": f"e{day}", "run_id": f"explain-{day}", "status": "ok"}
        row |= {"explainer": "lexical", "explanation": text, "rule": "{}"}
        row["created_at"] = datetime(2026, 11, day, tzinfo=UTC)
        failed = {**row, "feature": 1, "status": "dead", "explanation": None, "explanation_id": None}
        table = pa.Table.from_pylist([row, failed], schema=schema.EXPLANATIONS)
        Findings(cache, sae, "explanations", {"day": day}).write([0, 1], table)
    base = {"feature": 0, "explanation_id": "e2", "explainer": "lexical", "scorer": "rule", "n": 100, "n_failed": 0}
    scores = [
        {**base, "run_id": "score-1", "metric": "f1", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6},
        {**base, "run_id": "score-2", "metric": "f1", "value": 0.75, "ci_low": 0.65, "ci_high": 0.85},
        {**base, "run_id": "score-2", "metric": "f1", "value": 0.1, "control": "shuffled"},
    ]
    for number, score in enumerate(scores):
        table = pa.Table.from_pylist([score], schema=schema.SCORES)
        Findings(cache, sae, "scores", {"number": number}).write([0], table)
    document = raylens(tmp_path / "workspace", "feature", "f_3_0", "--json").document
    newest, old = document["explanations"]
    assert (newest["explanation"], old["explanation"]) == ("the word \x1b[31m`return`", "an old phrase")
    assert newest["scores"] == {"rule.f1": {"value": 0.75, "ci_low": 0.65, "ci_high": 0.85, "n": 100, "n_failed": 0}}
    assert old["scores"] == {}
    out = raylens(tmp_path / "workspace", "feature", "f_3_0").out
    assert "F1 0.75 (0.65–0.85) by rule, n 100" in out
    assert "an old phrase [lexical] not scored" in out
    assert "\x1b[31m" not in out
    assert raylens(tmp_path / "workspace", "feature", "f_3_1", "--json").document["explanations"] == []


def test_a_dead_feature_is_said_to_be_dead(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "feature", "f_3_39")
    assert done.code == 0
    assert "none of the 708 text tokens of this cache: dead here" in done.out
    assert "' top␛0' +2.00" in done.out
    document = raylens(tiny_workspace, "feature", "f_3_39", "--quantile", "1/2", "--json").document
    assert document["windows"] == []
    assert document["statistics"]["max_activation"] is None


def test_a_feature_that_fires_only_on_special_tokens_counts_as_dead(raylens: Raylens, tiny_workspace: Path) -> None:
    document = raylens(tiny_workspace, "feature", "f_3_3", "--json").document
    assert document["statistics"]["n_active"] == 0
    assert document["windows"] == []


def test_out_of_range_says_the_width(raylens: Raylens, tiny_workspace: Path) -> None:
    for name in ("f_3_40", "tiny-res/layer_3/40"):
        done = raylens(tiny_workspace, "feature", name)
        assert done.code == 2
        assert "tiny-res/layer_3 is 40 wide, 0 to 39" in done.err


@pytest.mark.parametrize("name", ["f_9_0", "f_3", "nonsense", "tiny-res/layer_9/0", "f_3_x", ""])
def test_what_names_no_feature_is_refused(raylens: Raylens, tiny_workspace: Path, name: str) -> None:
    done = raylens(tiny_workspace, "feature", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1


def test_an_ambiguous_short_name_lists_the_candidates(  # A0.16
    raylens: Raylens, own_workspace: Workspace, tiny_cache: Callable[..., Any]
) -> None:
    tiny_cache(own_workspace, "a" * 16, saes=("tiny-res/layer_3", "tiny-wide/layer_3"))
    done = raylens(own_workspace.url, "feature", "f_3_0")
    assert done.code == 2
    assert "f_3_0 names 2 features" in done.err
    assert "tiny-res/layer_3/0, tiny-wide/layer_3/0" in done.err
    assert raylens(own_workspace.url, "feature", "tiny-wide/layer_3/0").code == 0
    # Only one of them is wide enough.
    assert raylens(own_workspace.url, "feature", "f_3_50", "--json").document["sae"] == "tiny-wide/layer_3"
    tiny_cache(own_workspace, "b" * 16, name="second", saes=("tiny-res/layer_3",))
    done = raylens(own_workspace.url, "feature", "tiny-res/layer_3/0")
    assert f"tiny-res/layer_3/0 --cache {'a' * 16}" in done.err
    assert f"tiny-res/layer_3/0 --cache {'b' * 16} (second)" in done.err
    assert raylens(own_workspace.url, "feature", "f_3_0", "--cache", "second").code == 0
