"""Suites by name or path: what ships, files inside the base directory, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raylens.errors import InputError, UnknownNameError
from raylens.sources.suites import load_suite, suite_target, write_suite
from raylens.suites.shipped import shipped_names, shipped_suite

TEXT = "- id: a\n  text: |-\n    def f(x):\n"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAYLENS_BASE_DIR", raising=False)
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "mine.yaml").write_text(TEXT)
    (tmp_path / "outside.yaml").write_text(TEXT)
    return folder


def test_what_ships_goes_by_its_name(base: Path) -> None:  # A2.03
    (base / "minimal").write_text("not a suite")
    for name in shipped_names():
        assert load_suite(name, base) is shipped_suite(name)
    with pytest.raises(InputError, match=r"suite \./minimal is not a YAML file"):
        load_suite("./minimal", base)


def test_a_file_is_named_by_its_path(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A2.03
    for path in ("mine.yaml", str(base / "mine.yaml"), base / "mine.yaml"):
        suite = load_suite(path, base)
        assert (suite.name, len(suite.prompts)) == ("mine", 1)
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(base))
    assert load_suite("mine.yaml") == suite
    (base / "other.YML").write_text(TEXT)
    assert load_suite("other.YML").digest == suite.digest


def test_a_file_outside_the_base_directory_is_refused(base: Path) -> None:  # A2.16
    (base / "link.yaml").symlink_to("../outside.yaml")
    for path in ("../outside.yaml", str(base.parent / "outside.yaml"), "link.yaml"):
        with pytest.raises(InputError, match="lies outside the base directory"):
            load_suite(path, base)


def test_what_is_neither_gets_the_names_that_ship(base: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_suite("minimall", base)
    assert f"{base}/minimall does not exist" in caught.value.message
    assert "there are minimal, code_security, capability, stress" in caught.value.hint


def test_an_error_names_the_file_as_it_was_given(base: Path) -> None:
    (base / "mine.yaml").write_text(TEXT + "  txet: x\n")
    with pytest.raises(InputError, match=r"^\./mine\.yaml, line 4: 1\.txet is not a key of a prompt\."):
        load_suite("./mine.yaml", base)


def test_what_is_no_readable_file_is_told(base: Path) -> None:
    (base / "folder.yaml").mkdir()
    os.mkfifo(base / "pipe.yaml")
    for name in ("folder.yaml", "pipe.yaml"):
        with pytest.raises(InputError, match=f"suite {name} is not a file"):
            load_suite(name, base)
    with (base / "huge.yaml").open("wb") as stream:
        stream.truncate(2**40)  # a hole: nothing of it is on the disk
    with pytest.raises(InputError, match=r"huge\.yaml is larger than 1 MiB"):
        load_suite("huge.yaml", base)


def test_a_new_suite_is_written_whole_and_replaced_only_on_request(base: Path) -> None:  # A2.16
    target = suite_target("new.yaml", base)
    assert target == base / "new.yaml"
    assert write_suite(target, TEXT).digest == load_suite("new.yaml", base).digest
    assert target.read_text() == TEXT
    for ask in (lambda: suite_target("new.yaml", base), lambda: write_suite(target, TEXT)):
        with pytest.raises(InputError, match=r"new\.yaml exists already"):
            ask()
    other = TEXT.replace("f(x)", "g(x)")
    assert suite_target("new.yaml", base, overwrite=True) == target
    assert write_suite(target, other, overwrite=True).digest != load_suite("mine.yaml", base).digest
    assert target.read_text() == other
    with pytest.raises(InputError, match="says what 'a' says already"):
        write_suite(target, TEXT + TEXT, overwrite=True)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        write_suite(target, TEXT + "#" * 2**20, overwrite=True)
    assert target.read_text() == other
    assert sorted(path.name for path in base.iterdir()) == ["mine.yaml", "new.yaml"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../new.yaml", "lies outside the base directory"),
        ("link.yaml", "lies outside the base directory"),
        ("new.json", r"new\.json is not a YAML file"),
        ("folder.yaml", r"folder\.yaml is not a file"),
        ("nowhere/new.yaml", "nowhere is no folder that you can write to"),
        ("mine.yaml/new.yaml", r"mine\.yaml is no folder that you can write to"),
    ],
)
def test_where_a_suite_cannot_go_is_told_before_it_is_made(base: Path, path: str, says: str) -> None:
    (base / "link.yaml").symlink_to("../not-there.yaml")
    (base / "folder.yaml").mkdir()
    with pytest.raises(InputError, match=says):
        suite_target(path, base, overwrite=True)
    assert not (base.parent / "not-there.yaml").exists()


def test_a_folder_that_went_meanwhile_is_one_sentence(base: Path) -> None:
    (base / "soon").mkdir()
    target = suite_target("soon/new.yaml", base)
    (base / "soon").rmdir()
    (base / "soon").write_text("a file now")
    with pytest.raises(InputError, match=r"^cannot write .*soon/new\.yaml: [a-z ]+\. hint: "):
        write_suite(target, TEXT)
