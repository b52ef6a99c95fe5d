"""Bulk import of Neuronpedia's export files (A2.11), streamed: ``v1/{model}/{source}/{kind}/batch-N.jsonl.gz``.

==================  ==========================================================  =====================
kind                a line                                                      goes to
==================  ==========================================================  =====================
``explanations``    one explanation: modelId, layer, index, description …       ``explanation_cache``
``features``        one feature's page without explanations and activations     ``feature_cache``
``activations``     one text that a feature fires on: tokens, values …          ``feature_cache``
==================  ==========================================================  =====================

A line is taken whole or left out and counted, with its number; a file that breaks off is taken as far as it goes.
Importing again changes nothing. Lines and files are bounded, so that a small file cannot unpack to a full memory.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from raylens.errors import InputError
from raylens.home import from_home
from raylens.labels.explanations import Page, ShapeError, page_payload, parse_json, read_explanation
from raylens.labels.import_report import ImportReport, Progress
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, is_part

Kind = Literal["explanations", "features", "activations"]
KINDS: Final[tuple[Kind, ...]] = ("explanations", "features", "activations")
BY_DEFAULT: Final[tuple[Kind, ...]] = ("explanations", "features")
"""Activations are some twenty times as large as all else, and no label needs them."""

LINE_LIMIT: Final = 16 * 2**20
FILE_LIMIT: Final = 8 * 2**30
"""Bytes, unpacked."""

_KIND_OF: Final[Mapping[str, Kind]] = {kind: kind for kind in KINDS}
_BATCH: Final = re.compile(r"(?:.*[-_])?([0-9]+)\.jsonl(?:\.gz)?")
_TOLD_EVERY: Final = 2048
_TEXTS_AT_A_TIME: Final = 64
_TEXT_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class _Batch:
    """One file, and what the folders it lies in say of it."""

    path: Path
    kind: Kind
    source: NeuronpediaId | None


def import_exports(
    store: LabelStore,
    path: str | Path,
    *,
    kinds: Sequence[Kind] = BY_DEFAULT,
    source: NeuronpediaId | None = None,
    progress: Progress = lambda done, total, name: None,
    line_limit: int = LINE_LIMIT,
    file_limit: int = FILE_LIMIT,
) -> ImportReport:
    """Import a file, or every export file below a folder.

    Args:
        store: Where to; what was read is committed as it comes, and at the end.
        path: The file or folder.
        kinds: What to take.
        source: Of which the files must be; by default whatever their folders, and each line, say.
        progress: Told how far it is.
        line_limit: Bytes of a line, unpacked; a longer one is left out.
        file_limit: Bytes of a file, unpacked; what comes after is left out, and said.

    Raises:
        InputError: There is no such file, or no export file below the folder.
        DiskFullError: No space; what was committed stays.
    """
    root = from_home(path)
    report = ImportReport()
    batches: list[_Batch] = []
    for one in _found(root):
        if one.kind in kinds:
            batches.append(one)
        else:
            report.left_out[one.kind] += 1
    total = sum(one.path.stat().st_size for one in batches)
    before = 0
    for batch in batches:
        name = str(batch.path.relative_to(root)) if batch.path != root else root.name
        report.files += 1
        with batch.path.open("rb") as file:
            taker = _Taker(store, report, name, batch.kind, source or batch.source)
            try:
                for number, line in bounded_lines(file, line_limit, file_limit):
                    taker.take(number, line)
                    if number % _TOLD_EVERY == 0:
                        progress(before + file.tell(), total, name)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                why = "ends in the middle" if isinstance(error, EOFError) else "is damaged"
                report.broken[name] = f"{why}; what stands before that was taken"
            except OversizeError:
                report.broken[name] = f"unpacks to more than {file_limit:,} bytes; what comes after that was left out"
            taker.finish()
            before += batch.path.stat().st_size
        progress(before, total, name)
    store.flush()
    return report


class OversizeError(Exception):
    """A file unpacks to more than it may."""


def bounded_lines(file: IO[bytes], line_limit: int, file_limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines of a file, packed with gzip or not, numbered from 1; None for one longer than ``line_limit`` bytes.

    Never more than a line is in memory.

    Raises:
        OversizeError: After ``file_limit`` bytes, unpacked.
        EOFError: The packed file ends in the middle.
        zlib.error, gzip.BadGzipFile: It is damaged.
    """
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    lines: Any = gzip.GzipFile(fileobj=file) if packed else file
    number = size = 0
    while line := lines.readline(line_limit + 1):
        number += 1
        size += len(line)
        whole = len(line.rstrip(b"\n")) <= line_limit
        while not line.endswith(b"\n") and (line_more := lines.readline(2**16)):
            whole = False
            size += len(line_more)
            line = line_more
            if size > file_limit:
                raise OversizeError
        if size > file_limit:
            raise OversizeError
        yield number, line if whole else None


