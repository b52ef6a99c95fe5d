"""``raylens doctor``: what it finds, what it never shows, and when it fails."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.bundle import paths as bundle
from raylens.catalog import snapshot
from raylens_app.cli.doctor import show
from raylens_app.doctor import Check, machine, packages
from raylens_app.doctor.access import check_access, check_bundle, check_catalogue

Cli = Callable[..., subprocess.CompletedProcess[str]]
SECRET = "hf_very_secret_0123456789"


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_the_whole_command(cli: Cli) -> None:
    secrets = {"HF_TOKEN": SECRET, "NEURONPEDIA_API_KEY": SECRET}
    done = cli("doctor", "--json", extra=secrets)
    found = json.loads(done.stdout)
    broken = [check for check in found["checks"] if check["state"] == "broken"]
    assert done.returncode == (1 if broken else 0)
    assert found["ok"] is (not broken)
    assert SECRET not in done.stdout + done.stderr

    by_name = {check["name"]: check for check in found["checks"]}
    expected = {"Python", "raylens", "duckdb", "torch", "ray", "sae-lens", "s3fs", "tested set", "CPU cores", "memory"}
    expected |= {"GPU", "disk", "Hugging Face token", "Neuronpedia key", "telemetry", "embedded models", "catalogue"}
    assert expected <= by_name.keys()
    assert by_name["import torch"]["state"] == by_name["import ray"]["state"] == "ok"
    assert by_name["telemetry"]["detail"].startswith("off")
    for check in found["checks"]:
        assert set(check) == {"part", "name", "state", "detail", "unlocks", "command"}
        assert check["detail"]
        assert check["state"] == "ok" or check["unlocks"], check


def test_something_essential_that_is_broken_is_a_failure(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("--workspace", "file/below", "doctor")
    assert done.returncode == 1
    assert "essential and broken: disk" in done.stderr
    assert "is a file" in done.stdout


def test_the_table_names_each_remedy_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    how = "pip install 'raylens[models]'"
    show(
        [
            Check("packages", "torch", "missing", "not installed", "running models", how),
            Check("packages", "ray", "missing", "not installed", "running models", how),
            Check("machine", "CPU cores", "ok", "2"),
        ]
    )
    shown = capsys.readouterr().out
    assert shown.count(how) == 1
    assert "torch, ray" in shown


@pytest.mark.parametrize("variable", ["HF_TOKEN", "RAYLENS_SAE_MODEL_KEY"])
def test_a_token_is_present_and_never_shown(variable: str, tmp_path: Path) -> None:  # A0.21
    home = {"HF_HOME": str(tmp_path)}
    assert states(check_access(home))["Hugging Face token"] == "missing"
    checks = check_access(home | {variable: SECRET})
    assert states(checks)["Hugging Face token"] == "ok"
    assert SECRET not in json.dumps([check.row() for check in checks])


def test_a_token_file_counts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    checks = check_access({"HF_HOME": str(tmp_path)})
    assert states(checks)["Hugging Face token"] == "ok"
    assert SECRET not in json.dumps([check.row() for check in checks])
    (tmp_path / "token").write_text("")
    assert states(check_access({"HF_HOME": str(tmp_path)}))["Hugging Face token"] == "missing"


def test_telemetry_that_somebody_asked_for_is_told() -> None:  # A0.22
    assert states(check_access({}))["telemetry"] == "ok"
    assert states(check_access({"RAY_USAGE_STATS_ENABLED": "1"}))["telemetry"] == "warning"


def test_an_offline_hub_is_told() -> None:
    assert states(check_access({"HF_HUB_OFFLINE": "1"}))["hub"] == "warning"
    assert "hub" not in states(check_access({}))


def test_embedded_files_are_compared_with_what_was_shipped(tmp_path: Path) -> None:
    folder = tmp_path / "pico"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert check_bundle(tmp_path).state == "broken", "no list of hashes"
    bundle.write_hashes(tmp_path)
    assert check_bundle(tmp_path).state == "ok"
    (folder / "config.json").write_text("{} ")
    check = check_bundle(tmp_path)
    assert (check.state, check.detail) == ("broken", "missing or changed: pico/config.json")


def test_the_catalogue_is_of_the_installed_sae_lens(tmp_path: Path) -> None:
    assert check_catalogue().state == "ok"
    other = tmp_path / "s.gz"
    other.write_bytes(snapshot.encode({"format": snapshot.FORMAT, "sae_lens": "0.0.1", "releases": {}}))
    check = check_catalogue(other)
    assert (check.state, check.command) == ("warning", "raylens catalog refresh")
    other.write_bytes(b"junk")
    assert check_catalogue(other).state == "broken"


def test_packages_are_told_from_their_metadata() -> None:
    checks = packages.check_packages()
    declared = {r.name for r in packages.declared()}
    assert {"duckdb", "torch", "ray", "s3fs", "fastapi"} <= declared
    assert states(checks)["duckdb"] == "ok"
    assert "starlette" not in states(checks), "what is only brought along is named where it is missing"
    assert len({check.name for check in checks}) == len(checks)


def test_a_missing_package_says_what_it_unlocks() -> None:
    def without(name: str) -> str | None:
        return None if name in ("torch", "duckdb", "fastapi") else "9999.0"

    by_name = {check.name: check for check in packages.check_packages(without)}
    assert by_name["torch"].state == "missing"
    assert by_name["torch"].command == "pip install 'raylens[models]'"
    assert "cache" in by_name["torch"].unlocks
    assert (by_name["fastapi"].state, by_name["fastapi"].command) == ("missing", "pip install 'raylens[serve]'")
    assert by_name["duckdb"].state == "broken", "browsing needs it"


def test_an_old_package_is_told() -> None:
    checks = packages.check_packages(lambda name: "0.0.1" if name == "torch" else "9999.0")
    (old,) = [check for check in checks if check.state != "ok"]
    assert (old.name, old.state) == ("torch", "warning")
    assert "0.0.1 is older than 2.9" in old.detail


def test_the_tested_set(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    here = packages.installed("duckdb")
    pins.write_text(f"# pinned\nduckdb=={here}\n")
    assert packages.check_tested_set(pins).detail == "1 packages as pinned"
    pins.write_text("duckdb==0.1\n")
    check = packages.check_tested_set(pins)
    assert (check.state, check.detail) == ("warning", f"duckdb {here} (tested 0.1)")
    assert packages.check_tested_set(tmp_path / "none.txt").state == "ok"


def test_an_installation_that_does_not_load_is_told() -> None:
    imports = packages.Imports({"numpy": "import json; print(json.dumps(['x']))", "duckdb": "raise ValueError('no')"})
    assert imports.result("numpy") == ["x"]
    assert imports.result("duckdb") == "ValueError: no"
    assert imports.result("nothing-of-this-name") is None
    broken = packages.check_import("duckdb", "ValueError: no")
    assert broken is not None
    assert broken.state == "warning"


def cgroups(root: Path, version: int, group: str) -> Path:
    """A process's control groups below ``root``; returns the folder of its own group."""
    controllers = "" if version == 2 else "cpu,memory"
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{0 if version == 2 else 4}:{controllers}:{group}\n")
    return root / "sys/fs/cgroup"


