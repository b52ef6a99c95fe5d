"""The cache job where a workspace may lie: in an object store, and on a disk that runs full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cache_runs import ROWS, SAE, Made, cache_words, lend_map
from command_lines import SHELL, on_small_disk, run_all
from object_store import object_store
from raylens.config import CacheConfig
from raylens.ids import SaeId
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_jobs.cache import plan_cache

_PAGE = 4096
"""A tmpfs gives room by pages."""


@pytest.fixture
def s3_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with object_store(monkeypatch) as url:
        yield url


@pytest.mark.slow
def test_a_cache_in_an_object_store_equals_one_on_a_disk(
    s3_url: str, undisturbed: Made, config: CacheConfig, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made and made again by the command line, on workers that have the credentials from the environment only."""
    # Few shards: a merge reads a slice of each for every range, and this server takes milliseconds a request.
    cache_id = plan_cache(config.model_copy(update={"shard_windows": 64})).cache_id
    lend_map(undisturbed, s3_url, cache_id)
    words = ["--workspace", s3_url, *cache_words(texts), "--shard-windows", "64", "--json"]
    first, again = run_all([words, words])
    assert (first.code, first.errors) == (0, [])
    assert first.document["tokens"] == undisturbed.figures["tokens_total"]
    made = Made(Workspace.open(s3_url), first.document["cache_id"], first.document)
    assert made.cache_id == cache_id, "where a workspace lies is no part of what a cache is"
    assert made.rows().equals(undisturbed.rows())
    assert not [one.path for one in made.workspace.files.scan() if one.temporary]

    assert (again.code, again.errors) == (0, [])
    assert again.document["tokens"] == 0
    # A shard, a range file, a window: all older than the first run's end. Only pointers are written again.
    ended = max(one.modified for one in made.workspace.files.scan("runs") if first.document["run_id"] in one.path)
    files = [one for one in made.workspace.files.scan("caches") if one.path.endswith(".parquet")]
    assert len(files) > 10
    assert max(one.modified for one in files) <= ended

    capsys.readouterr()
    assert main(["--workspace", s3_url, "features", "--sort", "max", "--limit", "1", "--json"]) == 0
    (best,) = json.loads(capsys.readouterr().out)
    assert main(["--workspace", s3_url, "feature", best["id"], "--windows", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["windows"][0]["peak"] == pytest.approx(best["max_activation"])
    assert main(["--workspace", s3_url, "sql", "SELECT count(*) AS n FROM activations", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": undisturbed.rows().num_rows}]


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    undisturbed: Made, texts: Path, tmp_path: Path
) -> None:
    """Full while encoding, and, after some room was made, full again while merging; then with room for all."""
    disk, rows = tmp_path / "disk", tmp_path / "rows.parquet"
    disk.mkdir()
    raylens = ["--workspace", str(disk / "ws")]
    cache = [*raylens, *cache_words(texts), "--json"]
    look = [
        [SHELL, "find", str(disk), "-name", ".*"],
        [*raylens, "sql", "SELECT count(*) AS n FROM activations", "--format", "json"],
    ]

    def room(size: int) -> list[str]:
        return [SHELL, "mount", "-o", f"remount,size={size}", str(disk)]

    encoded, merged = _room(undisturbed)
    lend_map(undisturbed, tmp_path / "lent")
    query = ROWS.format(cache_id=undisturbed.cache_id, sae=SAE)
    steps = [[SHELL, "cp", "-r", str(tmp_path / "lent"), str(disk / "ws")]]
    steps += [cache, *look, room((encoded + merged) // 2), cache, *look, room(4 * merged), cache, *look]
    steps += [[*raylens, "sql", query, "--max-rows", "10000000", "--out", str(rows)]]
    _, encoding, litter, seen, _, merging, more_litter, still, _, whole, left, count, told = run_all(
        steps, on_small_disk(disk, str(encoded // 2))
    )
    for failed in (encoding, merging):
        assert failed.code == 1
        assert failed.out == ""
        (line,) = failed.errors
        assert f"the disk that holds {disk}" in line
        assert "is full" in line
        assert "hint: free some space" in line
        assert "same command again" in line
        assert "Traceback" not in failed.err
    assert "/generations/" not in encoding.errors[0]
    assert "/generations/" in merging.errors[0]
    assert [one.out for one in (litter, more_litter, left)] == ["", "", ""], "nothing half-written stays"
    assert [one.document for one in (seen, still)] == [[{"n": 0}], [{"n": 0}]], "a reader sees nothing unfinished"
    assert (whole.code, whole.errors) == (0, [])
    assert whole.document["tokens"] == 0, "what was encoded before the merge was kept"
    assert told.code == 0
    assert count.document == [{"n": undisturbed.rows().num_rows}]
    assert pq.read_table(rows).equals(undisturbed.rows())


def _room(made: Made) -> tuple[int, int]:
    """Bytes that one SAE takes on a tmpfs when it is encoded, and then when it is merged too."""
    cache = made.workspace.cache(made.cache_id)
    folders = (cache.windows_folder, f"{cache.folder}/documents", cache.shard_folder(SaeId.parse(SAE)))
    encoded = sum(_in_pages(one.size) for folder in folders for one in made.workspace.files.scan(folder))
    encoded += sum(_in_pages(entry.bytes) for entry in made.entries("map"))
    return encoded, encoded + sum(_in_pages(entry.bytes) for entry in made.entries("activations"))


def _in_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
