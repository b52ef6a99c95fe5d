"""Analyses from elsewhere that are damaged or hostile: a sentence with file, row and key (A3.07)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylens import schema
from raylens.errors import InputError
from raylens.labels.analysis_pages import load_pages
from raylens.store import analysis_files
from raylens.store.analysis import TABLES, Analysis
from raylens.store.analysis_cache import read_from_cache
from raylens.store.analysis_files import load_parquet
from raylens.store.workspace import Workspace
from small_analyses import SOURCE, colleagues, saved
from small_cache import CACHE_ID, D_SAE, SAE


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return colleagues(tmp_path / "colleague")


@pytest.fixture
def analysis(workspace: Workspace) -> Analysis:
    return read_from_cache(workspace, CACHE_ID, SAE, 3)


Change = Callable[[list[dict[str, Any]]], Any]


def _rows(table: str, change: Change) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / f"{table}.parquet"
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, TABLES[table]), path)

    return apply


def _set(row: int, **values: Any) -> Change:
    return lambda rows: rows[row].update(values)


def _header(**values: Any) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "analysis.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


PARQUET_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no table": (lambda f: (f / "scores.parquet").unlink(), r"scores\.parquet is missing"),
    "pickle": (
        lambda f: (f / "windows.parquet").write_bytes(b"\x80\x05cos\nsystem\n."),
        r"windows\.parquet is no Parq",
    ),
    "cut off": (
        lambda f: (f / "windows.parquet").write_bytes((f / "windows.parquet").read_bytes()[:300]),
        r"windows\.parquet is no Parquet file, or damaged",
    ),
    "other columns": (
        lambda f: pq.write_table(pa.table({"feature": [1]}), f / "map.parquet"),
        r"map\.parquet has other columns than it should: x, y",
    ),
    "other types": (
        lambda f: pq.write_table(pa.table({"feature": ["1"], "x": [0.0], "y": [0.0]}), f / "map.parquet"),
        r"map\.parquet: column feature is string",
    ),
    "header: no JSON": (lambda f: (f / "analysis.json").write_text("{"), r"analysis\.json is no header"),
    "header: key": (_header(more=1), r"analysis\.json .*, at more"),
    "header: type": (_header(d_sae="12"), r"analysis\.json .*, at d_sae"),
    "header: version": (_header(version=2), r"analysis\.json .*, at version"),
    "header: SAE": (_header(sae="nameless"), r"analysis\.json, key sae"),
    "header: width": (_header(d_sae=11), r"feature is 11, and the SAE has 11"),
    "header: too large": (
        lambda f: (f / "analysis.json").write_text(" " * (analysis_files.HEADER_BYTES + 1)),
        r"analysis\.json has 1,048,577 bytes, more than",
    ),
    "feature": (_rows("logits", _set(0, feature=12)), r"logits\.parquet, row 1: feature is 12, and the SAE has 12"),
    "order": (_rows("logits", _set(0, feature=5)), r"logits\.parquet, row 2: feature is 0, out of order"),
    "neighbour": (_rows("neighbours", _set(3, neighbour=-1)), r"neighbours\.parquet, row 4: neighbour is -1"),
    "nan": (_rows("neighbours", _set(2, cosine=float("nan"))), r"row 3: cosine is nan, which is no number"),
    "null": (_rows("logits", _set(1, token=None)), r"logits\.parquet, row 2: token is None, missing"),
    "stats": (_rows("feature_stats", lambda rows: rows.pop()), r"has 11 rows, and the SAE has 12 features"),
    "count": (_rows("feature_stats", _set(4, n_active=-1)), r"row 5: n_active is -1, below 0"),
    "window": (_rows("activations", _set(0, window_id=4)), r"activations\.parquet, row 1: window_id is 4"),
    "position": (_rows("activations", _set(0, position=6)), r"row 1: position is 6, and its window has no such"),
    "activation": (_rows("activations", _set(0, activation=-1.0)), r"row 1: activation is -1\.0, which is not above"),
    "peak": (_rows("activations", _set(0, peak=9.0)), r"row 1: peak is 9\.0, and no token is that strong"),
    "strength": (_rows("activations", _set(0, peak=1.0, activation=1.0)), r"row 2: peak is .*out of order"),
    "twice": (_rows("activations", lambda rows: rows.insert(1, rows[0])), r"row 2: position is 1, out of order"),
    "dense": (_rows("windows", _set(1, window_id=7)), r"windows\.parquet, row 2: window_id is 7, where they count"),
    "document": (_rows("windows", _set(1, doc_id=9)), r"row 2: doc_id is 9, and there is no such document"),
    "offsets": (_rows("windows", _set(2, token_offsets=[0, 0, 3, 6, 9, 99])), r"row 3: token_offsets is .*no places"),
    "falling": (_rows("windows", _set(2, token_offsets=[0, 3, 0, 6, 9, 12])), r"row 3: token_offsets is .*no places"),
    "tokens": (_rows("windows", _set(0, token_ids=[1, 2])), r"row 1: token_offsets is .*not one for each token"),
    "pass": (_rows("explanations", _set(0, **{"pass": 2})), r"explanations\.parquet, row 1: pass is 2"),
    "ok": (_rows("explanations", _set(0, explanation=None, status="ok")), r"row 1: explanation is None, missing"),
}


@pytest.mark.parametrize("fault", PARQUET_FAULTS)
def test_a_damaged_or_hostile_folder_is_refused_in_one_sentence(analysis: Analysis, tmp_path: Path, fault: str) -> None:
    # Feature tables that this cache lacks, so that the folder has one of each kind.
    more = {"map": pa.Table.from_pylist([{"feature": f, "x": 0.5, "y": 1.0} for f in range(D_SAE)], schema.MAP)}
    folder = saved(Analysis(analysis.header, {**analysis.tables, **more}), tmp_path / "sent", "parquet")
    assert load_parquet(folder).tables["map"].num_rows == D_SAE
    damage, said = PARQUET_FAULTS[fault]
    damage(folder)
    with pytest.raises(InputError, match=said) as error:
        load_parquet(folder)
    assert error.value.hint
    assert "\n" not in error.value.message


def test_a_file_that_is_too_large_is_not_read(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(analysis, tmp_path / "sent", "parquet")
    pages = saved(analysis, tmp_path / "pages", "neuronpedia")
    with (folder / "windows.parquet").open("ab") as file:
        file.truncate(analysis_files.FILE_BYTES + 1)  # sparse: nothing is written
    with pytest.raises(InputError, match=r"windows\.parquet has 2,147,483,649 bytes, more than the 2,147,483,648"):
        load_parquet(folder)
    monkeypatch.setattr("raylens.labels.analysis_pages.FILE_BYTES", 2000)
    with pytest.raises(InputError, match=r"batch-0\.jsonl\.gz unpacks to more than 2,000 bytes"):
        load_pages(pages)


def _line(kind: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "v1" / SOURCE.model / SOURCE.source / kind / "batch-0.jsonl.gz"
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        change(lines[0])
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))

    return apply


def _bytes(kind: str, data: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        path = folder / "v1" / SOURCE.model / SOURCE.source / kind / "batch-0.jsonl.gz"
        path.write_bytes(data(path.read_bytes()))

    return apply


PAGE_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of Neuronpedia": (
        _line("features", lambda row: row.pop("raylens")),
        r"features/batch-0.*, line 1 has no key rayl",
    ),
    "no JSON": (_bytes("features", lambda _: b"{"), r"batch-0\.jsonl\.gz, line 1 is no JSON"),
    "broken off": (_bytes("activations", lambda data: data[:-20]), r"activations/batch-0.* breaks off, or is damaged"),
    "another source": (
        _line("features", lambda row: row.update(layer="4-res")),
        r"line 1, key modelId: is not of tiny",
    ),
    "index": (_line("features", lambda row: row.update(index="-1")), r"line 1, key index: .*no index"),
    "key": (_line("features", lambda row: row["raylens"].update(more=1)), r"line 1, key raylens\.more: "),
    "type": (_line("features", lambda row: row.update(pos_values=["1"])), r"line 1, key pos_values\.0: "),
    "lengths": (_line("features", lambda row: row.update(pos_values=[1.0])), r"key pos_values: not one for each"),
    "bins": (_line("features", lambda row: row.update(freq_hist_data_bar_values=[0.3])), r"key freq_hist_data_bar_val"),
    "values": (_line("activations", lambda row: row.update(values=[1.0])), r"line 1, key values: not one for each"),
    "number": (_line("activations", lambda row: row.update(maxValue=None)), r"line 1, key maxValue: "),
    "text": (
        _line("activations", lambda row: row["tokens"].__setitem__(1, "other ")),
        r"line \d+, key dataIndex: window \d has another text elsewhere",
    ),
    "time": (_line("explanations", lambda row: row.update(createdAt="yesterday")), r"key createdAt: is no time"),
    "pass": (_line("explanations", lambda row: row["raylens"].update({"pass": 2})), r"explanations of .*pass is 2"),
}


@pytest.mark.parametrize("fault", PAGE_FAULTS)
def test_damaged_pages_are_refused_in_one_sentence(analysis: Analysis, tmp_path: Path, fault: str) -> None:
    folder = saved(analysis, tmp_path / "sent", "neuronpedia")
    damage, said = PAGE_FAULTS[fault]
    damage(folder)
    with pytest.raises(InputError, match=said) as error:
        load_pages(folder)
    assert "\n" not in error.value.message
