"""The one door: whole files or none, inside the workspace or nowhere, the same on disk and in an object store."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import DamagedFileError, InputError, WorkspaceError
from raylens.store.files import Files, checked

_each_example_alike = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def everything(files: Files) -> list[str]:
    return sorted(one.path for one in files.scan())


@_each_example_alike
@given(first=st.binary(max_size=2000), second=st.binary(max_size=2000))
def test_what_is_committed_is_read(files: Files, first: bytes, second: bytes) -> None:
    files.commit("a/b/c.bin", first)
    assert files.read_bytes("a/b/c.bin") == first
    files.commit("a/b/c.bin", second)
    assert files.read_bytes("a/b/c.bin") == second
    assert files.size("a/b/c.bin") == len(second)
    assert everything(files) == ["a/b/c.bin"]


def test_a_local_file_is_consumed_by_its_commit(files: Files, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.bin"
    source.write_bytes(b"x" * 100_000)
    files.commit("big.bin", source)
    assert files.read_bytes("big.bin") == b"x" * 100_000
    assert not source.exists()


def test_listing_is_sorted_and_knows_files_from_folders(files: Files) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.txt", "other/e.txt"):
        files.commit(name, name.encode())
    assert files.list() == ("a.txt", "b.txt")
    assert files.list("sub") == ("sub/c.txt",)
    assert files.folders() == ("other", "sub")
    assert files.folders("sub") == ("deep",)
    assert everything(files) == ["a.txt", "b.txt", "other/e.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert [one.path for one in files.scan(recursive=False)] == ["a.txt", "b.txt"]
    assert files.exists("sub/c.txt")
    assert not files.exists("sub")
    files.delete("sub", recursive=True)
    files.delete("a.txt")
    assert everything(files) == ["b.txt", "other/e.txt"]


def test_what_is_missing_is_said_to_be(files: Files) -> None:
    assert not files.exists("no.json")
    assert files.list("no") == ()
    assert files.folders("no") == ()
    assert list(files.scan("no")) == []
    files.delete("no.json")
    files.delete("no", recursive=True)
    for look in (files.read_bytes, files.read_json, files.size, files.stat):
        with pytest.raises(FileNotFoundError):
            look("no.json")


def test_time_of_a_file_is_the_stores_own(files: Files) -> None:
    files.commit("first.txt", b"1")
    files.commit("second.txt", b"2")
    first, second = files.stat("first.txt"), files.stat("second.txt")
    assert 0 < first.modified <= second.modified
    assert not first.temporary


def test_json_that_is_none_is_named(files: Files) -> None:
    files.commit_json("good.json", {"a": [1, "é"]})
    assert files.read_json("good.json") == {"a": [1, "é"]}
    for damaged in (b'{"a": 1', b"[1]", b"\xff\xfe"):
        files.commit("bad.json", damaged)
        with pytest.raises(DamagedFileError, match=r"bad\.json"):
            files.read_json("bad.json")


# ------------------------------------------------------------------------------------------- staged


def test_staged_file_appears_when_the_block_ends(files: Files) -> None:
    with files.staged("tables/t.parquet") as path:
        pq.write_table(pa.table({"a": [1, 2, 3]}), path)
        assert not files.exists("tables/t.parquet")
        assert files.list("tables") == ()
    assert pq.ParquetFile(files.open_input("tables/t.parquet")).read().column("a").to_pylist() == [1, 2, 3]
    assert not path.exists()
    assert everything(files) == ["tables/t.parquet"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_staged_file_of_a_failed_block_is_gone(files: Files, error: type[BaseException]) -> None:
    files.commit("t.bin", b"before")
    paths: list[Path] = []

    def fail() -> None:
        with files.staged("t.bin") as path:
            paths.append(path)
            path.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert not paths[0].exists()
    assert files.read_bytes("t.bin") == b"before"
    assert everything(files) == ["t.bin"]


def test_unfinished_files_are_hidden_from_lists_and_shown_to_housekeeping(local_files: Files) -> None:
    with local_files.staged("a/t.bin") as path:
        path.write_bytes(b"half")
        assert local_files.list("a") == ()
        found = list(local_files.scan())
        assert [(one.temporary, one.size) for one in found] == [(True, 4)]
        local_files.discard(found[0].path)
        assert list(local_files.scan()) == []
        path.write_bytes(b"whole")
    assert local_files.read_bytes("a/t.bin") == b"whole"


# -------------------------------------------------------------------------------- atomic and exclusive


def test_a_reader_never_sees_part_of_a_file(files: Files) -> None:
    versions = [bytes([65 + one]) * 50_000 for one in range(10)]
    files.commit("v.bin", versions[0])
    done = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not done.is_set():
            seen.add(files.read_bytes("v.bin"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in versions:
            files.commit("v.bin", version)
        done.set()
        seen = set().union(*(reader.result() for reader in readers))
    assert seen <= set(versions)


def test_of_all_who_create_a_file_one_wins(files: Files) -> None:
    for turn in range(3):
        barrier = threading.Barrier(6)

        def create(who: int, turn: int = turn, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return files.commit_if_absent(f"claims/{turn}", f"{who}".encode())

        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(create, range(6)))
        assert won.count(True) == 1
        assert files.read_bytes(f"claims/{turn}") == f"{won.index(True)}".encode()
    assert not files.commit_if_absent("claims/0", b"late")
    assert everything(files) == [f"claims/{turn}" for turn in range(3)]


def test_creation_is_exclusive_without_hard_links(local_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda who: local_files.commit_if_absent("claim", f"{who}".encode()), range(6)))
    assert won.count(True) == 1
    assert local_files.read_bytes("claim") == f"{won.index(True)}".encode()
    assert everything(local_files) == ["claim"]


_WRITER = """
import sys
from raylens.store.files import Files
files = Files.open(sys.argv[1])
version = 0
while True:
    version += 1
    files.commit("v.bin", version.to_bytes(8, "big") * 40_000)
    if version == 5:
        print("writing", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(local_files: Files) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, local_files.url], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    data = local_files.read_bytes("v.bin")
    assert int.from_bytes(data[:8], "big") >= 5
    assert data == data[:8] * 40_000
    assert local_files.list() == ("v.bin",)
    assert all(one.temporary for one in local_files.scan() if one.path != "v.bin")


