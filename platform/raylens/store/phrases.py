"""All explanations of an SAE with their vectors in one file, kept so that a search need not read thousands.

Passes write a file a batch of features: 100 000 explanations are 6 250 files. Measured on two busy cores, a search
that reads and embeds them takes 34 s, of which 5 s are embedding; one that finds them here takes 2 s.
The file is made of immutable ones and says which, so it is never wrong, only behind: what is new is read beside
it, and from ``_RENEWED_AT`` files on it is written anew. A workspace that cannot be written is searched all the same.

``caches/<cache>/search/<sae key>/<8 hex>.parquet``, named by a hash of what the embedding makes of a probe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylens.errors import DamagedFileError, RaylensError
from raylens.ids import SaeId, digest
from raylens.store.findings import batches
from raylens.store.parquet import Layout, TableFile, table_writer
from raylens.store.workspace import CacheStore

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts → unit vectors, float32 ``[n, dim]``."""

PHRASES: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("explanation_id", pa.string()),
        ("explainer", pa.string()),
        ("explanation", pa.string()),
    ]
)

_WORDS: Final = pa.schema([("batch", pa.string()), *PHRASES])
_log = logging.getLogger(__name__)
_RENEWED_AT: Final = 32
_PROBE: Final = "the word return at the end of a function"
_REMEDY: Final = "remove it: it is made anew."
_TOLD_AT: Final = 200


@dataclass(frozen=True, eq=False)
class Phrases:
    """Explanations of one SAE in one cache.

    Attributes:
        table: ``PHRASES``; only those that say something.
        vectors: ``[n, dim]`` float32 unit rows, rounded to float16; ``[n, 0]`` without an embedding.
    """

    table: pa.Table
    vectors: NDArray[np.float32]


def search_folder(cache: CacheStore, sae: SaeId) -> str:
    """Where the file of one SAE lies."""
    return f"{cache.folder}/search/{sae.key}"


def phrases(cache: CacheStore, sae: SaeId, embed: Embed | None, say: Callable[[str], None] = lambda _: None) -> Phrases:
    """What is said of the features of ``sae`` now, of every pass.

    Raises:
        DamagedFileError: A file of explanations is missing, truncated, or fails a checksum.
    """
    there = batches(cache, sae, "explanations")
    probe = None if embed is None else embed([_PROBE]).astype(np.float16)
    schema, name = _WORDS, "words"
    if probe is not None:
        schema, name = _WORDS.append(pa.field("vector", pa.binary(probe.nbytes))), digest(probe.tobytes())[:8]
    path = f"{search_folder(cache, sae)}/{name}.parquet"
    kept = _kept(cache, path, schema)
    kept = kept.filter(pc.field("batch").isin(pa.array(list(there), pa.string())))
    covered = set(kept["batch"].unique().to_pylist())
    missing = [batch for batch in there if batch not in covered]
    if len(missing) >= _TOLD_AT:
        say(f"reading {len(missing):,} files of explanations of {sae}, which is kept for the next search.")
    fresh = _read(cache, {batch: there[batch] for batch in missing}, schema, embed)
    rows = pa.concat_tables([kept, fresh]).combine_chunks()
    if len(missing) >= _RENEWED_AT:
        try:
            with table_writer(cache.files, path, Layout(schema, group_rows=65_536, level=1)) as writer:
                writer.append(rows)
        except (RaylensError, OSError) as error:
            _log.info("what is said of %s was not kept for the next search: %s", sae, error)
    rows = rows.filter(pc.field("explanation").is_valid()).combine_chunks()
    no_vectors = np.zeros((rows.num_rows, 0), np.float32)
    return Phrases(rows.select(PHRASES.names), no_vectors if probe is None else _unpacked(rows["vector"], probe.size))


def _unpacked(column: pa.ChunkedArray, dim: int) -> NDArray[np.float32]:
    """``[n, dim]`` of a column of fixed-size binary, read where it lies."""
    parts = [np.zeros((0, dim), np.float32)]
    for chunk in column.chunks:
        if len(chunk):
            halves = np.frombuffer(chunk.buffers()[1], np.float16, len(chunk) * dim, chunk.offset * dim * 2)
            parts.append(halves.reshape(len(chunk), dim).astype(np.float32))
    return np.concatenate(parts)


def _kept(cache: CacheStore, path: str, schema: pa.Schema) -> pa.Table:
    if not cache.files.exists(path):
        return schema.empty_table()
    try:
        with TableFile(cache.files, path, remedy=_REMEDY) as file:
            return file.read().cast(schema)
    except (DamagedFileError, pa.ArrowException) as error:
        _log.warning("%s is read anew: %s", path, error)
        return schema.empty_table()


def _read(cache: CacheStore, missing: dict[str, str | None], schema: pa.Schema, embed: Embed | None) -> pa.Table:
    """Explanations of some files; one that says nothing leaves a row without a text, so that it is known."""
    tables = [_WORDS.empty_table()]
    for batch, path in missing.items():
        table = PHRASES.empty_table()
        if path is not None:
            with TableFile(cache.files, path, remedy=_REMEDY_OF_PASS) as file:
                found = file.read(columns=[*PHRASES.names, "status"])
            said = (pc.field("status") == "ok") & pc.field("explanation").is_valid()
            table = found.filter(said).select(PHRASES.names).cast(PHRASES)
        if not table.num_rows:
            table = pa.Table.from_pylist([{}], PHRASES)
        tables.append(table.add_column(0, "batch", pa.array([batch] * table.num_rows, pa.string())))
    rows = pa.concat_tables(tables)
    if embed is None:
        return rows
    if not rows.num_rows:
        return schema.empty_table()
    vectors = embed([text or "" for text in rows["explanation"].to_pylist()]).astype(np.float16)
    packed = [row.tobytes() for row in vectors]
    return rows.append_column("vector", pa.array(packed, schema.field("vector").type))


_REMEDY_OF_PASS: Final = "remove it and the .json beside it, then run the same command again."
