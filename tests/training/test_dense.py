"""Recorded activations on disk: what is written comes back, and what does not belong is refused."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raylens.errors import DamagedFileError, InputError, RunError, UnknownNameError
from raylens.store.dense import DenseRecord, column_name, record_place
from raylens.store.files import Files

from .conftest import D_IN, HOOK, MakeRecord, activations, info, tokens


@settings(max_examples=25)
@given(values=arrays(np.float16, (37, D_IN), elements=st.floats(-60_000, 60_000, width=16)))
def test_what_is_written_is_read_back_bit_for_bit(values: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    record = DenseRecord.create(Files.open(tmp_path_factory.mktemp("r")), "", info())
    row = record.write(0, "s", tokens(37), {HOOK: values}, window_first=0, n_windows=2, cursor={"documents": 1})
    assert (record.read(0, HOOK, special=True) == values).all()
    assert (record.read(0, HOOK) == values[~tokens(37).special]).all()
    assert (row.n_rows, row.n_special, record.shards()) == (37, 2, (row,))


def test_groups_stream_every_text_token_in_order(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens.store.dense.GROUP_ROWS", 100)
    record = make_record(shards=3)
    parts = list(record.groups(HOOK))
    assert max(len(rows) for _, rows in parts) <= 100
    whole = np.concatenate([record.read(index, HOOK) for index in range(3)])
    assert (np.concatenate([rows for _, rows in parts]) == whole).all()
    expected = np.concatenate([(t := tokens(256, first)).doc_id[~t.special] for first in (0, 256, 512)])
    assert (np.concatenate([doc_ids for doc_ids, _ in parts]) == expected).all()


def test_duckdb_reads_the_shards(make_record: MakeRecord, tmp_path: Path) -> None:
    make_record(shards=2)
    found = duckdb.execute(
        f"SELECT count(*), count(*) FILTER (special), max(resid_post_1[1]) FROM '{tmp_path}/record/shards/*.parquet'"
    ).fetchall()
    assert found == [(512, 16, 1000.0)]


def test_float32_is_kept_whole_and_what_float16_cannot_hold_is_refused(make_record: MakeRecord) -> None:
    wide = make_record(shards=0, stored_dtype="float32")
    values = activations(32, 0)
    values[3, 2] = 1e6
    wide.write(0, "s", tokens(32), {HOOK: values}, window_first=0, n_windows=1, cursor={})
    assert (wide.read(0, HOOK, special=True) == values).all()
    narrow = make_record(shards=0, name="narrow")
    with pytest.raises(RunError, match=r"float16 cannot store.*--stored-dtype float32"):
        narrow.write(0, "s", tokens(32), {HOOK: values}, window_first=0, n_windows=1, cursor={})
    assert narrow.shards() == ()


def test_one_folder_holds_one_kind_of_activations(make_record: MakeRecord, tmp_path: Path) -> None:
    make_record(shards=1)
    files = Files.open(tmp_path / "record")
    assert DenseRecord.create(files, "", info(texts=("stdlib:train", "elsewhere"))).shards()  # spelling is no content
    with pytest.raises(InputError, match=r"other activations \(ctx_len differ\)"):
        DenseRecord.create(files, "", info(ctx_len=64))
    with pytest.raises(InputError, match=r"no recorded activations"):
        DenseRecord.open(files, "nowhere")


def test_a_damaged_or_missing_shard_is_named(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(shards=2)
    path = tmp_path / "record/shards/00000001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match=r"00000001\.parquet is damaged"):
        record.read(1, HOOK)
    path.unlink()
    with pytest.raises(DamagedFileError, match=r"00000001\.parquet is missing"):
        record.read(1, HOOK)


def test_a_manifest_row_that_describes_no_shard_is_named(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(shards=1)
    (tmp_path / "record/shards/00000000.json").write_text('{"index": 0}')
    with pytest.raises(DamagedFileError, match=r"00000000\.json does not describe a shard.*record again"):
        record.shards()


def test_only_a_record_without_a_shard_is_taken_away(make_record: MakeRecord, tmp_path: Path) -> None:
    kept, gone = make_record(shards=2), make_record(shards=0, name="gone")
    (tmp_path / "record/shards/00000000.json").unlink()  # behind a gap there may be others
    (tmp_path / "gone/mine.txt").write_text("the user's")
    for record in (kept, gone):
        with record.lock("record-1"):
            record.discard_if_empty()
    assert (tmp_path / "record/shards/00000001.json").exists()
    assert DenseRecord.open(kept.files).info == kept.info
    assert [path.name for path in (tmp_path / "gone").rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_hook_point_is_named_where_several_were_recorded() -> None:
    two = info(hooks=("resid_post.1", "path.model.layers.2#0"), widths=(16, 8))
    assert two.column("path.model.layers.2#0") == ("path_model_layers_2_0", 8)
    assert info().column(None) == (column_name(HOOK), D_IN)
    for hook in (None, "resid_post.9"):
        with pytest.raises(UnknownNameError, match=r"resid_post\.1"):
            two.column(hook)


def test_a_plain_name_is_in_the_workspace_and_anything_else_a_folder(tmp_path: Path) -> None:  # A3.01
    workspace = Files.open(tmp_path / "ws")
    assert record_place("acts-1", workspace) == (workspace, "records/acts-1")
    assert record_place("sae", workspace, kind="saes") == (workspace, "saes/sae")
    for text in ("activations.parquet", "./acts", "a/b", str(tmp_path / "x")):
        files, folder = record_place(text, workspace)
        assert (files.url, folder) == (str(Path(text).absolute().resolve()), "")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    for text, message in (("", "empty name"), (" ", "empty name"), (str(tmp_path / "table.parquet"), "is a file")):
        with pytest.raises(InputError, match=message):
            record_place(text, workspace)
