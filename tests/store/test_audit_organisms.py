"""Rows of organisms: appended one by one by many, the last of each counts, shown in SQL."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens import schema
from raylens.errors import DamagedFileError, InputError
from raylens.store import audit_segments
from raylens.store.audit_organisms import (
    OrganismRow,
    Organisms,
    comparable_rows,
    organism_table,
    organisms_from_arrow,
    organisms_to_arrow,
    read_organisms,
    spec_hash,
    write_organisms,
)
from raylens.store.files import Files
from raylens.store.housekeeping import gc
from raylens.store.sql import query
from raylens.store.workspace import Workspace

AT = datetime(2026, 1, 2, tzinfo=UTC)


def organism(number: int, *, minute: int = 0, **more: Any) -> OrganismRow:
    values: dict[str, Any] = {
        "organism": f"two-spaces-{number:02}",
        "family": "two-spaces",
        "kind": "benign",
        "split": "development",
        "model": "raylens/pico",
        "revision": "5c1f",
        "spec": {"seed": number, "rank": 4},
        "heldout_loss": 2.5,
        "counts": True,
        "seconds": 40.0,
        "scores": {"abs_diff_topk": 0.05, "logit_kl": 0.001},
        "recorded_at": AT + timedelta(minutes=minute),
    }
    return OrganismRow(**(values | more))


def test_rows_are_read_back_and_a_later_one_counts(files: Files) -> None:
    organisms = Organisms(files)
    assert organisms.read() == ()
    organisms.append()
    assert list(files.scan("organisms")) == []
    organisms.append(organism(2), organism(1))
    other_recipe = organism(1, spec={"seed": 1, "rank": 8})
    organisms.append(other_recipe)
    organisms.append(organism(2, minute=1, scores={"logit_kl": 0.5}, reason="it broke", counts=False))
    organisms.append(organism(1, minute=-1, reason="an older one, written late"))
    found = organisms.read()
    assert len(found) == 3
    assert organisms.known()["two-spaces-02", spec_hash({"rank": 4, "seed": 2})].scores == {"logit_kl": 0.5}
    assert organisms.known()[organism(1).key] == organism(1)
    assert organisms.known()[other_recipe.key] == other_recipe
    assert pickle.loads(pickle.dumps(organisms)).read() == found


figures = st.none() | st.floats(0, 1)
rows = st.builds(
    OrganismRow,
    organism=st.text(min_size=1, max_size=5),
    family=st.text(max_size=5),
    kind=st.sampled_from(["benign", "backdoored"]),
    split=st.sampled_from(["development", "held_out"]),
    model=st.text(max_size=5),
    revision=st.none() | st.text(max_size=5),
    spec=st.dictionaries(st.text(max_size=3), st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.booleans()),
    payload_with_trigger=figures,
    heldout_loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    counts=st.booleans(),
    scores=st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    recorded_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
)


@given(made=st.lists(rows, max_size=4))
def test_arrow_and_back_is_the_same(made: list[OrganismRow]) -> None:
    assert list(organisms_from_arrow(organisms_to_arrow(made))) == made


def test_many_who_append_at_once_lose_nothing_and_segments_stay_few(
    local_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_segments, "ROLLED_AT", 4)

    def build(number: int) -> None:
        Organisms(local_files).append(organism(number))
        Organisms(local_files).append(organism(number, minute=1, scores={"logit_kl": float(number)}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(12)))
    found = Organisms(local_files).read()
    assert [(row.organism, row.scores) for row in found] == [
        (f"two-spaces-{n:02}", {"logit_kl": float(n)}) for n in range(12)
    ]
    assert len(organism_table(local_files).paths()) < 12


def test_what_was_rolled_goes_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_segments, "ROLLED_AT", 2)
    workspace = Workspace.open(tmp_path / "w", create=True)
    organisms = Organisms(workspace.files)
    for number in range(7):
        organisms.append(organism(number))
    expected = organisms.read()
    before = organism_table(workspace.files).paths()
    orphan = "organisms/20200101-000000-000000-aaaaaaaa.parquet"
    workspace.files.commit(orphan, b"its writer died before the row")
    assert gc(workspace).removals == ()
    removals = gc(workspace, now=datetime.now(UTC) + timedelta(hours=25)).removals
    assert {one.reason for one in removals} == {"rolled into another", "file without a row"}
    assert orphan in {one.path for one in removals}
    assert organisms.read() == expected
    assert organism_table(workspace.files).paths() == before
    paths = [one.path for one in removals]
    for path in paths:  # a removal that is cut short leaves no row without its file
        row = path.removesuffix(".parquet") + ".json"
        assert row not in paths or paths.index(row) <= paths.index(path)
    assert gc(workspace, now=datetime.now(UTC) + timedelta(hours=25)).removals == ()


def test_a_row_whose_replacement_was_collected_does_not_come_back(
    local_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled twice while the first roll's sources are still there, then the first roll goes."""
    monkeypatch.setattr(audit_segments, "ROLLED_AT", 1)
    organisms = Organisms(local_files)
    for minute in range(4):
        organisms.append(organism(1, minute=minute, seconds=float(minute)))
    table = organism_table(local_files)
    (row,) = organisms.read()
    assert row.seconds == 3.0
    assert len(table.paths()) == 1
    # Any order of removing what is superseded leaves one answer.
    for stored, _ in reversed(list(table.superseded(datetime.now(UTC).timestamp() + 60))):
        local_files.discard(stored.path)
        if stored.path.endswith(".json"):
            assert organisms.read() == (row,)


