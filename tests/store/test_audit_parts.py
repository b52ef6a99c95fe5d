"""Parts of interrupted audits, and what candidates share."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit_runs import store_run
from raylens.errors import InputError
from raylens.store.audit_parts import Parts
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files
from raylens.store.housekeeping import du
from raylens.store.workspace import Workspace


def test_parts_are_kept_until_they_are_dropped(files: Files) -> None:
    store = AuditStore(files)
    with store.write_run("s", "r", "run-1") as writer:
        writer.put_part("reference/0003", b"\x00" * 100)
        writer.put_part("reference/0003", b"later")
        writer.put_part("candidate", b"")
    parts = store.parts("s", "r")  # as after a kill -9: nothing but the store knows of it
    assert parts.keys() == ("candidate", "reference/0003")
    assert (parts.get_part("reference/0003"), parts.get_part("candidate")) == (b"later", b"")
    assert parts.get_part("reference/0004") is None
    assert store.parts("s", "other").keys() == ()
    assert pickle.loads(pickle.dumps(parts)).get_part("candidate") == b""
    parts.drop_parts()
    assert parts.keys() == ()
    with pytest.raises(InputError, match="not a path"):
        parts.put_part("../../raylens.json", b"")


def test_a_finished_run_has_none(local_files: Files) -> None:
    store = AuditStore(local_files)
    with store.write_run("s", "r", "run-1") as writer:
        writer.put_part("a", b"x")
    store_run(store, "s", "r")
    assert store.parts("s", "r").keys() == ()


def test_a_damaged_part_counts_as_missing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(files, "audits/s/_work/r/parts")
    parts.put_part("a", b"features")
    stored = files.read_bytes(f"{parts.folder}/a")
    for damaged in (stored[:-1] + b"\x00", stored[:20], b"", stored + b"\x00"):
        files.commit(f"{parts.folder}/a", damaged)
        assert parts.get_part("a") is None
    assert "is damaged, and made anew" in caplog.text
    parts.put_part("a", b"features")
    assert parts.get_part("a") == b"features"


def test_candidates_at_once_share_a_reference(files: Files) -> None:
    def audit(candidate: int) -> bytes:
        shared = AuditStore(files).references("0123abcd")
        found = shared.get_part("features")
        if found is None:
            found = b"of the reference" * 1000  # every candidate would make the same
            shared.put_part("features", found)
        return found

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(audit, range(8))) == {b"of the reference" * 1000}
    assert AuditStore(files).references("0123abcd").keys() == ("features",)
    assert AuditStore(files).references("0123abce").keys() == ()
    assert AuditStore(files).sessions() == ()
    with pytest.raises(InputError):
        AuditStore(files).references("..").put_part("x", b"")


def test_their_sizes_are_listed(workspace: Workspace) -> None:
    store = AuditStore(workspace.files)
    shared = store.references("0123abcd")
    shared.put_part("features", b"x" * 1000)
    with store.write_run("s", "unfinished", "run-1") as writer:
        writer.put_part("a", b"y" * 500)
    store.create_session("s", {})
    store.log_tool_call("s", {"tool": "sql"})
    store_run(store, "s", "r")
    workspace.files.commit("audits/stray", b"somebody's")
    sizes = {one.kind: one.bytes for one in du(workspace)}
    assert sizes["audit references"] == shared.size() == 1032
    assert sizes["audit parts"] >= 532
    assert sizes["audit rows"] > 0
    assert sizes["audit calls"] > 0
    assert sizes["audits"] > sum(map(len, store.read_run("s", "r").values())) - 100