# ------------------------------------------------------------------------------------ inside the root

_OUTSIDE = ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", ".", "./a", ".hidden", "a/.b", "a\\b", "a*", "a?"]


@pytest.mark.parametrize("path", [*_OUTSIDE, "a[0]", "a\n", "a\0", "~/x", "s3://b/x", "x" * 201])
def test_paths_that_lead_outside_are_refused(files: Files, path: str) -> None:
    for use in (files.read_bytes, files.exists, files.list, files.delete, files.native, files.open_input, files.staged):
        with pytest.raises(InputError, match="not a path inside a workspace"):
            use(path)
    with pytest.raises(InputError):
        files.commit(path, b"")
    with pytest.raises(InputError):
        files.commit_if_absent(path, b"")


@given(st.text(alphabet=st.sampled_from("ab./\\~*[\0é -"), max_size=12))
def test_a_path_is_refused_or_stays_inside(path: str) -> None:
    try:
        checked(path)
    except InputError:
        return
    inside = Path(os.path.normpath(Path("/root/of/workspace") / path))
    assert inside.is_relative_to("/root/of/workspace")
    assert str(inside) == f"/root/of/workspace/{path}"


def test_links_out_of_the_workspace_are_refused(local_files: Files, tmp_path: Path) -> None:
    local_files.commit("a/kept.txt", b"kept")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    root = Path(local_files.url)
    (root / "folder").symlink_to(outside)
    (root / "a" / "file.txt").symlink_to(outside / "precious.txt")
    for use in (local_files.read_bytes, local_files.delete, local_files.open_input, local_files.native):
        for path in ("folder/precious.txt", "a/file.txt"):
            with pytest.raises(WorkspaceError, match="leads outside the workspace"):
                use(path)
    with pytest.raises(WorkspaceError):
        local_files.commit("folder/new.txt", b"")
    with pytest.raises(WorkspaceError):
        local_files.delete("folder", recursive=True)
    local_files.delete("a", recursive=True)
    assert sorted(one.name for one in outside.iterdir()) == ["precious.txt"]
    assert (outside / "precious.txt").read_text() == "precious"
    assert local_files.folders() == ()


def test_a_linked_workspace_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "other-disk").mkdir()
    (tmp_path / "workspace").symlink_to(tmp_path / "other-disk")
    files = Files.open(tmp_path / "workspace")
    files.commit("a.txt", b"1")
    assert (tmp_path / "other-disk" / "a.txt").read_bytes() == b"1"


# ------------------------------------------------------------------------------ addresses and readers


def test_one_row_group_costs_its_own_bytes(s3_url: str, s3_wire: Any) -> None:
    files = Files.open(s3_url)
    table = pa.table({"a": pa.array(range(400_000), pa.int64())})
    with files.staged("t.parquet") as path:
        pq.write_table(table, path, row_group_size=10_000, use_dictionary=False, compression="none")
    before = s3_wire.sent
    part = pq.ParquetFile(files.open_input("t.parquet")).read_row_group(7)
    assert part.column("a")[0].as_py() == 70_000
    sent = s3_wire.sent - before
    assert sent < files.size("t.parquet") / 8


def test_duckdb_reads_native_addresses(files: Files) -> None:
    with files.staged("t.parquet") as path:
        pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    with duckdb.connect() as connection:
        if not files.local:
            connection.register_filesystem(files.fs)
        rows = connection.execute("SELECT sum(a) FROM read_parquet([?])", [files.native("t.parquet")]).fetchall()
    assert rows == [(6,)]


def test_pickles_carry_the_address_and_no_credentials(files: Files) -> None:
    files.commit("a.txt", b"1")
    data = pickle.dumps(files)
    assert b"test-secret" not in data
    again = pickle.loads(data)
    assert again.url == files.url
    assert again.read_bytes("a.txt") == b"1"


def test_relative_and_file_addresses_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Files.open("data").url == Files.open(f"file://{tmp_path}/data/").url == str(tmp_path / "data")


def test_folders_that_duckdb_would_expand_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="DuckDB would expand"):
        Files.open(tmp_path / "run[1]")
