"""``raylens du``, ``raylens rm`` and ``raylens gc``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.errors import InputError
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.cli.housekeeping import seconds_of

Raylens = Callable[..., Any]


def stored(workspace: Workspace) -> int:
    """Bytes of every file, the slow way."""
    return sum(path.stat().st_size for path in Path(workspace.url).rglob("*") if path.is_file())


@pytest.fixture
def filled(own_workspace: Workspace, tiny_cache: Callable[..., Any]) -> Workspace:
    tiny_cache(own_workspace, "a" * 16, name="first", saes=("tiny-res/layer_1", "tiny-res/layer_3"))
    with RunJournal.start(own_workspace.files, "cache", {}, run_id="cache-1"):
        pass
    return own_workspace


def test_du_counts_every_byte(raylens: Raylens, filled: Workspace) -> None:
    document = raylens(filled.url, "du", "--json").document
    assert document["bytes"] == stored(filled)
    kinds = {(row["sae"], row["kind"]) for row in document["usage"]}
    assert ("tiny-res/layer_3", "activations") in kinds
    shown = raylens(filled.url, "du").out
    assert f"{'a' * 16} first" in shown
    assert shown.splitlines()[-1].startswith("total")


def test_rm_asks_and_without_anybody_to_ask_refuses(raylens: Raylens, filled: Workspace) -> None:
    before = stored(filled)
    done = raylens(filled.url, "rm", "first")
    assert done.code == 2
    assert "say so with --yes" in done.err
    assert stored(filled) == before


def test_rm_removes_an_sae_a_cache_and_a_run(raylens: Raylens, filled: Workspace) -> None:
    assert raylens(filled.url, "rm", "first", "--sae", "tiny-res/layer_1", "--yes").code == 0
    assert {row["sae"] for row in raylens(filled.url, "features", "--json").document} == {"tiny-res/layer_3"}
    assert raylens(filled.url, "rm", "first", "--sae", "tiny-res/layer_1", "-y").code == 2
    assert "removed run cache-1." in raylens(filled.url, "rm", "cache-1", "--yes").err
    assert filled.runs() == ()
    assert f"removed cache {'a' * 16} (" in raylens(filled.url, "rm", "aaaa", "--yes").err
    assert filled.caches() == ()


def test_rm_refuses_what_it_cannot_mean(raylens: Raylens, filled: Workspace, tiny_cache: Callable[..., Any]) -> None:
    unknown = raylens(filled.url, "rm", "nope", "--yes")
    assert unknown.code == 2
    assert "unknown cache or run 'nope'" in unknown.err
    assert "cache-1" in unknown.err
    assert "runs hold no SAE" in raylens(filled.url, "rm", "cache-1", "--sae", "a/b", "--yes").err
    tiny_cache(filled, "ab" * 8, name="second")
    ambiguous = raylens(filled.url, "rm", "a", "--yes")
    assert ambiguous.code == 2
    assert "names 2 caches" in ambiguous.err
    with filled.cache("a" * 16).lock("cache-9"):
        busy = raylens(filled.url, "rm", "first", "--yes")
    assert busy.code == 2
    assert "cache-9" in busy.err
    assert len(filled.caches()) == 2


def test_gc_frees_what_a_removed_cache_left_and_says_so_before(raylens: Raylens, filled: Workspace) -> None:
    raylens(filled.url, "rm", "first", "--yes")
    before = stored(filled)
    dry = raylens(filled.url, "gc", "--grace", "0s", "--dry-run", "--json").document
    assert stored(filled) == before
    done = raylens(filled.url, "gc", "--grace", "0s", "--json").document
    assert before - stored(filled) == done["bytes"] > 0
    assert [one["path"] for one in dry["removals"]] == [one["path"] for one in done["removals"]]
    assert "freed 0 B in 0 files." in raylens(filled.url, "gc").err


def test_gc_leaves_a_cache_at_work_alone(raylens: Raylens, filled: Workspace) -> None:
    generation = filled.cache("a" * 16).generation_folder("unfinished")
    filled.files.commit(f"{generation}/left.parquet", b"rubbish")
    with filled.cache("a" * 16).lock("cache-9"):
        done = raylens(filled.url, "gc", "--grace", "0s")
    assert f"cache {'a' * 16} was left alone: a run is writing it." in done.err
    assert filled.files.exists(f"{generation}/left.parquet")
    shown = raylens(filled.url, "gc", "--grace", "0s")
    assert "unfinished generation" in shown.out
    assert not filled.files.exists(f"{generation}/left.parquet")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("24h", 86_400), ("7D", 604_800)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-1h", "1w", "h", "1 h 2 m"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(InputError):
        seconds_of(text)
