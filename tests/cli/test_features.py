"""``raylens features``: what is listed, in which order, and how it looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]
CACHE = "0123456789abcdef"


def test_the_list_shows_what_features_fire_on_and_promote(raylens: Raylens, tiny_workspace: Path) -> None:  # A3.04
    done = raylens(tiny_workspace, "features", "--sae", "layer_3")
    assert done.code == 0
    title, heading, _, *rows = done.out.splitlines()
    assert title == f"tiny-res/layer_3, 40 features, cache {CACHE} (tiny)"
    assert heading.split() == ["feature", "fires", "on", "windows", "mean", "max", "promotes", "most", "strongly"]
    assert [row.split()[0] for row in rows] == ["f_3_2", "f_3_1", "f_3_0"]
    assert "«return»(8.00)" in rows[2]
    assert "« self»(4.50)" in rows[1]
    assert "' top␛0'" in rows[0]
    assert rows[0].count("»(") == 1, "in a list only the peak carries its value"
    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out


def test_json_is_one_document_of_rows(raylens: Raylens, tiny_workspace: Path) -> None:
    rows = raylens(tiny_workspace, "features", "--json").document
    assert [row["id"] for row in rows] == ["f_1_2", "f_1_1", "f_1_0", "f_3_2", "f_3_1", "f_3_0"]
    first = rows[0]
    assert first["cache_id"] == CACHE
    assert first["sae"] == "tiny-res/layer_1"
    assert 0 < first["density"] < 1
    assert first["promotes"] == [" top\x1b0", " top\x1b1", " top\x1b2"]


@pytest.mark.parametrize(
    ("sort", "key", "falls"),
    [("density", "density", True), ("max", "max_activation", True), ("index", "feature", False)],
)
def test_every_order_is_the_one_asked_for(
    raylens: Raylens, tiny_workspace: Path, sort: str, key: str, falls: bool
) -> None:
    rows = raylens(tiny_workspace, "features", "--sae", "tiny-res/layer_1", "--sort", sort, "--json").document
    values = [row[key] for row in rows]
    assert values == sorted(values, reverse=falls)
    assert len(values) == 3


def test_bounds_limit_and_offset(raylens: Raylens, tiny_workspace: Path) -> None:
    def ids(*arguments: str) -> list[str]:
        rows = raylens(tiny_workspace, "features", "--sae", "layer_1", "--sort", "index", "--json", *arguments).document
        return [row["id"] for row in rows]

    everything = ids("--min-density", "0", "--limit", "100")
    assert everything == [f"f_1_{index}" for index in range(32)], "a lower bound of 0 lists dead features too"
    assert ids("--limit", "2", "--offset", "1") == ["f_1_1", "f_1_2"]
    assert ids("--max-density", "0.5") == ["f_1_0", "f_1_1"]
    assert ids("--min-density", "0.5") == ["f_1_2"]
    shown = raylens(tiny_workspace, "features", "--sae", "layer_1", "--limit", "1")
    assert "2 more; --offset 1 goes on." in shown.err
    assert raylens(tiny_workspace, "features", "--min-density", "0", "--sae", "layer_1").code == 0


def test_contradicting_bounds_are_refused(raylens: Raylens, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "features", "--min-density", "0.5", "--max-density", "0.1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: no density is at least 0.5")


def test_names_that_name_nothing_say_what_exists(raylens: Raylens, tiny_workspace: Path, tmp_path: Path) -> None:
    unknown_sae = raylens(tiny_workspace, "features", "--sae", "layer_9")
    assert unknown_sae.code == 2
    assert "tiny-res/layer_1" in unknown_sae.err
    assert "tiny-res/layer_3" in unknown_sae.err
    unknown_cache = raylens(tiny_workspace, "features", "--cache", "nope")
    assert unknown_cache.code == 2
    assert CACHE in unknown_cache.err
    nowhere = raylens(tmp_path / "nowhere", "features")
    assert nowhere.code == 2
    assert nowhere.err.startswith("error: there is no workspace at ")
    empty = Workspace.open(tmp_path / "empty", create=True)
    assert "hint: raylens cache makes a cache" in raylens(empty.url, "features").err
    empty.cache("a" * 16).write_info({"name": None})
    assert f"hint: not merged yet: {'a' * 16};" in raylens(empty.url, "features").err


def test_of_several_caches_the_one_merged_last_is_shown_and_the_others_named(
    raylens: Raylens, own_workspace: Workspace, tiny_cache: Callable[..., Any]
) -> None:
    tiny_cache(own_workspace, "b" * 16, name="older")
    tiny_cache(own_workspace, "a" * 16, name="newer")
    done = raylens(own_workspace.url, "features", "--json")
    assert {row["cache_id"] for row in done.document} == {"a" * 16}
    assert "b" * 16 in done.err
    older = raylens(own_workspace.url, "features", "--cache", "older", "--json")
    assert {row["cache_id"] for row in older.document} == {"b" * 16}
    assert older.err == ""


def test_damage_is_said_with_the_file_and_what_to_do(
    raylens: Raylens, own_workspace: Workspace, tiny_cache: Callable[..., Any]
) -> None:
    tiny_cache(own_workspace, "a" * 16)
    reader = CacheReader(own_workspace, "a")
    entry = next(reader.manifest.of("feature_stats"))
    path = Path(own_workspace.files.native(entry.path))
    path.write_bytes(path.read_bytes()[: entry.bytes // 2])
    done = raylens(own_workspace.url, "features")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert str(path) in done.err


def test_colours_come_only_where_they_are_wanted(
    raylens: Raylens, tiny_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = raylens(tiny_workspace, "features").out
    assert "\x1b[1;4;" in coloured
    assert "«" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in raylens(tiny_workspace, "features").out
