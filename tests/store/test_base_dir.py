"""The base directory: what lies inside of it is found, and nothing leads out (A2.16)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.store.base_dir import VARIABLE, base_dir, inside_base


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base directory with a file, beside a folder that holds another."""
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "base"
    (folder / "deep").mkdir(parents=True)
    (folder / "suite.yaml").write_text("inside")
    (tmp_path / "base-not").mkdir()
    (tmp_path / "base-not/secret.yaml").write_text("outside")
    return folder


def refused(path: str | Path, base: Path | None) -> InputError:
    with pytest.raises(InputError) as caught:
        inside_base(path, "suite", base)
    assert caught.value.exit_code == 2
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("path", ["suite.yaml", "./suite.yaml", "deep/../suite.yaml", "deep/./..//suite.yaml"])
def test_relative_paths_are_of_the_base_directory(base: Path, path: str) -> None:  # A2.16
    assert inside_base(path, "suite", base) == base / "suite.yaml"
    assert inside_base(base / path, "suite", base) == base / "suite.yaml"


def test_what_does_not_exist_yet_may_be_named(base: Path) -> None:
    assert inside_base("new/folder/out.yaml", "suite", base) == base / "new/folder/out.yaml"
    assert inside_base("~/x.yaml", "suite", base) == base / "~/x.yaml"
    assert inside_base("suite.yaml/below", "suite", base) == base / "suite.yaml/below"


@pytest.mark.parametrize(
    "path", ["../base-not/secret.yaml", "..", "deep/../../base-not/secret.yaml", "/etc/passwd", "new/../../x", "/"]
)
def test_what_lies_outside_is_refused(base: Path, path: str) -> None:  # A2.16
    error = refused(path, base)
    assert error.message == f"suite {path!r} lies outside the base directory {base}."
    assert error.hint == "move it there, or set RAYLENS_BASE_DIR to a folder that holds it."


def test_a_neighbour_whose_name_begins_alike_is_outside(base: Path) -> None:  # A2.16
    assert "lies outside" in refused(base.parent / "base-not/secret.yaml", base).message


def test_links_are_followed_before_they_are_judged(base: Path) -> None:  # A2.16
    outside = base.parent / "base-not"
    (base / "file").symlink_to(outside / "secret.yaml")
    (base / "folder").symlink_to(outside)
    (base / "deep/up").symlink_to("../..")
    (base / "chain").symlink_to("folder")
    (base / "dangling").symlink_to(outside / "not-there")
    for path in (
        "file", "folder/secret.yaml", "deep/up/base-not/secret.yaml", "chain/secret.yaml", "dangling", "dangling/x",
        "folder/../x",
    ):  # fmt: skip
        assert "lies outside" in refused(path, base).message, path
    (base / "good").symlink_to("deep/../suite.yaml")
    assert inside_base("good", "suite", base) == base / "suite.yaml"
    # .. after a link is the parent of where it leads.
    assert inside_base("deep/up/base/suite.yaml", "suite", base) == base / "suite.yaml"


def test_a_circle_of_links_is_refused(base: Path) -> None:  # A2.16
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    (base / "self").symlink_to("self")
    for path in ("a", "a/x.yaml", "self", "self/../suite.yaml"):
        assert "cannot be followed" in refused(path, base).message, path


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("suite\0.yaml", "is no path"),
        ("\ud800.yaml", "is no path"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("s3://bucket/suite.yaml", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("x" * 5000, "cannot be followed"),
    ],
)
def test_what_is_no_path_is_refused(base: Path, path: str, what: str) -> None:  # A2.16
    assert what in refused(path, base).message


def test_the_variable_names_the_base_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A2.16
    monkeypatch.setenv(VARIABLE, str(base))
    assert inside_base("suite.yaml", "suite") == base / "suite.yaml"
    assert "lies outside" in refused(base.parent, None).message
    # What is given goes before the variable.
    assert inside_base("base/suite.yaml", "suite", base.parent) == base / "suite.yaml"
    for named in (str(base / "nowhere"), str(base / "suite.yaml")):
        monkeypatch.setenv(VARIABLE, named)
        assert refused("suite.yaml", None).message == f"the base directory {named} is no folder."
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(base / "deep")
    assert inside_base("x.yaml", "suite") == base / "deep/x.yaml"


def test_the_current_folder_is_the_base_directory_by_default(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)
    assert base_dir() == base
    assert inside_base("suite.yaml", "suite") == base / "suite.yaml"
    assert "lies outside" in refused("../base-not/secret.yaml", None).message


def test_the_base_directory_may_be_a_link(base: Path) -> None:
    link = base.parent / "link"
    link.symlink_to(base)
    assert inside_base("suite.yaml", "suite", link) == base / "suite.yaml"
    assert inside_base(link / "suite.yaml", "suite", link) == base / "suite.yaml"
    assert inside_base(base / "suite.yaml", "suite", link) == base / "suite.yaml"


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with links of all kinds."""
    top = tmp_path_factory.mktemp("maze")
    (top / "base/a").mkdir(parents=True)
    (top / "out").mkdir()
    for name, target in {
        "up": "..",
        "in": "a",
        "out": "../../out",
        "loop": "loop",
        "top": str(top),
        "root": "/",
    }.items():
        (top / "base" / name).symlink_to(target)
        (top / "base/a" / name).symlink_to(target)
    return top / "base"


@given(
    st.lists(st.sampled_from(["a", "up", "in", "out", "loop", "top", "root", "..", ".", "x", "base", ""]), max_size=6)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_passes_is_inside(maze: Path, parts: list[str]) -> None:  # A2.16
    path = "/".join(parts)
    try:
        found = inside_base(path, "suite", maze)
    except InputError:
        # The oracle: a path that exists and leads inside is never refused.
        assert not path.strip() or not (maze / path).exists() or maze not in [
            (maze / path).resolve(), *(maze / path).resolve().parents
        ]  # fmt: skip
        return
    assert os.path.commonpath([found, maze]) == str(maze)
    assert not found.is_symlink()
    # Below what does not exist, .. is taken by name, and stays inside.
    if (maze / path).exists():
        assert found.samefile(maze / path)
