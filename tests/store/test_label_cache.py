"""The tables of labels from elsewhere: whole commits, look-ups that read little, rolling that loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from raylens.errors import DamagedFileError
from raylens.store import label_rolling
from raylens.store.files import Files
from raylens.store.housekeeping import du, gc
from raylens.store.label_cache import SCHEMAS, LabelFolder, label_files, label_folders, live
from raylens.store.label_reader import LabelReader
from raylens.store.label_rolling import collect, roll
from raylens.store.parquet import TableFile
from raylens.store.workspace import Workspace

AT = datetime(2026, 1, 2, tzinfo=UTC)


def words(indices: list[int], text: str = "said", digest: int = 7) -> pa.Table:
    rows = [
        {
            "model": "m",
            "source": "3-s",
            "index": index,
            "status": "ok",
            "payload": f'"{text} {index}"',
            "digest": digest,
        }
        | {"origin": "export", "fetched_at": AT, "explanation_id": "e", "type_name": "t", "description": text}
        for index in indices
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["explanation_cache"])


def pages(indices: list[int]) -> pa.Table:
    rows = [
        {"model": "m", "source": "3-s", "index": index, "status": "missing", "digest": index, "origin": "remote"}
        | {"fetched_at": AT}
        for index in indices
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["feature_cache"])


@pytest.fixture
def folder(files: Files) -> LabelFolder:
    return LabelFolder(files, "m", "3-s")


def test_both_tables_of_a_commit_are_there_or_neither(folder: LabelFolder) -> None:  # A2.11
    reader = LabelReader(folder)
    assert reader.segments == {}
    assert list(label_folders(folder.files)) == []
    assert folder.write({"explanation_cache": words([])}) is None
    segment = folder.write({"explanation_cache": words([5, 1, 3]), "feature_cache": pages([9])})
    assert segment is not None
    assert reader.refresh()
    assert not reader.refresh()
    assert reader.indices("explanation_cache").tolist() == [1, 3, 5]
    assert reader.indices("feature_cache").tolist() == [9]
    assert list(label_folders(folder.files)) == [folder]
    folder.files.delete(folder.row(segment.name))  # as where the writer died before its row
    assert LabelReader(folder).indices("explanation_cache").tolist() == []


def test_rows_of_a_feature_are_found_in_every_segment_and_in_no_other_row_group(
    folder: LabelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.arange(20_000).repeat(2)  # ten row groups
    folder.write({"explanation_cache": words(many.tolist(), "first")})
    folder.write({"explanation_cache": words([4_095, 4_096, 19_999], "second")})
    reader = LabelReader(folder)
    reader.indices("explanation_cache")
    read: list[int] = []
    original = TableFile.read

    def counting(self: TableFile, groups=None, columns=None) -> pa.Table:
        read.append(self.n_groups if groups is None else len(groups))
        return original(self, groups, columns)

    monkeypatch.setattr(TableFile, "read", counting)
    rows = reader.rows("explanation_cache", [4_095, 4_096], ["index", "description"]).to_pylist()
    assert sorted((row["index"], row["description"]) for row in rows) == sorted(
        [(index, text) for index in (4_095, 4_096) for text in ("first", "first", "second")]
    )
    assert sum(read) <= 3
    read.clear()
    assert reader.rows("explanation_cache", [50_000], ["description"]).num_rows == 0
    assert read == [], "features that no segment has cost nothing"
    assert reader.rows("feature_cache", [1]).schema == SCHEMAS["feature_cache"]


def test_reading_equals_an_oracle_over_random_segments(folder: LabelFolder) -> None:
    random = np.random.default_rng(1)
    everything: list[tuple[int, str]] = []
    for number in range(5):
        indices = random.integers(0, 6_000, 3_000).tolist()
        folder.write({"explanation_cache": words(indices, f"s{number}")})
        everything += [(index, f"s{number}") for index in indices]
    reader = LabelReader(folder)
    wanted = set(random.integers(0, 6_000, 200).tolist())
    found = reader.rows("explanation_cache", sorted(wanted), ["index", "description"]).to_pylist()
    assert sorted((r["index"], r["description"]) for r in found) == sorted(p for p in everything if p[0] in wanted)
    assert reader.column("explanation_cache", ["description"]).num_rows == len(everything)


def test_many_small_segments_are_rolled_into_one_that_says_the_same(
    folder: LabelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_rolling, "ROLLED_AT", 3)
    monkeypatch.setattr(label_rolling, "_FEATURES", {"feature_cache": 4, "explanation_cache": 4})
    assert roll(folder) is None
    for number in range(4):
        folder.write({"explanation_cache": words(list(range(number, 20, 2)), f"s{number % 2}", digest=number % 2)})
        folder.write({"feature_cache": pages([number])})
    before = LabelReader(folder)
    every = before.column("explanation_cache", ["index", "description"]).to_pylist()
    said = {(row["index"], row["description"]) for row in every}
    old = dict(before.segments)
    rolled = roll(folder)
    assert rolled is not None
    assert set(rolled.replaces) == set(old)
    # A reader from before goes on reading what it listed, one from now sees one segment.
    assert before.rows("explanation_cache", [2, 3]).num_rows == 4
    after = LabelReader(folder)
    assert list(after.segments) == [rolled.name]
    rows = after.column("explanation_cache", ["index", "description"]).to_pylist()
    assert {(row["index"], row["description"]) for row in rows} == said
    assert len(rows) == len(said), "equal rows come out once"
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    assert after.indices("feature_cache").tolist() == [0, 1, 2, 3]
    assert roll(folder) is None
    # Two at once write the same file.
    folder.files.delete(folder.row(rolled.name))
    again = roll(folder)
    assert again is not None
    assert again.name == rolled.name


def test_what_was_replaced_goes_after_a_while_and_readers_find_the_rest(
    folder: LabelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_rolling, "ROLLED_AT", 1)
    for number in range(3):
        folder.write({"explanation_cache": words([number])})
    reader = LabelReader(folder)
    rolled = roll(folder)
    assert rolled is not None
    assert collect(folder, 0.0) == [], "nothing is that old"
    now = datetime.now(UTC).timestamp() + 60
    orphan = folder.file("20200101-000000-000000-aaaaaa", "feature_cache")
    folder.files.commit(orphan, b"no row speaks of this")
    gone = collect(folder, now)
    assert len(gone) == 7
    assert orphan in gone
    assert live(folder.segments()).keys() == {rolled.name}
    # One that listed the old segments and opened none of them yet finds the rolled one instead.
    assert reader.rows("explanation_cache", [0, 1, 2]).num_rows == 3
    assert collect(folder, now) == []


def test_damage_is_said(folder: LabelFolder) -> None:
    segment = folder.write({"explanation_cache": words([1])})
    assert segment is not None
    folder.files.commit(folder.file(segment.name, "explanation_cache"), b"PAR1 not at all")
    with pytest.raises(DamagedFileError, match="fetched or imported again"):
        LabelReader(folder).rows("explanation_cache", [1])
    folder.files.commit(folder.row(segment.name), b"{}")
    with pytest.raises(DamagedFileError, match="remove it"):
        folder.segments()
    folder.files.commit_json(f"{folder.path}/source.json", {"model": 3})
    with pytest.raises(DamagedFileError, match="names no model and source"):
        list(label_folders(folder.files))


def test_views_can_be_made_over_the_files_and_housekeeping_counts_them(tmp_path) -> None:  # A2.11
    workspace = Workspace.open(tmp_path / "w", create=True)
    folder = LabelFolder(workspace.files, "m", "3-s")
    folder.write({"explanation_cache": words([2, 1]), "feature_cache": pages([1])})
    LabelFolder(workspace.files, "m", "4-s").write({"explanation_cache": words([8])})
    paths = [workspace.files.native(path) for path in label_files(workspace.files, "explanation_cache")]
    assert len(paths) == 2
    query = 'SELECT "index", payload FROM read_parquet(?) WHERE "index" = 1'
    assert duckdb.execute(query, [paths]).fetchall() == [(1, '"said 1"')]
    assert {one.kind: one.files for one in du(workspace)}["label_cache"] == 7
    assert gc(workspace, grace_s=0.0, now=datetime(2100, 1, 1, tzinfo=UTC)).removals == ()
