"""Feature analyses in the shape of Neuronpedia's exports: ``v1/{model}/{source}/{kind}/batch-N.jsonl.gz``.

Who reads Neuronpedia's files reads these: ``raylens labels import`` too. With what stands under ``raylens`` in each
line, and the header ``analysis.json``, they are taken in as a whole. Neuronpedia's own files lack token ids and counts,
so that no cache can be made of them; their labels are ``raylens labels import``'s business.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from raylens.errors import InputError
from raylens.labels.analysis_lines import (
    ExplanationLine,
    FeatureLine,
    TextLine,
    explanation_line,
    feature_line,
    text_line,
)
from raylens.labels.explanations import ShapeError, parse_json
from raylens.labels.exports import LINE_LIMIT, OversizeError, bounded_lines
from raylens.labels.names import NeuronpediaId
from raylens.schema import ACTIVATIONS
from raylens.store.analysis import TABLES, Analysis
from raylens.store.analysis_checks import check
from raylens.store.analysis_files import FILE_BYTES, bounded, new_folder, read_header, write_header
from raylens.store.examples import Activity, Example, pieces, spread

BATCH: Final = 1024
"""Features of a file, as Neuronpedia has them."""
_ROOT: Final = "v1"
_LEVEL: Final = 4
"""Of gzip: at 9 it takes most of the time, for a tenth of the bytes."""
_KEPT: Final = 8192
"""Rows of windows and documents that are held."""
_NAME: Final = re.compile(r"batch-([0-9]{1,9})\.jsonl\.gz")
_AGAIN: Final = "ask for the analysis anew: raylens export features makes it."
_FEWER: Final = "export fewer windows."

Line = TypeVar("Line", FeatureLine, TextLine, ExplanationLine)


def is_pages(folder: Path) -> bool:
    """Whether a folder holds such files, rather than Parquet."""
    return (folder / _ROOT).is_dir()


def save_pages(analysis: Analysis, folder: Path, source: NeuronpediaId) -> None:
    """Write a new folder: all of its files, or nothing.

    Args:
        analysis: What.
        folder: Where to.
        source: By which name of a model and source.

    Raises:
        InputError: The folder is there already.
        DiskFullError: No space.
    """
    with new_folder(folder, "a feature analysis") as made:
        write_header(analysis.header, made)
        root = made / _ROOT / source.model / source.source
        for number, first in enumerate(range(0, analysis.header.d_sae, BATCH)):
            some = _Some(analysis, source, first, min(first + BATCH, analysis.header.d_sae))
            for kind, lines in (("features", some.features()), ("activations", some.texts())):
                _write(root / kind / f"batch-{number}.jsonl.gz", lines)
            _write(root / "explanations" / f"batch-{number}.jsonl.gz", some.explanations())


def load_pages(folder: Path) -> Analysis:
    """Read such a folder, and check all that it says.

    Raises:
        InputError: It is no analysis; says which file, line and key.
    """
    header = read_header(folder)
    root, source = _one_source(folder)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for where, line in _lines(root / "features", source, FeatureLine):
        with _told(where):
            rows["feature_stats"].append(line.stats())
            rows["logits"] += line.logits()
            rows["neighbours"] += line.neighbours()
            rows["scores"] += line.scores()
    for where, line in _lines(root / "explanations", source, ExplanationLine):
        with _told(where):
            rows["explanations"].append(line.explanation())
    tables = {
        name: _table(name, rows[name])
        for name in ("feature_stats", "logits", "neighbours", "explanations", "scores")
        if rows[name] or name not in ("logits", "neighbours")
    }
    found = Analysis(header, {**tables, **_texts(root / "activations", source)})
    check(found, lambda table: f"{table} of {root}")
    return found


class _Some:
    """Lines about some features.

    Args:
        analysis: Of what.
        source: By which name.
        low: First feature.
        high: After the last one.
    """

    def __init__(self, analysis: Analysis, source: NeuronpediaId, low: int, high: int) -> None:
        self._analysis, self._source, self._features = analysis, source, range(low, high)
        self._kept: dict[tuple[str, int], dict[str, Any]] = {}
        self._rows = {name: self._by_feature(name) for name in ("logits", "neighbours", "explanations", "scores")}

    def features(self) -> Iterator[dict[str, Any]]:
        """A line a feature."""
        hook = str(self._analysis.header.spec.get("hook") or "")
        stats = self._analysis.tables["feature_stats"].slice(self._features.start, len(self._features))
        for row in stats.to_pylist():
            logits, near, scores = (self._rows[name][row["feature"]] for name in ("logits", "neighbours", "scores"))
            logits.sort(key=itemgetter("rank"))
            near.sort(key=itemgetter("rank"))
            yield feature_line(self._source, hook, row, logits, near, scores)

    def explanations(self) -> Iterator[dict[str, Any]]:
        """A line an explanation."""
        for feature in self._features:
            for row in self._rows["explanations"][feature]:
                yield explanation_line(self._source, row, self._rows["scores"][feature])

    def texts(self) -> Iterator[dict[str, Any]]:
        """A line a window of a feature."""
        columns = [one.to_numpy() for one in self._analysis.tables["activations"].columns]
        low, high = np.searchsorted(columns[0], [self._features.start, self._features.stop]).tolist()
        feature, peak, window_id, position, value = (one[low:high] for one in columns)
        begins = np.flatnonzero(np.diff(feature, prepend=-1) | np.diff(window_id, prepend=-1))
        ends = np.append(begins, high - low)[1:]
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            window = self._row("windows", int(window_id[begin]))
            document = self._row("documents", window["doc_id"])
            activity = Activity(window["window_id"], float(peak[begin]), position[begin:end], value[begin:end])
            offsets = window["token_offsets"]
            example = Example(
                window_id=window["window_id"],
                doc_id=window["doc_id"],
                source=document["source"],
                path=document["path"] or "",
                text=window["text"],
                tokens=pieces(window["text"], offsets),
                activations=spread(activity, len(offsets)),
                peak=activity.peak,
            )
            yield text_line(self._source, int(feature[begin]), example, window, document)

    def _row(self, name: str, number: int) -> dict[str, Any]:
        """Of a table whose rows are numbered; the last ones stay, as many features fire in the same windows."""
        key = name, number
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            (self._kept[key],) = self._analysis.tables[name].slice(number, 1).to_pylist()
        return self._kept[key]

    def _by_feature(self, name: str) -> dict[int, list[dict[str, Any]]]:
        table, found = self._analysis.tables.get(name), defaultdict[int, list[dict[str, Any]]](list)
        if table is not None:
            feature = table["feature"].to_numpy()
            inside = (feature >= self._features.start) & (feature < self._features.stop)
            for row in table.filter(pa.array(inside)).to_pylist():
                found[row["feature"]].append(row)
        return found


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a time, so that the same analysis is the same file.
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0, compresslevel=_LEVEL) as packed,
    ):
        for line in lines:
            packed.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _one_source(folder: Path) -> tuple[Path, NeuronpediaId]:
    found = [path for path in sorted((folder / _ROOT).glob("*/*")) if path.is_dir()]
    if len(found) != 1:
        raise InputError(
            f"{folder / _ROOT} holds {len(found)} sources, and an analysis is of one.",
            hint="name a folder that raylens export features made; raylens labels import takes Neuronpedia's exports.",
        )
    return found[0], NeuronpediaId.parse(f"{found[0].parent.name}/{found[0].name}")


def _lines(folder: Path, source: NeuronpediaId, shape: type[Line]) -> Iterator[tuple[str, Line]]:
    """Lines of all files of a kind, in order, with what to call each."""
    named = {match[1]: path for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))}
    for path in [named[number] for number in sorted(named, key=int)]:
        bounded(path, FILE_BYTES)
        with path.open("rb") as file:
            try:
                for number, data in bounded_lines(file, LINE_LIMIT, FILE_BYTES):
                    where = f"{path}, line {number}"
                    yield where, _line(where, data, source, shape)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise InputError(f"{path} breaks off, or is damaged.", hint="fetch it anew.") from error
            except OversizeError as error:
                raise InputError(f"{path} unpacks to more than {FILE_BYTES:,} bytes.", hint=_FEWER) from error


def _line(where: str, data: bytes | None, source: NeuronpediaId, shape: type[Line]) -> Line:
    if data is None:
        raise InputError(f"{where} is longer than {LINE_LIMIT:,} bytes.", hint=_FEWER)
    try:
        value = parse_json(data)
    except ShapeError as error:
        raise InputError(f"{where} {error}.", hint=_AGAIN) from error
    if isinstance(value, dict) and "raylens" not in value:
        raise InputError(
            f"{where} has no key raylens: it is not an analysis that RayLens exported.",
            hint="raylens labels import takes Neuronpedia's own exports.",
        )
    with _told(where):
        line = shape.model_validate(value)
        if (line.modelId, line.layer) != (source.model, source.source):
            raise ValueError(f"modelId: is not of {source}")
        return line


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What is wrong in a line, in one sentence."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise InputError(f"{where}, key {key}: {first['msg']}.", hint=_AGAIN) from error
    except ValueError as error:
        raise InputError(f"{where}, key {error}.", hint=_AGAIN) from error


def _texts(folder: Path, source: NeuronpediaId) -> dict[str, pa.Table]:
    """Activations, and the windows and documents that they lie in."""
    windows: dict[int, dict[str, Any]] = {}
    documents: dict[int, dict[str, Any]] = {}
    columns: list[list[Any]] = [[] for _ in ACTIVATIONS]
    for where, line in _lines(folder, source, TextLine):
        with _told(where):
            window, document = line.window(), line.document()
            if windows.setdefault(window["window_id"], window) != window:
                raise ValueError(f"dataIndex: window {window['window_id']} has another text elsewhere")
            if documents.setdefault(document["doc_id"], document) != document:
                raise ValueError(f"raylens.document: {document['doc_id']} is another one elsewhere")
        values = np.array(line.values, np.float32)
        position = np.flatnonzero(values)
        n = len(position)
        fixed = (np.full(n, line.feature), np.full(n, line.maxValue), np.full(n, window["window_id"]))
        for column, some in zip(columns, (*fixed, position, values[position]), strict=True):
            column.append(some)
    activations = {
        field.name: np.concatenate(column or [np.zeros(0)]).astype(field.type.to_pandas_dtype())
        for field, column in zip(ACTIVATIONS, columns, strict=True)
    }
    return {
        "activations": pa.table(activations, schema=ACTIVATIONS),
        "windows": _table("windows", [windows[one] for one in sorted(windows)]),
        "documents": _table("documents", [documents[one] for one in sorted(documents)]),
    }


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist(rows, TABLES[name])
    if "pass" not in table.column_names:
        return table
    # As an analysis has them: pass by pass, each in order of feature.
    order = np.lexsort([table["feature"].to_numpy(), table["pass"].to_numpy()])
    return table.take(pa.array(order)).combine_chunks()