class _Taker:
    """Takes the lines of one file."""

    def __init__(
        self, store: LabelStore, report: ImportReport, name: str, kind: Kind, source: NeuronpediaId | None
    ) -> None:
        self._store, self._report, self._name, self._kind, self._source = store, report, name, kind, source
        self._texts: list[dict[str, Any]] = []
        self._about: tuple[NeuronpediaId, int] | None = None
        self._size = 0

    def take(self, number: int, line: bytes | None) -> None:
        """Take one line, or count it as bad."""
        if line is not None and not line.strip():
            return
        try:
            if line is None:
                raise ShapeError("is longer than a line may be")
            value = parse_json(line)
            if not isinstance(value, dict):
                raise ShapeError("is no JSON object")
            source, index = self._who(value)
            self._taken(source, index, value, len(line))
        except ShapeError as error:
            self._report.note_bad(self._name, number, str(error))

    def finish(self) -> None:
        """Keep the texts that are still gathered."""
        if self._about is not None and self._texts:
            self._page(*self._about, {"activations": self._texts})
        self._texts, self._about, self._size = [], None, 0

    def _taken(self, source: NeuronpediaId, index: int, value: dict[str, Any], size: int) -> None:
        if self._kind == "explanations":
            if not isinstance(value.get("description"), str | None):
                raise ShapeError("has a description that is no text")
            one = read_explanation(value)
            if one is None:
                self._report.silent += 1
            elif self._store.put_explanation(source, index, one, "export", once=True):
                self._report.explanations += 1
            else:
                self._report.already += 1
        elif self._kind == "features":
            self._page(source, index, page_payload(value))
        else:
            tokens, values = value.get("tokens"), value.get("values")
            if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
                raise ShapeError("has no tokens with a value each")
            full = len(self._texts) >= _TEXTS_AT_A_TIME or self._size >= _TEXT_BYTES
            if self._about != (source, index) or full:
                self.finish()
                self._about = source, index
            self._size += size
            self._texts.append({key: one for key, one in value.items() if key not in ("modelId", "layer", "index")})

    def _page(self, source: NeuronpediaId, index: int, payload: dict[str, Any]) -> None:
        new, _ = self._store.put_page(source, index, Page(payload, ()), "export", once=True)
        self._report.pages += new
        self._report.already += not new

    def _who(self, value: dict[str, Any]) -> tuple[NeuronpediaId, int]:
        """Which feature a line is about.

        Raises:
            ShapeError: It does not say, or another than the file is of.
        """
        model, layer = value.get("modelId"), value.get("layer")
        source = self._source
        if isinstance(model, str) and isinstance(layer, str) and is_part(model) and is_part(layer):
            source = NeuronpediaId(model, layer)
        if source is None or (model, layer) not in ((source.model, source.source), (None, None)):
            raise ShapeError("does not say of which model and source it is")
        if self._source is not None and source != self._source:
            raise ShapeError(f"is not of {self._source}")
        return source, index_of(value.get("index"))


def index_of(value: object) -> int:
    """The index of a feature, which files write as a number or as text.

    Raises:
        ShapeError: It is none.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ShapeError("has no index of a feature")
    return value


def _found(root: Path) -> list[_Batch]:
    if root.is_file():
        return [_batch(root)]
    if not root.is_dir():
        raise InputError(f"{root} does not exist.", hint="name an export file, or a folder with some below it.")
    paths = [path for path in root.rglob("*") if path.is_file() and path.parent.name in KINDS]
    found = [_batch(path) for path in paths if _BATCH.fullmatch(path.name)]
    if not found:
        raise InputError(
            f"there is no export file below {root}.",
            hint="they lie as v1/<model>/<source>/explanations/batch-0.jsonl.gz, with features and activations beside.",
        )
    return sorted(found, key=lambda one: (str(one.path.parent), _number(one.path), one.path.name))


def _number(path: Path) -> int:
    match = _BATCH.fullmatch(path.name)
    return int(match[1]) if match else 0


def _batch(path: Path) -> _Batch:
    folders = path.absolute().parts[:-1]
    kind = _KIND_OF.get(folders[-1])
    if kind is None:
        raise InputError(
            f"{path} does not lie in a folder explanations, features or activations, so its kind is not known.",
            hint="keep the folders of the export: v1/<model>/<source>/explanations/batch-0.jsonl.gz.",
        )
    source = None
    if len(folders) >= 4 and folders[-4] == "v1":
        with suppress(InputError):
            source = NeuronpediaId.parse("/".join(folders[-3:-1]))
    return _Batch(path, kind, source)
