"""Shards of windows: the text as the model saw it, in the order it was cut.

A windows shard is three files: ``windows/<k>.parquet``, ``documents/<k>.parquet`` and, committed
last, the row ``windows/<k>.json`` that makes it exist. The documents file holds every document
with a window in this shard, and ``n_tokens`` counts only the tokens *in this shard*: a shard then
depends on nothing but its own windows, and the merge adds up a document that crosses shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import DamagedFileError, RunError
from raylens.store.parquet import DOCUMENTS, WINDOWS, TableFile, write_table
from raylens.store.workspace import CacheStore

REMEDY = "remove it and its .json, then run the same cache command again: it makes anew only what is missing."


class WindowsShard(BaseModel):
    """The manifest row of one shard of windows.

    Attributes:
        index: Which shard, from 0; shards hold consecutive windows.
        window_first: Its first window id.
        n_windows: How many windows it holds.
        n_text_tokens: Tokens in them, special tokens left out.
        n_special_tokens: Tokens in them that are special (BOS, separators).
        doc_first: Id of the first document with a window here.
        n_docs: How many documents have windows here, those that began in an earlier shard included.
        cursor: Where the cutter goes on after this shard, in its own terms.
        windows_bytes: Size of the windows file.
        documents_bytes: Size of the documents file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0)
    window_first: int = Field(ge=0)
    n_windows: int = Field(gt=0)
    n_text_tokens: int = Field(ge=0)
    n_special_tokens: int = Field(ge=0)
    doc_first: int = Field(ge=0)
    n_docs: int = Field(gt=0)
    cursor: dict[str, Any] = Field(default_factory=dict)
    windows_bytes: int = Field(ge=0)
    documents_bytes: int = Field(ge=0)

    @property
    def window_last(self) -> int:
        return self.window_first + self.n_windows - 1


def write_windows_shard(
    cache: CacheStore,
    index: int,
    windows: pa.Table,
    documents: pa.Table,
    *,
    n_special_tokens: int,
    cursor: Mapping[str, Any] | None = None,
) -> WindowsShard:
    """Write one shard of windows durably; it exists when this returns.

    Args:
        cache: Where to.
        index: Which shard.
        windows: ``schema.WINDOWS``, ids consecutive.
        documents: ``schema.DOCUMENTS``, a row for each document with a window here, tokens of this shard counted.
        n_special_tokens: How many of the windows' tokens are special.
        cursor: Anything JSON that :class:`WindowsShard` shall carry.

    Raises:
        RunError: There are no windows or documents, or the windows are not consecutive.
        DiskFullError: No space; the shard does not exist.
    """
    ids = windows["window_id"].to_numpy()
    if (
        not len(ids)
        or not documents.num_rows
        or int(ids[-1]) - int(ids[0]) != len(ids) - 1
        or (ids[1:] <= ids[:-1]).any()
    ):
        raise RunError(
            f"windows shard {index} of cache {cache.cache_id} is empty, or its windows are not consecutive.",
            hint="this is a defect of RayLens: please report it.",
        )
    n_tokens = sum(len(chunk.flatten()) for chunk in windows["token_ids"].chunks)
    row = WindowsShard(
        index=index,
        window_first=int(ids[0]),
        n_windows=len(ids),
        n_text_tokens=n_tokens - n_special_tokens,
        n_special_tokens=n_special_tokens,
        doc_first=int(documents["doc_id"].to_numpy().min()),
        n_docs=documents.num_rows,
        cursor=dict(cursor or {}),
        windows_bytes=write_table(cache.files, cache.windows_path(index), windows, WINDOWS),
        documents_bytes=write_table(cache.files, cache.documents_path(index), documents, DOCUMENTS),
    )
    cache.files.commit(cache.windows_row_path(index), row.model_dump_json().encode())
    return row


def windows_shards(cache: CacheStore) -> list[WindowsShard]:
    """The shards that exist, in order from 0 up to the first that is missing or not whole."""
    sizes = {one.path: one.size for one in cache.files.scan(cache.windows_folder)}
    sizes.update({one.path: one.size for one in cache.files.scan(f"{cache.folder}/documents")})
    found: list[WindowsShard] = []
    while (path := cache.windows_row_path(len(found))) in sizes:
        row = _read_row(cache, path)
        index = len(found)
        whole = (
            row.index == index
            and sizes.get(cache.windows_path(index)) == row.windows_bytes
            and sizes.get(cache.documents_path(index)) == row.documents_bytes
            and row.window_first == (found[-1].window_last + 1 if found else 0)
        )
        if not whole:
            break
        found.append(row)
    return found


def read_windows_shard(cache: CacheStore, index: int) -> pa.Table:
    """All windows of one shard (``schema.WINDOWS``).

    Raises:
        DamagedFileError: The file is missing, truncated or fails a checksum.
    """
    with TableFile(cache.files, cache.windows_path(index), remedy=REMEDY) as file:
        return file.read()


def read_documents_shard(cache: CacheStore, index: int) -> pa.Table:
    """The documents with a window in one shard (``schema.DOCUMENTS``); ``n_tokens`` counts this shard's.

    Raises:
        DamagedFileError: The file is missing, truncated or fails a checksum.
    """
    with TableFile(cache.files, cache.documents_path(index), remedy=REMEDY) as file:
        return file.read()


def _read_row(cache: CacheStore, path: str) -> WindowsShard:
    try:
        return WindowsShard.model_validate_json(cache.files.read_bytes(path))
    except ValidationError as error:
        raise DamagedFileError(
            f"{cache.files.native(path)} is damaged: {error.errors()[0]['msg']}.", hint=REMEDY
        ) from error