def test_limits_of_control_groups_version_2(tmp_path: Path) -> None:
    mount = cgroups(tmp_path, 2, "/pod/box")
    own = mount / "pod/box"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own / "memory.max").write_text("max\n")
    assert machine.cores(tmp_path) == len(os.sched_getaffinity(0))
    (own.parent / "cpu.max").write_text("50000 100000\n")
    (mount / "memory.max").write_text("1048576\n")
    (own / "memory.max").write_text("2097152\n")
    assert machine.cores(tmp_path) == 0.5, "a group above limits too"
    assert machine.memory(tmp_path) == 1048576


def test_limits_of_control_groups_version_1(tmp_path: Path) -> None:
    mount = cgroups(tmp_path, 1, "/docker/abc")
    for controller in ("cpu", "memory"):
        (mount / controller / "docker/abc").mkdir(parents=True)
    (mount / "cpu/docker/abc/cpu.cfs_quota_us").write_text("25000\n")
    (mount / "cpu/docker/abc/cpu.cfs_period_us").write_text("100000\n")
    (mount / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (mount / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (mount / "memory/docker/abc/memory.limit_in_bytes").write_text(f"{9223372036854771712}\n")
    (mount / "memory/memory.limit_in_bytes").write_text("3145728\n")
    assert machine.cores(tmp_path) == 0.25
    assert machine.memory(tmp_path) == 3145728


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=4))
def test_the_tightest_quota_counts(tmp_path_factory: pytest.TempPathFactory, quotas: list[tuple[int, int]]) -> None:
    root = tmp_path_factory.mktemp("cgroups")
    group = "/" + "/".join(f"g{i}" for i in range(len(quotas)))
    folder = cgroups(root, 2, group)
    folder.mkdir(parents=True)
    for i, (quota, period) in enumerate(quotas):
        folder = folder / f"g{i}"
        folder.mkdir()
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    everywhere = [len(os.sched_getaffinity(0)), *(quota / period for quota, period in quotas)]
    assert machine.cores(root) == min(everywhere)


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert machine.cores(tmp_path) == len(os.sched_getaffinity(0))
    assert machine.memory(tmp_path) > 1 << 28


def test_room_where_the_workspace_will_be(tmp_path: Path) -> None:
    assert machine.check_disk(str(tmp_path / "not/yet")).state in ("ok", "warning")
    assert str(tmp_path) in machine.check_disk(str(tmp_path / "not/yet")).detail
    assert machine.check_disk("s3://bucket/prefix").state == "ok"
    (tmp_path / "file").write_text("")
    assert machine.check_disk(str(tmp_path / "file/below")).state == "broken"


@pytest.mark.parametrize(
    ("smi", "devices", "state"),
    [("", [], "missing"), ("", None, "missing"), ("H200, 141 GiB", [], "warning"), ("H200, 141 GiB", None, "warning")],
)
def test_a_gpu_that_torch_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smi: str, devices: list[str] | None, state: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ -n '{smi}' ] && echo '{smi}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    check = machine.check_gpus(devices)
    assert check.state == state
    assert check.unlocks
    assert (smi in check.detail) or not smi
    assert machine.check_gpus(["NVIDIA H200"]).state == "ok"
