"""Stores that are missing, refuse, do not answer or are full: each is one sentence, and nothing is left."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest

from raylens.errors import RunError, WorkspaceError
from raylens.store.disk import as_disk_full
from raylens.store.files import Files


@pytest.mark.parametrize("url", ["s3://", "s3:///", "nonsense://x/y"])
def test_addresses_that_name_no_store_are_refused(s3_wire: Any, url: str) -> None:
    with pytest.raises(WorkspaceError):
        Files.open(url)


def test_a_missing_bucket_is_named(s3_wire: Any) -> None:
    with pytest.raises(WorkspaceError, match="bucket of s3://no-such-bucket/x does not exist"):
        Files.open("s3://no-such-bucket/x").commit("a", b"")


def test_no_permission_in_a_bucket_is_named(s3_url: str, s3_wire: Any) -> None:
    files = Files.open(s3_url)
    for method, use in (("PUT", lambda: files.commit("a", b"")), ("GET", lambda: files.read_bytes("a"))):
        s3_wire.refuse = (method, "403 Forbidden", "AccessDenied")
        with pytest.raises(WorkspaceError, match=f"{s3_url}/a cannot be used: AccessDenied"):
            use()
    s3_wire.refuse = ("PUT", "400 Bad Request", "EntityTooLarge")
    with pytest.raises(RunError, match=f"refused {s3_url}/a"):
        files.commit("a", b"")


def test_a_conflict_between_creators_is_tried_again(s3_url: str, s3_wire: Any) -> None:
    files = Files.open(s3_url)
    s3_wire.refuse = ("PUT", "409 Conflict", "ConditionalRequestConflict")
    assert files.commit_if_absent("a", b"1")
    assert s3_wire.refuse is None
    s3_wire.refuse = ("PUT", "412 Precondition Failed", "PreconditionFailed")  # without S3's <Condition>, as others do
    assert not files.commit_if_absent("b", b"1")


def test_missing_credentials_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        files = Files.open(s3_url)
        monkeypatch.setattr(files.fs, "retries", 1)
        with pytest.raises(WorkspaceError, match="credentials") as caught:
            files.commit("a", b"")
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_store_that_does_not_answer_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        try:
            files = Files.open(s3_url)
            monkeypatch.setattr(files.fs, "retries", 1)
            with pytest.raises(RunError, match="does not answer") as caught:
                files.commit("a", b"")
            assert "AWS_ENDPOINT_URL" in caught.value.hint
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()


# ---------------------------------------------------------------------------------------- full disk


def test_a_full_disk_is_said_and_nothing_is_left(on_small_disk: Callable[..., str]) -> None:
    printed = on_small_disk(
        """
        import pyarrow as pa, pyarrow.parquet as pq, numpy as np, duckdb
        from raylens.errors import DiskFullError
        from raylens.store.files import Files

        files = Files.open(DISK)
        files.commit("kept.bin", b"kept")

        def by_arrow():
            with files.staged("a/t.parquet") as path:
                values = np.random.default_rng(0).random(400_000)
                pq.write_table(pa.table({"a": values}), path, use_dictionary=False)

        def by_duckdb():
            with files.staged("b/t.parquet") as path, duckdb.connect() as connection:
                connection.execute(f"COPY (SELECT random() AS a FROM range(400000)) TO '{path}' (FORMAT parquet)")

        def by_copy():
            source = DISK.parent / "source.bin"
            source.write_bytes(bytes(5_000_000))
            files.commit("d/copy.bin", source)

        tries = [
            lambda: files.commit("kept.bin", bytes(5_000_000)),
            lambda: files.commit_if_absent("c/new.bin", bytes(5_000_000)),
            by_arrow, by_duckdb, by_copy,
        ]
        for attempt in tries:
            try:
                attempt()
            except DiskFullError as error:
                assert str(DISK) in error.message and "MB free of 2.1 MB" in error.message, error.message
                assert "raylens gc" in error.hint
                print("full")
            left = [(one.path, one.size) for one in files.scan()]
            assert left == [("kept.bin", 4)], left
        files.commit("kept.bin", b"still writable")
        """
    )
    assert printed.split() == ["full"] * 5


def test_a_read_only_disk_is_said(on_small_disk: Callable[..., str]) -> None:
    printed = on_small_disk(
        """
        import subprocess
        from raylens.errors import WorkspaceError
        from raylens.store.files import Files

        files = Files.open(DISK)
        files.commit("a.txt", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(DISK)], check=True)
        for write in (lambda: files.commit("a.txt", b"2"), lambda: files.delete("a.txt")):
            try:
                write()
            except WorkspaceError as error:
                print(error.message)
        assert files.read_bytes("a.txt") == b"1"
        """
    )
    assert printed.count("Read-only file system") == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_and_quotas_are_told_from_other_errors(tmp_path: Path, number: int) -> None:
    missing = tmp_path / "not" / "there"
    assert as_disk_full(OSError(number, os.strerror(number)), missing) is not None
    assert as_disk_full(duckdb.IOException(f'Could not write file "x": {os.strerror(number)}'), missing) is not None
    assert as_disk_full(OSError(errno.EIO, "Input/output error"), missing) is None