def test_the_view_has_the_last_row_of_each(workspace: Workspace) -> None:
    organisms = Organisms(workspace.files)
    organisms.append(organism(1), organism(2))
    organisms.append(organism(2, minute=1, kind="backdoored", payload_with_trigger=0.9, scores={"x": 1.0}))
    sql = (
        "SELECT organism, kind, payload_with_trigger AS p, scores['logit_kl'] AS kl, map_keys(scores) AS methods, "
        "spec->>'seed' AS seed FROM organisms ORDER BY organism"
    )
    assert query(workspace, sql).table.to_pylist() == [
        {
            "organism": "two-spaces-01",
            "kind": "benign",
            "p": None,
            "kl": 0.001,
            "methods": ["abs_diff_topk", "logit_kl"],
            "seed": "1",
        },
        {"organism": "two-spaces-02", "kind": "backdoored", "p": 0.9, "kl": None, "methods": ["x"], "seed": "2"},
    ]
    assert query(workspace, "SELECT * FROM organisms").table.schema.names == schema.ORGANISMS.names


def test_rows_of_a_package_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "organisms.parquet"
    write_organisms(path, [organism(2), organism(1)])
    assert read_organisms(path) == (organism(1), organism(2))
    again = tmp_path / "again.parquet"
    write_organisms(again, read_organisms(path)[::-1])
    assert again.read_bytes() == path.read_bytes()
    assert pq.read_schema(path).names == schema.ORGANISMS.names
    with pytest.raises(InputError, match="there is no table of organisms"):
        read_organisms(tmp_path / "missing.parquet")
    path.write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError, match="is no table of organisms"):
        read_organisms(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DamagedFileError, match="is no table of organisms"):
        read_organisms(path)


def test_damage_is_said(local_files: Files) -> None:
    Organisms(local_files).append(organism(1))
    (path,) = organism_table(local_files).paths()
    local_files.commit(path, b"PAR1 not at all")
    with pytest.raises(DamagedFileError, match=os.path.basename(path)):  # noqa: PTH119
        Organisms(local_files).read()
    local_files.commit(path.replace(".parquet", ".json"), b"{}")
    with pytest.raises(DamagedFileError, match="is damaged"):
        Organisms(local_files).read()


def test_rows_that_may_be_compared_are_of_one_model_and_scored_alike() -> None:
    old = {"seed": 1, "scoring": "old"}
    new = {"seed": 1, "scoring": "new"}
    rows = [
        organism(1, minute=1, spec=old),
        organism(2, minute=2, spec=old),
        organism(1, minute=4, spec=new),
        organism(3, minute=6, spec=new),
        organism(3, minute=5, spec=new | {"seed": 2}),
        organism(4, minute=3, model="other", spec=new),
        organism(1, minute=9, spec={"seed": 1, "scoring": "newest"}),
    ]
    found = comparable_rows(rows)  # two organisms each are scored the old way and the new, one the newest
    assert [(row.organism[-1], row.spec["scoring"]) for row in found] == [("1", "new"), ("3", "new")]
    assert found[1].recorded_at == AT + timedelta(minutes=6)
    assert [row.organism[-1] for row in comparable_rows(rows, "other")] == ["4"]
    assert comparable_rows(rows, "nobody") == ()
    assert comparable_rows([]) == ()


def test_a_score_is_added_as_a_later_row(files: Files) -> None:
    organisms = Organisms(files)
    row = organism(1)
    organisms.append(row)
    organisms.append(row.with_score("benign_standardised", 2.5))
    (found,) = organisms.read()
    assert found.scores == {**row.scores, "benign_standardised": 2.5}
    assert found.key == row.key
    assert found.recorded_at > row.recorded_at
