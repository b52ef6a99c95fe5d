"""Local text files: finding them, reading them, and checking them before any work.

A .txt file is one document; one above ``PIECE_BYTES`` is read as several, cut at line ends, so that
memory stays bounded. In .jsonl, .csv and .parquet each row is one. Files are read in the order of
their paths; where documents are shuffled, files are too, since the buffer cannot reach across a
large corpus.
"""

from __future__ import annotations

import codecs
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from raylens.corpus.document import Document
from raylens.errors import CorpusError
from raylens.sources.rows import Content, open_text, read_rows
from raylens.sources.spec import FileSource

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet")
PIECE_BYTES = 16 * 1024 * 1024
"""Largest piece of a .txt file that is one document."""

_MAGIC = re.compile(r"[*?\[]")
_HEAD_BYTES = 64 * 1024
_CHECKED_ROWS = 16


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file of a source; ``name`` is its POSIX path below the source's folder."""

    path: Path
    name: str

    @property
    def domain(self) -> str:
        head, _, tail = self.name.partition("/")
        return head if tail else "."

    @property
    def is_rows(self) -> bool:
        return self.path.suffix != ".txt"


def find_files(source: FileSource) -> list[TextFile]:
    """The files that a source names, by path. Hidden files, and kinds that hold no text, are passed over.

    Raises:
        CorpusError: there are none.
    """
    path = Path(source.pattern)
    if path.is_file():
        if not _is_text(path):
            raise CorpusError(
                f"{source.spec} is not a kind of text file that is read.",
                hint=f"those end in {', '.join(SUFFIXES)}; .txt is read as it is.",
            )
        return [TextFile(path, path.name)]
    if not path.is_dir() and not _MAGIC.search(source.pattern):
        raise CorpusError(f"there is no file or folder {source.spec}.", hint="check the path; a glob may use * and **.")
    root, pattern = (path, "**/*") if path.is_dir() else _split_glob(path)
    try:
        found = [entry for entry in root.glob(pattern) if _is_seen(entry.relative_to(root)) and entry.is_file()]
    except ValueError as error:
        raise CorpusError(f"{source.spec} is not a glob: {error}.", hint="write ** between slashes.") from None
    files = [TextFile(entry, entry.relative_to(root).as_posix()) for entry in set(found) if _is_text(entry)]
    if not files:
        kinds = sorted({entry.suffix or entry.name for entry in found})
        raise CorpusError(
            f"{source.spec} matches no text file" + (f", only {', '.join(kinds[:8])}." if kinds else "."),
            hint=f"text files end in {', '.join(SUFFIXES)}.",
        )
    return sorted(files, key=lambda file: file.name)


def check_files(source: FileSource) -> None:
    """Read the head of every file.

    Raises:
        CorpusError: a file is binary, malformed or has no such column of text, or all are empty.
    """
    holds_text = [_check_file(file, source.column) for file in find_files(source)]
    if not any(holds_text):
        raise CorpusError(f"{source.spec} is empty: it holds no text.", hint="name a source that holds some.")


def read_files(source: FileSource, seed: int) -> Iterator[Document]:
    """Stream the documents; with a seed that is not negative, files come in a shuffled order.

    Raises:
        CorpusError: as :func:`check_files`, wherever in the files it is found.
    """
    files = find_files(source)
    if seed >= 0:
        random.Random(seed).shuffle(files)
    for file in files:
        for place, content in _read(file, source.column):
            text, messages = (content, None) if isinstance(content, str) else ("", content)
            yield Document(text, source.spec, file.domain, f"{file.name}{place}", "all", messages)


def _is_text(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def _is_seen(relative: Path) -> bool:
    return not any(part.startswith(".") for part in relative.parts)


def _split_glob(pattern: Path) -> tuple[Path, str]:
    """The folder that holds a glob's first wildcard, and the rest of the glob."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    rest = [*parts[first:], "*"] if parts[-1] == "**" else parts[first:]
    return Path(*parts[:first]), "/".join(rest)


def _check_file(file: TextFile, column: str) -> bool:
    """Whether the file's head holds text, or there is more of it."""
    if file.path.suffix != ".parquet":
        try:
            with open_text(file.path) as opened:
                head = opened.read(_HEAD_BYTES)
        except OSError as error:
            raise _unreadable(file.path, error) from None
        _check_bytes(head, file.path, whole=len(head) < _HEAD_BYTES)
        if not file.is_rows:
            return len(head) == _HEAD_BYTES or bool(head.strip())
    rows = [content for _, content in islice(read_rows(file.path, column), _CHECKED_ROWS)]
    return len(rows) == _CHECKED_ROWS or any(not isinstance(row, str) or row.strip() for row in rows)


def _read(file: TextFile, column: str) -> Iterator[tuple[str, Content]]:
    """Yield ``(place, content)``: ``#<row>``, ``#<piece>``, or nothing for a file that is one document."""
    if file.is_rows:
        for row, content in read_rows(file.path, column):
            yield f"#{row}", content
        return
    pieces = _read_pieces(file.path)
    head = list(islice(pieces, 2))
    for number, text in enumerate(chain(head, pieces), 1):
        yield f"#{number}" if len(head) == 2 else "", text


def _read_pieces(path: Path) -> Iterator[str]:
    done, data = 0, b""
    try:
        with path.open("rb") as file:
            while True:
                data += file.read(PIECE_BYTES + 1 - len(data))
                cut = _cut(data, PIECE_BYTES) if len(data) > PIECE_BYTES else len(data)
                if not cut:
                    return
                yield _decode(data[:cut], path, done)
                done, data = done + cut, data[cut:]
    except OSError as error:
        raise _unreadable(path, error) from None


def _cut(data: bytes, limit: int) -> int:
    """Where to cut ``data`` at or before ``limit``: after a line end, else between two characters."""
    cut = data.rfind(b"\n", 0, limit) + 1
    if not cut:
        cut = limit
        while cut > 1 and data[cut] & 0xC0 == 0x80:
            cut -= 1
    return cut


def _decode(data: bytes, path: Path, done: int) -> str:
    _check_bytes(data, path, whole=True, done=done)
    return data.decode("utf-8-sig" if not done else "utf-8")


def _check_bytes(data: bytes, path: Path, *, whole: bool, done: int = 0) -> None:
    """Refuse NUL bytes and what is not UTF-8; an unfinished character may end ``data`` unless it is the whole."""
    position = data.find(b"\0")
    what = "a NUL byte" if position >= 0 else ""
    if not what:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
        except UnicodeDecodeError as error:
            position, what = error.start, "a byte that is not UTF-8"
    if what:
        raise CorpusError(
            f"{path} is not text: it has {what} at offset {done + position}.",
            hint="convert it to UTF-8, or leave it out.",
        )


def _unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{path} cannot be read: {error.strerror or error}.", hint="check the file and its rights.")
