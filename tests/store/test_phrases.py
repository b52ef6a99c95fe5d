"""The file of all explanations of an SAE: never wrong, at worst behind, and never needed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from raylens.errors import DiskFullError
from raylens.ids import SaeId
from raylens.schema import EXPLANATIONS
from raylens.store import phrases as phrases_module
from raylens.store.files import Files
from raylens.store.findings import Findings
from raylens.store.housekeeping import du, gc, remove_sae
from raylens.store.phrases import phrases, search_folder
from raylens.store.workspace import CacheStore, Workspace

SAE = SaeId("tiny-res", "layer_3")


class Letters:
    """Counts of the letters a to d as vectors; remembers how many texts it embedded."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.n += len(texts)
        counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], np.float32).reshape(-1, 4)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def cache(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> CacheStore:
    monkeypatch.setattr(phrases_module, "_RENEWED_AT", 3)
    cache = workspace.cache("d" * 16)
    cache.write_info({})
    cache.write_sae(SAE, {})
    return cache


def explain(cache: CacheStore, texts: dict[int, str | None], explainer: str = "lexical") -> None:
    rows = [
        {"feature": f, "explainer": explainer, "explanation": text, "status": "ok" if text else "failed"}
        for f, text in texts.items()
    ]
    Findings(cache, SAE, "explanations", {"explainer": explainer}).write(
        list(texts), pa.Table.from_pylist(rows, EXPLANATIONS)
    )


def test_what_is_kept_is_what_is_there(workspace: Workspace, cache: CacheStore) -> None:
    embed = Letters()

    def check(expected: dict[int, str], n_embedded: int) -> None:
        embed.n = 0
        found = phrases(cache, SAE, embed)
        assert (
            dict(zip(*(found.table[name].to_pylist() for name in ("feature", "explanation")), strict=True)) == expected
        )
        np.testing.assert_allclose(found.vectors, Letters()(found.table["explanation"].to_pylist()), atol=1e-3)
        assert embed.n == n_embedded + 1, "the probe, and what was not kept"
        alone = phrases(cache, SAE, None)
        assert alone.table.num_rows == len(expected)
        assert alone.vectors.shape == (len(expected), 0)

    check({}, 0)
    explain(cache, {0: "aa", 1: None})
    explain(cache, {2: "ab"})
    check({0: "aa", 2: "ab"}, 2)
    check({0: "aa", 2: "ab"}, 2)  # too few files for one of their own
    assert cache.files.folders(f"{cache.folder}/search") == ()
    explain(cache, {3: None})
    check({0: "aa", 2: "ab"}, 3)
    assert len(cache.files.list(search_folder(cache, SAE))) == 2, "with vectors, and without"
    check({0: "aa", 2: "ab"}, 0)
    explain(cache, {4: "d"})
    check({0: "aa", 2: "ab", 4: "d"}, 1)
    assert any((usage.kind, usage.sae) == ("search", str(SAE)) for usage in du(workspace))
    explain(cache, {5: "c"}, explainer="other")
    cache.files.delete(Findings(cache, SAE, "explanations", {"explainer": "lexical"}).folder, recursive=True)
    check({5: "c"}, 1)
    gc(workspace, now=datetime.now(UTC) + timedelta(hours=25))
    assert len(cache.files.list(search_folder(cache, SAE))) == 2
    remove_sae(workspace, cache.cache_id, SAE)
    assert cache.files.folders(f"{cache.folder}/search") == ()


def test_damage_of_what_is_kept_costs_time_and_nothing_else(cache: CacheStore) -> None:
    for feature in range(3):
        explain(cache, {feature: "abc"[feature]})
    whole = phrases(cache, SAE, Letters())
    [path] = cache.files.list(search_folder(cache, SAE))
    cache.files.commit(path, cache.files.read_bytes(path)[:-20])
    again = phrases(cache, SAE, Letters())
    assert again.table.equals(whole.table)
    np.testing.assert_array_equal(again.vectors, whole.vectors)


def test_a_workspace_that_cannot_be_written_is_searched(cache: CacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for feature in range(3):
        explain(cache, {feature: "abc"[feature]})

    def refuse(*_: object) -> None:
        raise DiskFullError("full.", hint="free some.")

    monkeypatch.setattr(Files, "commit", refuse)
    assert phrases(cache, SAE, Letters()).table["explanation"].to_pylist() == ["a", "b", "c"]
    assert cache.files.list(search_folder(cache, SAE)) == ()
