"""What was found of features, looked up again and again, against reading everything anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explained import explanation, score, write
from raylens.errors import DamagedFileError
from raylens.store.findings import FindingKind, Findings, findings_of
from raylens.store.findings_index import FindingsIndex
from raylens.store.kept import Kept
from raylens.store.workspace import CacheStore, Workspace
from small_cache import SAE

KINDS: tuple[FindingKind, ...] = ("explanations", "scores")
FEATURES = range(8)


@pytest.fixture
def cache(tmp_path: Any) -> CacheStore:
    found = Workspace.open(tmp_path / "workspace", create=True).cache("0" * 16)
    found.write_info({"model": "raylens/tiny"})
    for number in range(3):  # passes that overlap: of features 0 … 3, 1 … 4, 2 … 5
        rows = [explanation(at, f"text {number}", run_id=f"run-{number}") for at in range(number, number + 4)]
        rows += [explanation(at, None, explanation_id=None, run_id=f"run-{number}") for at in range(number, number + 2)]
        scores = [score(at, number / 10, run_id=f"run-{number}") for at in range(number, number + 4)]
        write(found, f"pass {number}", rows, scores)
    Findings(found, SAE, "explanations", {"name": "nothing"}).write([6], rows_of_nothing())
    return found


def rows_of_nothing() -> Any:
    from raylens.schema import EXPLANATIONS

    return EXPLANATIONS.empty_table()


def anew(cache: CacheStore, kind: FindingKind) -> dict[int, list[dict[str, Any]]]:
    """The oracle."""
    return {feature: findings_of(cache, SAE, kind, feature) for feature in FEATURES}


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_gives_what_reading_everything_gives(cache: CacheStore, kind: FindingKind) -> None:
    index = FindingsIndex(cache, SAE, kind)
    expected = anew(cache, kind)
    assert sum(map(len, expected.values())) >= 6
    assert dict(index.rows_of(FEATURES)) == expected
    assert dict(index.rows_of(FEATURES)) == expected, "from memory"
    fresh = FindingsIndex(cache, SAE, kind)
    for feature in reversed(FEATURES):
        assert fresh.rows_of([feature]) == {feature: expected[feature]}
    assert fresh.rows_of([]) == {}


def test_what_is_asked_for_again_is_not_read_again(cache: CacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index = FindingsIndex(cache, SAE, "explanations")
    first = index.rows_of([0, 1, 2])
    monkeypatch.setattr("raylens.store.findings_index.TableFile", None)
    monkeypatch.setattr("raylens.store.findings_index.manifest_row", None)
    assert index.rows_of([0, 2]) == {0: first[0], 2: first[2]}


def test_new_removed_and_rewritten_files_are_seen(cache: CacheStore) -> None:
    index = FindingsIndex(cache, SAE, "explanations")
    index.rows_of(FEATURES)
    write(cache, "pass 9", [explanation(1, "new", explanation_id="n", run_id="run-9")])
    assert dict(index.rows_of(FEATURES)) == anew(cache, "explanations")
    assert "new" in [row["explanation"] for row in index.rows_of([1])[1]]
    again = Findings(cache, SAE, "explanations", {"name": "pass 9"})
    again.discard()
    assert dict(index.rows_of(FEATURES)) == anew(cache, "explanations")
    write(cache, "pass 9", [explanation(1, "newer", explanation_id="n", run_id="run-9")])
    assert "newer" in [row["explanation"] for row in index.rows_of([1])[1]], "of the same name, and another file"


def test_damage_is_said_and_gone_once_it_is_mended(cache: CacheStore) -> None:
    index = FindingsIndex(cache, SAE, "scores")
    path = next(one.path for one in cache.files.scan(cache.folder) if "/scores/" in one.path and "parquet" in one.path)
    data = cache.files.read_bytes(path)
    cache.files.commit(path, b"PAR1")
    with pytest.raises(DamagedFileError, match=path):
        index.rows_of(FEATURES)
    cache.files.commit(path, data)
    assert dict(index.rows_of(FEATURES)) == anew(cache, "scores")


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=20))
def test_something_kept_is_made_anew_when_its_state_changed(steps: list[tuple[int, bool]]) -> None:
    state, made = 0, 0

    def make() -> int:
        nonlocal made
        made += 1
        return state

    kept = Kept(lambda: state, make)
    changes = 0
    before: int | None = None
    for new, _ in steps:
        state = new
        assert kept.get() == state
        changes += new != before
        before = new
    assert made == changes


def test_nobody_looks_for_a_while_unless_told_to() -> None:
    states: Iterator[int] = iter(range(100))
    kept = Kept(lambda: next(states), lambda: object(), look_every_s=3600.0)
    first = kept.get()
    assert kept.get() is first
    kept.look()
    second = kept.get()
    assert second is not first
    assert kept.get() is second


def test_what_cannot_be_made_is_tried_again() -> None:
    tries = 0

    def make() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ValueError
        return tries

    kept = Kept(lambda: 0, make, look_every_s=3600.0)
    with pytest.raises(ValueError):
        kept.get()
    assert kept.get() == 2
