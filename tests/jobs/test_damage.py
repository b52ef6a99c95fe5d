"""A damaged merged file: who reads it is told which and what to do, everything else can still be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_runs import OTHER_SAE, SAE, Made, make
from raylens.config import CacheConfig
from raylens.store.manifest import FileEntry, Kind
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main

COUNT = "SELECT count(*) AS n FROM activations WHERE sae = '{}'"


@pytest.fixture
def copy(undisturbed: Made, tmp_path: Path) -> Made:
    """The undisturbed run's workspace, to be damaged."""
    shutil.copytree(undisturbed.workspace.url, tmp_path / "workspace")
    return Made(Workspace.open(tmp_path / "workspace"), undisturbed.cache_id, undisturbed.figures)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    """As long as it was, and nothing of what it was."""
    path.write_bytes(b"\0" * path.stat().st_size)


class Cli:
    """``raylens`` in this process, over one workspace."""

    def __init__(self, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
        self._url, self._capsys = made.workspace.url, capsys

    def document(self, *words: str) -> object:
        """What a command that succeeds prints."""
        self._capsys.readouterr()
        code = main(["--workspace", self._url, *words])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    def refusal(self, *words: str) -> str:
        """The one line that a command fails with at run time."""
        self._capsys.readouterr()
        code = main(["--workspace", self._url, *words])
        said = self._capsys.readouterr()
        (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert code == 1
        assert said.out == ""
        assert "Traceback" not in said.err
        return line


@pytest.fixture
def raylens(copy: Made, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(copy, capsys)


def densest(made: Made, entry: FileEntry) -> int:
    """The feature of a range file that fires most often."""
    import duckdb

    query = "SELECT feature FROM read_parquet(?) GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
    with duckdb.connect() as connection:
        return connection.execute(query, [str(made.path(entry))]).fetchall()[0][0]


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("harm", [truncate, garble])
def test_a_damaged_range_file_is_named_and_the_rest_can_be_read(
    undisturbed: Made, copy: Made, raylens: Cli, which: int, harm: Callable[[Path], None]
) -> None:
    """The first file of an SAE is the one that DuckDB opens to learn a view's columns."""
    entries = [entry for entry in copy.entries("activations") if entry.rows]
    harmed, sound = entries[which], entries[-1 - which if which else -1]
    lost, kept = (f"{SAE}/{densest(undisturbed, entry)}" for entry in (harmed, sound))
    path = str(copy.path(harmed))
    expected = {sae: undisturbed.rows(sae).num_rows for sae in (SAE, OTHER_SAE)}
    harm(Path(path))

    for line in (
        raylens.refusal("sql", COUNT.format(SAE), "--format", "json"),
        raylens.refusal("sql", "SELECT sae, max(activation) FROM activations GROUP BY sae"),
        raylens.refusal("feature", lost, "--json"),
    ):
        assert path in line
        assert " hint: remove it, then run the same cache command again" in line
    assert raylens.document("sql", COUNT.format(OTHER_SAE), "--format", "json") == [{"n": expected[OTHER_SAE]}]
    assert raylens.document("feature", kept, "--json")
    assert raylens.document("features", "--sae", OTHER_SAE, "--json")
    assert raylens.document("features", "--sae", SAE, "--json"), "its statistics lie in another file"


@pytest.mark.parametrize("kind", ["feature_stats", "windows", "documents"])
def test_any_other_damaged_merged_file_is_named(copy: Made, raylens: Cli, kind: Kind) -> None:
    manifest = copy.workspace.cache(copy.cache_id).manifest()
    assert manifest is not None
    path = copy.path(next(manifest.of(kind, SAE if kind == "feature_stats" else None)))
    feature = f"{SAE}/{densest(copy, copy.entries('activations')[0])}"
    truncate(path)
    for line in (raylens.refusal("sql", f"SELECT count(*) FROM {kind}"), raylens.refusal("feature", feature, "--json")):
        assert str(path) in line
        assert " hint: " in line
        assert "again" in line


@pytest.mark.slow
def test_what_the_message_says_mends_it(undisturbed: Made, copy: Made, ray_cluster: None, config: CacheConfig) -> None:
    """A truncated range file, and ones that the user removed as told; only they are merged again."""
    ranges = [copy.path(entry) for entry in copy.entries("activations") if entry.rows]
    truncate(ranges[0])
    ranges[3].unlink()
    before = {path: path.stat().st_mtime_ns for path in ranges[4:]}
    mended = make(Path(copy.workspace.url), config)
    assert mended.figures["tokens"] == 0
    assert mended.rows().equals(undisturbed.rows())
    assert {path: path.stat().st_mtime_ns for path in before} == before
