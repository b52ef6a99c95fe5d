"""Tables survive the way to disk and back; damage of any kind is an error that names the file."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylens import schema
from raylens.errors import DamagedFileError
from raylens.store.files import Files
from raylens.store.parquet import (
    ACTIVATIONS,
    DOCUMENTS,
    FEATURE_STATS,
    SHARD,
    WINDOWS,
    Layout,
    TableFile,
    layout_of,
    table_writer,
    write_table,
)

LAYOUTS = {
    "documents": DOCUMENTS,
    "windows": WINDOWS,
    "shard": SHARD,
    "activations": ACTIVATIONS,
    "feature_stats": FEATURE_STATS,
    "logits": layout_of(schema.LOGITS),
    "neighbours": layout_of(schema.NEIGHBOURS),
    "cofiring": layout_of(schema.COFIRING),
    "map": layout_of(schema.MAP),
}


def random_column(kind: pa.DataType, n: int, random: np.random.Generator) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(random_column(kind.value_type, n * kind.list_size, random), type=kind)
    if pa.types.is_list(kind):
        return pa.array([random.integers(0, 99, k).tolist() for k in random.integers(0, 5, n)], kind)
    if pa.types.is_string(kind):
        return pa.array([f"ünï {value}" for value in random.integers(0, 9, n)], kind)
    if pa.types.is_boolean(kind):
        return pa.array(random.random(n) < 0.5)
    if pa.types.is_floating(kind):
        return pa.array(
            schema.round_activation(random.normal(size=n).astype(np.float32)).astype(kind.to_pandas_dtype())
        )
    return pa.array(random.integers(-(2**15), 2**15, n), kind)


def random_table(layout: Layout, n: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table([random_column(field.type, n, random) for field in layout.table], schema=layout.table)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("n_rows", [0, 1, 300])
def test_round_trip(files: Files, name: str, n_rows: int) -> None:
    layout = LAYOUTS[name]
    table = random_table(layout, n_rows)
    size = write_table(files, "t/a.parquet", table, layout)
    assert size == files.size("t/a.parquet")
    with TableFile(files, "t/a.parquet", remedy="-") as file:
        assert file.read().cast(layout.table).equals(table)


def test_no_column_has_a_dictionary_and_seek_columns_have_bounds(local_files: Files) -> None:
    for name, layout in LAYOUTS.items():
        write_table(local_files, f"{name}.parquet", random_table(layout, 50), layout)
        group = pq.read_metadata(local_files.native(f"{name}.parquet")).row_group(0)
        for place in range(group.num_columns):
            column = group.column(place)
            assert "RLE_DICTIONARY" not in column.encodings
            assert column.compression == "ZSTD"
            assert column.is_stats_set == (column.path_in_schema in layout.seek)


def test_groups_are_written_as_given_and_empty_ones_too(files: Files) -> None:
    table = random_table(SHARD, 10)
    with table_writer(files, "a.parquet", SHARD) as writer:
        for part in (table.slice(0, 0), table.slice(0, 4), table.slice(4, 0), table.slice(4)):
            writer.group(part)
    with TableFile(files, "a.parquet", remedy="-") as file:
        assert [file.read_group(group).num_rows for group in range(file.n_groups)] == [0, 4, 0, 6]
        assert file.read([1, 3]).equals(table)
        assert file.read([3], ["position"]).column_names == ["position"]


@given(cuts=st.lists(st.integers(0, 40), max_size=6))
@settings(max_examples=20, deadline=None)
def test_appended_rows_come_out_in_groups_of_one_size(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    files = Files.open(tmp_path_factory.mktemp("append"))
    layout = Layout(schema.SHARD, group_rows=16)
    table = random_table(layout, 100)
    edges = sorted({0, *cuts, 100})
    with table_writer(files, "a.parquet", layout) as writer:
        for first, last in pairwise(edges):
            writer.append(table.slice(first, last - first))
    with TableFile(files, "a.parquet", remedy="-") as file:
        assert [file.read_group(group).num_rows for group in range(file.n_groups)] == [16] * 6 + [4]
        assert file.read().equals(table)


def test_a_failed_write_leaves_nothing(files: Files) -> None:
    def fail_after_a_group() -> None:
        with table_writer(files, "a.parquet", SHARD) as writer:
            writer.group(random_table(SHARD, 10))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_a_group()
    assert [one.path for one in files.scan()] == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = Files.open(tmp_path_factory.mktemp("sound"))
    write_table(files, "a.parquet", random_table(ACTIVATIONS, 400), ACTIVATIONS)
    return Path(files.native("a.parquet"))


def read_bytes_as_table(content: bytes, folder: Path) -> pa.Table:
    (folder / "b.parquet").write_bytes(content)
    with TableFile(Files.open(folder), "b.parquet", remedy="make it again.") as file:
        return file.read()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_a_truncated_file_is_damaged(sound: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    content = sound.read_bytes()
    folder = tmp_path_factory.mktemp("cut", numbered=True)
    with pytest.raises(DamagedFileError, match=r"b\.parquet is damaged.*make it again"):
        read_bytes_as_table(content[: int(len(content) * share)], folder)


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=150, deadline=None, derandomize=True)  # page headers have no checksum: one in 10^5 gets through
def test_a_flipped_byte_of_data_is_damage(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    content = bytearray(sound.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    at = 4 + int((len(content) - footer - 4) * place)
    content[at] ^= flip
    # Equal where it is a byte of a page header that says nothing about the values.
    with contextlib.suppress(DamagedFileError):
        table = read_bytes_as_table(bytes(content), tmp_path_factory.mktemp("flip", numbered=True))
        assert table.equals(random_table(ACTIVATIONS, 400))


def test_a_missing_file_is_named(files: Files) -> None:
    with pytest.raises(DamagedFileError, match=r"gone\.parquet is missing"):
        TableFile(files, "gone.parquet", remedy="make it again.")
