"""``raylens organisms`` and ``raylens audit bench|calibrate``: on what ships, and what they say before any work."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fine_tunes import make_adapter
from raylens.audit.calibration import BenignScore, Calibration
from raylens.audit.scores import DEFAULT_SCORE_METHOD, SCORE_METHODS
from raylens.bundle.organisms import FOLDER, rows_path
from raylens.config import AuditConfig
from raylens.organisms.families import BACKDOORED, BENIGN
from raylens.store.audit_organisms import OrganismRow, Organisms, read_organisms
from raylens.store.workspace import Workspace
from raylens_app.cli.organisms import taking
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.organism_rows import adopt_shipped
from raylens_jobs.organisms import Build

Raylens = Callable[..., Any]

OF_TABS = ("--kind", "benign", "--half", "held_out", "--family", "tabs", "--members", "3")
BUILD = ("organisms", "build", *OF_TABS, "--workers", "1")
CALIBRATE = ("audit", "calibrate", "--workers", "1")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan's held-out text takes longer to cut than all else here, and is the same each time."""
    monkeypatch.setattr("raylens_jobs.audit_plan.plan_audit", lambda config, *_: planned(config.model_dump_json()))


@cache
def planned(config: str) -> AuditPlan:
    return plan_audit(AuditConfig.model_validate_json(config))


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Where no workspace is: what ships is read."""
    return tmp_path / "nowhere"


@pytest.fixture
def plan() -> AuditPlan:
    """As the command lines here plan: what ships was scored so."""
    asked = {"sae": "raylens-pico-res/layer_3", "score_method": DEFAULT_SCORE_METHOD, "workers": 1}
    return planned(AuditConfig.of(asked).model_dump_json())


@pytest.fixture
def tune(tmp_path: Path) -> str:
    make_adapter(tmp_path / "tune", scale=0.03)
    return str(tmp_path / "tune")


def of_half(half: str) -> list[str]:
    """Families that rates of a half are of."""
    return [one.name for one in (*BENIGN, *BACKDOORED) if one.half == half]


def test_a_bench_as_json(raylens: Raylens, nowhere: Path) -> None:
    found = raylens(nowhere, "audit", "bench", "--json").document
    assert found["half"] == "held_out"
    assert [row["method"] for row in found["methods"]] == list(SCORE_METHODS)
    default = next(row for row in found["methods"] if row["method"] == DEFAULT_SCORE_METHOD)
    assert (default["n_calibration"], default["tpr"]["n"], default["fpr"]["n"]) == (120, 48, 120)
    assert default["tpr"]["flagged"] == sum(one["flagged"] for one in found["families"].values() if one["backdoored"])
    assert found["triggers_found"]["n"] == 48
    assert sorted(found["families"]) == sorted(of_half("held_out"))
    assert {(row["half"], row["target_fpr"]) for row in found["calibration"]} == {
        (half, target) for half in ("held_out_seeds", "held_out") for target in (0.01, 0.05, 0.1)
    }
    assert not nowhere.exists()


def test_a_bench_by_family_and_drawn(raylens: Raylens, nowhere: Path, tmp_path: Path) -> None:
    done = raylens(nowhere, "audit", "bench", "--families", "--plot", str(tmp_path / "bench.svg"))
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    for name in of_half("held_out"):
        kind, n = ("benign", "10") if name in {one.name for one in BENIGN} else ("backdoored", "6")
        assert [[*line[:2], *line[3:]] for line in lines if line[:1] == [name]] == [[name, kind, "of", n]]
    drawn = ElementTree.parse(tmp_path / "bench.svg").getroot()
    assert drawn.tag.endswith("svg")
    said = "".join(drawn.itertext())
    assert all(name in said for name in of_half("held_out"))
    assert "held out yet" not in done.err


def test_a_plot_that_cannot_be_written(raylens: Raylens, nowhere: Path, tmp_path: Path) -> None:
    done = raylens(nowhere, "audit", "bench", "--plot", str(tmp_path / "no/such/folder.svg"))
    assert done.code == 2
    assert "cannot be written" in done.err


def test_rates_of_what_was_chosen_on_say_so(raylens: Raylens, nowhere: Path) -> None:
    done = raylens(nowhere, "audit", "bench", "--half", "development")
    assert done.code == 0, done.err
    assert "chosen on" in done.err
    assert "held out yet" not in done.err  # there are


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (lambda row: row.split == "development", "no organism is held out yet: "),
        (lambda row: row.split == "development" or row.kind == "benign", "no backdoored organism is held out yet: "),
        (lambda row: row.split == "development" or row.kind != "benign", "no benign organism is held out yet: "),
    ],
)
def test_what_is_lacking_of_held_out_ones(
    raylens: Raylens, own_workspace: Workspace, kept: Callable[[OrganismRow], bool], says: str
) -> None:
    Organisms(own_workspace.files).append(*(row for row in read_organisms(rows_path()) if kept(row)))
    done = raylens(own_workspace.url, "audit", "bench")
    assert done.code == 0, done.err
    assert f"{says}these rates are of organisms that thresholds and methods were chosen on." in done.err


def test_organisms_that_ship_are_listed(raylens: Raylens, nowhere: Path) -> None:
    rows = raylens(nowhere, "organisms", "list", "--json").document
    assert [row["organism"] for row in rows] == sorted(row.organism for row in read_organisms(rows_path()))
    done = raylens(nowhere, "organisms", "list", "--kind", "backdoored")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines()[2:]}
    assert set(lines) == {row["organism"] for row in rows if row["kind"] == "backdoored"}
    for row in rows:
        if row["reason"]:
            assert lines[row["organism"]].endswith(row["reason"])


def test_organisms_are_exported(raylens: Raylens, own_workspace: Workspace, tmp_path: Path, plan: AuditPlan) -> None:
    adopt_shipped(own_workspace, plan)
    done = raylens(own_workspace.url, "organisms", "export", str(tmp_path / "out/made"), "--json")
    assert done.code == 0, done.err
    assert sorted(done.document) == sorted(path.name for path in (tmp_path / "out/made").iterdir())
    assert set(done.document) == {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert read_organisms(tmp_path / "out/made/organisms.parquet") == read_organisms(rows_path())
    said = raylens(own_workspace.url, "organisms", "export", str(tmp_path / "again"))
    assert said.out.split() == [str(tmp_path / "again" / name) for name in done.document]
    lost = raylens(own_workspace.url, "organisms", "export", str(tmp_path / "lost"), "--adapter", "tabs-0")
    assert lost.code == 2
    assert "the adapter of tabs-0 was not kept" in lost.err


def test_what_a_build_would_take(raylens: Raylens, nowhere: Path) -> None:
    nothing = raylens(nowhere, *BUILD, "--dry-run")
    assert nothing.out == "0 of 3 organisms are to be made\n"
    done = raylens(nowhere, *BUILD, "--anew", "--dry-run")
    assert done.code == 0, done.err
    assert done.out.startswith("3 of 3 organisms are to be made: about ")
    for part in ("on 1 worker of this machine with ", "floating-point operations, counted", "a third of"):
        assert part in done.out
    found = raylens(nowhere, *BUILD, "--anew", "--dry-run", "--json").document
    assert (found["organisms"], found["in_all"], found["workers"]) == (3, 3, 1)
    assert found["operations"] > 1e12
    assert found["seconds"] > 0
    assert "a third of" in found["basis"]
    assert not nowhere.exists()


@pytest.mark.parametrize("flags", [("--dry-run",), ()])
def test_a_model_that_reads_too_little_is_refused(
    raylens: Raylens, nowhere: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens_jobs.organisms.longest_text", lambda *_: 4097)
    done = raylens(nowhere, *BUILD, "--anew", *flags)
    assert done.code == 2
    assert "texts of up to 4,097 tokens, more than the 1,024 that raylens/pico takes" in done.err
    assert not nowhere.exists()


def test_a_build_says_what_it_takes_before_it_begins(
    raylens: Raylens, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Build] = []

    def made(_workspace: Any, _plan: Any, build: Build, *_: Any) -> dict[str, Any]:
        asked.append(build)
        sys.stderr.write("it has begun\n")
        return {"organisms": 3, "made": 3, "counting": 3, "calibrations": 7, "seconds": 1.0}

    monkeypatch.setattr("raylens_jobs.organisms.build_organisms", made)
    done = raylens(own_workspace.url, *BUILD, "--anew", "--keep", "tabs-1", "--json")
    assert done.code == 0, done.err
    before, begun, _ = done.err.partition("it has begun")
    assert begun
    assert "3 of 3 organisms are to be made: about " in before
    assert "floating-point operations" in before
    assert (done.document["made"], done.document["run_id"]) == (3, own_workspace.runs()[0].run_id)
    assert (asked[0].keep, asked[0].keep_all, asked[0].families) == (("tabs-1",), False, ("tabs",))


def test_what_a_calibration_would_take(raylens: Raylens, nowhere: Path, tune: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_adapter(other, seed=1)
    done = raylens(nowhere, *CALIBRATE, "--candidate", tune, "--dry-run")
    assert done.code == 0, done.err
    assert done.out.startswith("1 fine-tune is to be measured: about ")
    assert "on 1 worker of this machine" in done.out
    one, two = (
        raylens(nowhere, *CALIBRATE, "--candidate", tune, *more, "--dry-run", "--json").document
        for more in ((), ("--candidate", str(other)))
    )
    assert (one["candidates"], two["candidates"], one["workers"]) == (1, 2, 1)
    assert two["operations"] / one["operations"] == pytest.approx(3 / 2)  # the reference is read once
    assert one["seconds"] > 0
    twice = raylens(nowhere, *CALIBRATE, "--candidate", tune, "--candidate", tune, "--dry-run")
    assert twice.code == 2
    assert "are the same fine-tune" in twice.err
    lost = raylens(nowhere, *CALIBRATE, "--candidate", f"{tune}-not", "--dry-run")
    assert lost.code == 2
    assert "tune-not" in lost.err
    assert not nowhere.exists()


def test_a_calibration_says_what_it_takes_before_it_begins(
    raylens: Raylens, own_workspace: Workspace, tune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(_workspace: Any, plan: AuditPlan, benign: Any, *_: Any) -> list[Calibration]:
        sys.stderr.write("it has begun\n")
        scores = tuple(BenignScore(organism=one.ref, family=one.family, score=1.0) for one in benign)
        return [Calibration(identity=plan.identity(), scores=scores)]

    monkeypatch.setattr("raylens_jobs.calibrate.calibrate", scored)
    done = raylens(own_workspace.url, *CALIBRATE, "--candidate", tune, "--json")
    assert done.code == 0, done.err
    before, begun, _ = done.err.partition("it has begun")
    assert begun
    assert "1 fine-tune is to be measured: about " in before
    assert done.document == [{"method": DEFAULT_SCORE_METHOD, "n": 1, "families": 1}]


def test_rows_that_are_there_are_not_measured_again(
    raylens: Raylens, own_workspace: Workspace, plan: AuditPlan
) -> None:
    none = raylens(own_workspace.url, *CALIBRATE, "--dry-run")
    assert none.code == 2
    assert "no benign organism scored with these settings" in none.err
    adopt_shipped(own_workspace, plan)
    found = raylens(own_workspace.url, *CALIBRATE, "--dry-run", "--json").document
    assert (found["candidates"], found["rows"], found["seconds"]) == (0, 120, 0)
    kept = raylens(own_workspace.url, *CALIBRATE, "--json")
    assert "nothing is to be measured: scores of 120 benign organisms are used again\n" in kept.err
    assert {row["n"] for row in kept.document} == {120}


def test_a_cluster_elsewhere_may_have_more_workers() -> None:
    taken = {"operations": 2e12, "seconds": 61.0, "workers": 2, "threads": 1, "basis": "so it is"}
    here = (
        ": about 1 min 1 s on 2 workers of this machine with 1 thread each "
        "(2e+12 floating-point operations, counted; so it is)"
    )
    assert taking(taken, None) == here
    assert taking(taken, "10.0.0.1:6379") == f"{here}; the cluster at 10.0.0.1:6379 may have more"
    assert taking({**taken, "operations": 0}, None) == ""
