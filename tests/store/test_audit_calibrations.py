"""Calibrations on disk: found by what they are of, added to by many, never by the wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_runs import METHOD, calibration, identity
from raylens.audit.calibration import AuditIdentity, BenignScore, Calibration
from raylens.errors import BusyError, DamagedFileError
from raylens.store import audit_calibrations
from raylens.store.audit_calibrations import (
    calibration_id,
    change_calibration,
    closest_calibration,
    find_calibration,
    list_calibrations,
    save_calibration,
)
from raylens.store.files import Files
from raylens.store.lock import acquire


def test_a_calibration_is_found_by_what_it_is_of(files: Files) -> None:  # A2.18
    assert find_calibration(files, identity(k=20)) is None
    assert list_calibrations(files) == ()
    assert closest_calibration(files, identity(k=20)) is None
    stored = save_calibration(files, calibration(5, k=20))
    assert files.list("calibrations") == (f"calibrations/{calibration_id(identity(k=20))}.json",)
    assert find_calibration(files, identity(k=20)) == stored
    assert stored.values == find_calibration(files, identity(k=20.0)).values  # pyright: ignore[reportOptionalMemberAccess]
    for other in (identity(k=21), identity(), identity(k=20, skip_first=True), identity(k=True)):
        assert find_calibration(files, other) is None
    for field in ("model", "sae", "suite", "method"):
        assert find_calibration(files, identity(k=20).model_copy(update={field: "other"})) is None


def test_what_is_scored_again_counts_once(files: Files) -> None:
    save_calibration(files, calibration(5))
    more = save_calibration(files, calibration(4, first=3, shift=0.5))
    assert more.n == 7
    assert {one.organism: one.score for one in more.scores} == {
        **{f"benign-{i:03}": 0.04 + i / 1000 for i in range(3)},
        **{f"benign-{i:03}": 0.04 + i / 1000 + 0.5 for i in range(3, 7)},
    }
    before = files.read_bytes(f"calibrations/{calibration_id(identity())}.json")
    assert save_calibration(files, calibration(3)) == more
    assert files.read_bytes(f"calibrations/{calibration_id(identity())}.json") == before


def test_a_copy_is_no_second_fine_tune_and_what_ships_stays_beside(files: Files) -> None:
    shipped = calibration(4)

    def registered(name: str, score: float) -> Calibration:
        return shipped.model_copy(update={"scores": (BenignScore(organism=name, family="own", score=score),)})

    assert save_calibration(files, registered("tuned@ab12", 1.0), beside=shipped).n == 5
    again = save_calibration(files, registered("copied@ab12", 2.0), beside=calibration(9))
    assert again.n == 5, "what is stored counts, and nothing comes beside it again"
    assert [one.score for one in again.scores if one.family == "own"] == [2.0]
    assert save_calibration(files, registered("copied@cd34", 3.0)).n == 6


def test_one_is_taken_away(files: Files) -> None:
    save_calibration(files, calibration(3))
    assert change_calibration(files, identity(), lambda before: before) == find_calibration(files, identity())
    assert change_calibration(files, identity(), lambda _: None) is None
    assert (find_calibration(files, identity()), list_calibrations(files)) == (None, ())


def test_the_bytes_do_not_depend_on_the_order(local_files: Files, tmp_path: Path) -> None:
    other = Files.open(tmp_path / "other")
    save_calibration(local_files, calibration(6))
    save_calibration(other, calibration(3, first=3))
    save_calibration(other, calibration(3).model_copy(update={"scores": calibration(3).scores[::-1]}))
    path = f"calibrations/{calibration_id(identity())}.json"
    assert local_files.read_bytes(path) == other.read_bytes(path)


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([-1.0, 0.5, 2.0]), st.sampled_from("ab")
)
settings = st.dictionaries(st.sampled_from(["k", "pooling"]), values, max_size=2)


@given(one=settings, other=settings)
def test_ids_are_equal_where_a_calibration_matches(one: dict[str, Any], other: dict[str, Any]) -> None:
    ours, theirs = identity(**one), identity(**other)
    held = Calibration(identity=ours, scores=calibration(1).scores)
    assert (calibration_id(ours) == calibration_id(theirs)) == (held.matches(theirs) == [])


def test_the_closest_one_says_what_differs(local_files: Files) -> None:
    save_calibration(local_files, calibration(5, k=10, pooling="mean"))
    save_calibration(local_files, calibration(9, k=20, pooling="max"))
    wanted = identity(k=20, pooling="mean", length=5)
    close = closest_calibration(local_files, wanted)
    assert close is not None
    assert close.n == 9  # both differ in two things; the larger one says more
    assert len(close.matches(wanted)) == 2
    assert len(list_calibrations(local_files)) == 2


_ADDS = """
import sys
from raylens.audit.calibration import BenignScore, Calibration
from raylens.store.audit_calibrations import save_calibration
from raylens.store.files import Files
files = Files.open(sys.argv[1])
before = Calibration.model_validate_json(sys.argv[2])
sys.stdin.readline()
for name in sys.argv[3:]:
    score = BenignScore(organism=name, family="f", score=1.0)
    save_calibration(files, before.model_copy(update={"scores": (score,)}))
"""


def test_two_processes_that_add_at_once_lose_nothing(local_files: Files) -> None:
    command = [sys.executable, "-c", _ADDS, local_files.url, calibration(1).model_dump_json()]
    adding = [
        subprocess.Popen([*command, *names], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for names in ("abc", "def")
    ]
    for process in adding:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in adding:
        assert (process.communicate()[1], process.returncode) == ("", 0)
    found = find_calibration(local_files, identity())
    assert found is not None
    assert sorted(one.organism for one in found.scores) == list("abcdef")


def test_a_writer_that_stays_is_said(local_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_calibrations, "WAIT_S", 0.0)
    folder = f"calibrations/_locks/{calibration_id(identity())}"
    with (
        acquire(local_files, folder, "run-1", what="x"),
        pytest.raises(BusyError, match=r"calibration .* is being written by run run-1"),
    ):
        save_calibration(local_files, calibration(1))
    save_calibration(local_files, calibration(1))


def test_damage_and_a_wrong_name_are_said(local_files: Files) -> None:
    save_calibration(local_files, calibration(3))
    path = f"calibrations/{calibration_id(identity())}.json"
    other = AuditIdentity(model="other", sae=None, suite="9b2e", method=METHOD)
    local_files.commit(f"calibrations/{calibration_id(other)}.json", local_files.read_bytes(path))
    with pytest.raises(DamagedFileError, match="its name is not that of what it holds"):
        find_calibration(local_files, other)
    local_files.commit(path, b"{}")
    for read in (lambda: find_calibration(local_files, identity()), lambda: list_calibrations(local_files)):
        with pytest.raises(DamagedFileError, match="is damaged"):
            read()
    with pytest.raises(DamagedFileError):
        save_calibration(local_files, calibration(1))
