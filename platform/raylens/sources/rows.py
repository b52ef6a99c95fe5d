"""Rows of .jsonl, .csv and .parquet files, read in bounded memory; one column of each.

A row is text, or a conversation (a list of ``{role, content}``); null counts as blank text.
Every complaint names the file and the line (in .parquet, the row), counted from 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raylens.corpus.document import Message
from raylens.errors import CorpusError

Content = str | tuple[Message, ...]
"""What one row holds: text, or the messages of a conversation."""

MAX_ROW_BYTES = 64 * 1024 * 1024
"""Longest line of a .jsonl file, longest cell of a .csv file; a file without line ends would be read whole."""

PARQUET_BATCH_ROWS = 256

_SURROGATE = re.compile("[\ud800-\udfff]")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


def read_rows(path: Path, column: str) -> Iterator[tuple[int, Content]]:
    """Yield ``(row, content)`` of a .jsonl (.gz, .zst), .csv or .parquet file.

    Raises:
        CorpusError: the file is missing or malformed, or has no such column of text.
    """
    read = {".parquet": _read_parquet, ".csv": _read_csv}.get(path.suffix, _read_jsonl)
    try:
        yield from read(path, column)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise CorpusError(
            f"{path} is malformed: {_first_line(error)}.", hint="repair the file, or leave it out."
        ) from None
    except OSError as error:  # also what Arrow raises where it cannot decompress
        raise CorpusError(
            f"{path} cannot be read: {_first_line(error)}.", hint="check the file and its rights."
        ) from None


def open_text(path: Path) -> io.BufferedReader:
    """Open a text file for reading bytes, decompressed where its name ends in .gz or .zst."""
    compression = _COMPRESSED.get(path.suffix)
    if compression is None:
        return path.open("rb")
    return io.BufferedReader(cast(io.RawIOBase, pa.input_stream(str(path), compression=compression)))


def content_of(value: object, column: str, where: str) -> Content:
    """The content of one cell.

    Raises:
        CorpusError: it is neither text nor a list of ``{role, content}``.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        # JSON can spell half a surrogate pair, which no encoding can; it becomes U+FFFD.
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        messages = cast(list[object], value)
        return tuple(_message(message, column, where) for message in messages) or ""
    raise CorpusError(
        f"column {column!r} at {where} holds {_kind(value)}, not text.",
        hint="name a column of text, or of chat messages, with --column.",
    )


def _message(value: object, column: str, where: str) -> Message:
    if isinstance(value, Mapping):
        message = cast(Mapping[str, object], value)
        if isinstance(message.get("role"), str) and isinstance(message.get("content"), str):
            cleaned = {key: _clean(item) for key, item in message.items() if item is not None}
            return cast(Message, cleaned)
        found = f"an object with {', '.join(map(str, message)) or 'no keys'}"
    else:
        found = _kind(value)
    raise CorpusError(
        f"column {column!r} at {where} is a list that holds {found}, not chat messages.",
        hint="each message needs role and content, both text.",
    )


def _clean(value: object) -> object:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


def _kind(value: object) -> str:
    names = {dict: "an object", bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _read_jsonl(path: Path, column: str) -> Iterator[tuple[int, Content]]:
    with open_text(path) as file:
        for number in count(1):
            line = file.readline(MAX_ROW_BYTES + 1)
            if not line:
                return
            where = f"{path}:{number}"
            if len(line) > MAX_ROW_BYTES:
                raise CorpusError(
                    f"line {where} is longer than {MAX_ROW_BYTES >> 20} MB.", hint="write one JSON object a line."
                )
            if line.strip():
                yield number, content_of(_cell(line, column, where), column, where)


def _cell(line: bytes, column: str, where: str) -> object:
    try:
        row: Any = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # of JSON or of UTF-8
        raise CorpusError(
            f"{where} is not JSON: {_first_line(error)}.", hint="write one JSON object a line, in UTF-8."
        ) from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where} holds {_kind(row)}, not an object.", hint="write one JSON object a line.")
    if column not in row:
        raise missing_column(column, where, list(row))
    return row[column]


def missing_column(column: str, where: str, known: list[str]) -> CorpusError:
    """The error for a column that is not there; lists those that are."""
    return CorpusError(
        f"{where} has no column {column!r}.",
        hint=f"name one with --column; it has {', '.join(map(str, known[:20])) or 'none'}.",
    )


def _read_csv(path: Path, column: str) -> Iterator[tuple[int, Content]]:
    # Not pyarrow.csv: it holds some 20 blocks at a time, and a block must hold the longest row.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            if column not in header:
                raise missing_column(column, str(path), header)
            place = header.index(column)
            for number, row in enumerate(filter(None, rows), 1):
                if len(row) != len(header):
                    what = f"{len(row)} columns where the header has {len(header)}"
                    raise CorpusError(f"{path}:{rows.line_num} has {what}.", hint="quote text that holds commas.")
                yield number, row[place]
        except (csv.Error, UnicodeDecodeError) as error:
            raise CorpusError(
                f"{path} is malformed near line {rows.line_num}: {_first_line(error)}.",
                hint="repair the file, or leave it out.",
            ) from None


def _read_parquet(path: Path, column: str) -> Iterator[tuple[int, Content]]:
    # Buffered, not pre-buffered: pages of a row group come one by one, however large the group is.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise missing_column(column, str(path), schema.names)
        kind = schema.field(column).type
        if not _holds_content(kind):
            raise CorpusError(
                f"column {column!r} of {path} holds {kind}, not text.",
                hint="name a column of text, or of chat messages, with --column.",
            )
        batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column])
        rows = (value for batch in batches for value in batch.column(0).to_pylist())
        for number, value in enumerate(rows, 1):
            yield number, content_of(value, column, f"{path}#{number}")


def _holds_content(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind)
    return is_text or pa.types.is_null(kind) or (is_list and pa.types.is_struct(kind.value_type))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
