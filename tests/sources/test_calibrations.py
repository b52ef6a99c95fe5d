"""Calibrations out of a file: what is read, what fits, and what is said where nothing does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit_runs import calibration, identity
from raylens.errors import InputError
from raylens.sources.calibrations import load_calibrations


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    return tmp_path


def write(base: Path, text: str, name: str = "scores.json") -> str:
    (base / name).write_text(text)
    return name


def test_one_or_a_list_is_read_and_the_one_that_fits_is_found(base: Path) -> None:
    ours, other = calibration(7, k=20), calibration(9, k=10)
    one = load_calibrations(write(base, ours.model_dump_json()))
    assert one.calibrations == (ours,)
    assert one.path == base.resolve() / "scores.json"
    both = load_calibrations(write(base, json.dumps([each.model_dump(mode="json") for each in (other, ours)])))
    assert both.of(identity(k=20)) == both.require(identity(k=20)) == ours
    assert both.of(identity(k=30)) is None


def test_what_differs_is_named(base: Path) -> None:
    found = load_calibrations(write(base, calibration(7, k=20).model_dump_json()))
    with pytest.raises(
        InputError, match=r"scores\.json is of something else: settings\.k \(calibrated: 20; this audit: 5"
    ):
        found.require(identity(k=5))
    other = identity(k=20).model_copy(update={"method": "logit_kl"})
    with pytest.raises(InputError, match="has no scores of logit_kl, but of abs_diff_topk"):
        found.require(other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("\ufffe", "is not JSON"),
        ("[]", "is empty"),
        ("3", "is none: it"),
        ("{}", "is none: identity"),
        ('{"identity": {"model": "m", "sae": null, "suite": "s", "method": "x"}, "scores": []}', "is none: scores"),
        (
            '{"identity": {"model": "m", "sae": null, "suite": "s", "method": "x"}, '
            '"scores": [{"organism": "a", "family": "f", "score": NaN}]}',
            r"is none: scores\.0\.score",
        ),
    ],
)
def test_what_is_none_is_said(base: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_calibrations(write(base, text))
    assert "raylens organisms export" in caught.value.hint


def test_it_lies_inside_the_base_directory(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:  # A2.16
    outside = tmp_path_factory.mktemp("outside") / "scores.json"
    outside.write_text(calibration(7).model_dump_json())
    (base / "link.json").symlink_to(outside)
    for name in (str(outside), "link.json", "../scores.json"):
        with pytest.raises(InputError, match="outside the base directory"):
            load_calibrations(name)
    with pytest.raises(InputError, match="is not a file"):
        load_calibrations("nowhere.json")
