"""The reader: text → tokens → windows → committed blocks, streamed to the encoders by name.

One Ray task does it, beside the encoders. It goes on where the stored blocks end, so a rerun
tokenises nothing twice; rows carry a block's number and the shards still missing, never its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raylens.config import CacheConfig
from raylens.corpus.blocks import WindowBlock, block_name, shards
from raylens.corpus.document import Document
from raylens.corpus.tokenize import TextEncoder
from raylens.corpus.windows import START, Cursor, WindowCutter, skip
from raylens.engine.load import load_tokenizer, prefix_ids
from raylens.ids import SaeId, digest
from raylens.schema import DOCUMENTS, WINDOWS
from raylens.sources import TextSource, read_documents
from raylens.store.shards import completed
from raylens.store.windows import WindowsShard, read_documents_shard, windows_shards, write_windows_shard
from raylens.store.workspace import CacheStore, Workspace


@dataclass(frozen=True, slots=True)
class ShardRecipe:
    """What, besides the block, determines a shard: hashed into its name."""

    sae: SaeId
    settings: Mapping[str, object]

    def shard_name(self, block: WindowsShard) -> str:
        """``<block number>-<16 hex>``."""
        content = digest({"block": block.cursor["name"], "sae": str(self.sae), **self.settings})
        return f"{block.index:08d}-{content[:16]}"


@dataclass(frozen=True, slots=True)
class Task:
    """One block on its way to an encoder: which shards of it are still to be made."""

    block: int
    n_text_tokens: int
    missing: tuple[tuple[str, str], ...]
    """(SAE id, shard name)."""


def blocks_wanted(cache: CacheStore, config: CacheConfig, sources: Sequence[TextSource]) -> Iterator[WindowsShard]:
    """Yield the blocks of ``config.n_tokens`` text tokens, from the store as far as they are there.

    Raises:
        CorpusError: the text cannot be read, or is not what it was.
    """
    stored = windows_shards(cache)
    full = [row for row in stored if row.n_windows == config.shard_windows]
    tokens = 0
    for row in stored:
        tokens += row.n_text_tokens
        if row in full or tokens >= config.n_tokens or row.cursor["ended"]:
            yield row
        if tokens >= config.n_tokens or row.cursor["ended"]:
            return
    yield from _cut(cache, config, sources, full)


def _cut(
    cache: CacheStore, config: CacheConfig, sources: Sequence[TextSource], full: list[WindowsShard]
) -> Iterator[WindowsShard]:
    tokenizer = load_tokenizer(config.model, revision=config.revision)
    prefix = prefix_ids(tokenizer)
    ends = (one for one in (tokenizer.eos_token_id, tokenizer.bos_token_id) if isinstance(one, int))
    cutter = WindowCutter(
        config.ctx_len,
        prefix=prefix,
        special_ids=tokenizer.all_special_ids,
        pack=config.pack,
        separator=next(ends, None),
    )
    cursor = _cursor(full[-1]) if full else START
    documents = skip(read_documents(sources, seed=config.seed), cursor)
    windows = cutter.cut(TextEncoder(tokenizer, prefix).encode(documents), cursor)
    known = _document_rows(cache, full[-1].index) if full else {}
    for block in shards(windows, config.shard_windows, n_tokens=config.n_tokens, cursor=cursor):
        known = _with_documents(known, block)
        ended = block.partial and block.cursor.text_tokens < config.n_tokens
        yield write_windows_shard(
            cache,
            block.index,
            _windows_table(block),
            _documents_table(known, block, cutter.special_ids, pack=config.pack),
            n_special_tokens=block.n_special_tokens,
            cursor={"name": block_name(cache.cache_id, block), "ended": ended, **asdict(block.cursor)},
        )


def _cursor(row: WindowsShard) -> Cursor:
    return Cursor(**{key: value for key, value in row.cursor.items() if key not in ("name", "ended")})


def _windows_table(block: WindowBlock) -> pa.Table:
    bounds = pa.array(block.bounds, pa.int32())
    columns = {
        "window_id": np.arange(block.window_first, block.window_first + block.n_windows, dtype=np.int32),
        "doc_id": block.doc_ids,
        "start": block.starts,
        "token_ids": pa.ListArray.from_arrays(bounds, block.token_ids),
        "token_offsets": pa.ListArray.from_arrays(bounds, block.token_offsets),
        "text": pa.array(block.texts, pa.string()),
    }
    return pa.table(columns, schema=WINDOWS)


def _document_rows(cache: CacheStore, index: int) -> dict[int, Mapping[str, Any]]:
    return {row["doc_id"]: row for row in read_documents_shard(cache, index).to_pylist()}


def _with_documents(known: Mapping[int, Mapping[str, Any]], block: WindowBlock) -> dict[int, Mapping[str, Any]]:
    """Rows of the documents this block touches: one carried over from the block before, and its own."""
    fresh = {entry.doc_id: _document_row(entry.doc_id, entry.document, entry.n_tokens) for entry in block.documents}
    touched = {int(doc) for doc in block.doc_ids}
    return {doc: row for doc, row in known.items() if doc in touched} | fresh


def _document_row(doc_id: int, document: Document, n_tokens: int) -> dict[str, Any]:
    names = {key: getattr(document, key) for key in ("source", "domain", "path", "split")}
    return {"doc_id": doc_id, **names, "n_tokens": n_tokens}


def _documents_table(
    rows: Mapping[int, Mapping[str, Any]], block: WindowBlock, special: Iterable[int], *, pack: bool
) -> pa.Table:
    """``n_tokens`` counts this block's text tokens; a packed window shares its tokens between
    documents, so there a document counts whole where it begins.
    """
    is_text = ~np.isin(block.token_ids, np.asarray(special))
    per_window = np.add.reduceat(is_text, block.bounds[:-1])
    counts: dict[int, int] = {}
    for doc, n in zip(block.doc_ids.tolist(), per_window.tolist(), strict=True):
        counts[doc] = counts.get(doc, 0) + int(n)
    begun = {entry.doc_id: entry.n_tokens for entry in block.documents}
    counted = [{**row, "n_tokens": begun.get(doc, 0) if pack else counts[doc]} for doc, row in sorted(rows.items())]
    return pa.Table.from_pylist(counted, schema=DOCUMENTS)


def tasks(
    cache: CacheStore,
    config: CacheConfig,
    sources: Sequence[TextSource],
    recipes: Iterable[ShardRecipe],
    done: Mapping[SaeId, frozenset[str]],
) -> Iterator[Task]:
    """Yield one task a block; a block whose shards are all ``done`` yields one with nothing missing."""
    recipes = list(recipes)
    for block in blocks_wanted(cache, config, sources):
        names = [(recipe, recipe.shard_name(block)) for recipe in recipes]
        missing = tuple((str(recipe.sae), name) for recipe, name in names if name not in done[recipe.sae])
        yield Task(block.index, block.n_text_tokens, missing)


def nothing_missing(cache: CacheStore, config: CacheConfig, recipes: Sequence[ShardRecipe]) -> bool:
    """Whether all the text that ``config`` asks for is cut, and every shard of it made: then nobody need be started."""
    done = {recipe.sae: completed(cache, recipe.sae) for recipe in recipes}
    tokens = 0
    for row in windows_shards(cache):
        tokens += row.n_text_tokens
        last = tokens >= config.n_tokens or bool(row.cursor["ended"])
        if row.n_windows != config.shard_windows and not last:
            return False  # cut short by a smaller --n-tokens
        if any(recipe.shard_name(row) not in done[recipe.sae] for recipe in recipes):
            return False
        if last:
            return True
    return False


class BlockSource(Datasource):
    """Blocks as a Ray Data source of one streaming read task, a row a block that lacks a shard."""

    def __init__(
        self,
        workspace_url: str,
        cache_id: str,
        config: CacheConfig,
        sources: Sequence[TextSource],
        recipes: list[ShardRecipe],
    ) -> None:
        super().__init__()
        # Looked up once and here: a reader that Ray starts again must yield the same rows.
        cache = Workspace.open(workspace_url).cache(cache_id)
        done = {recipe.sae: frozenset(completed(cache, recipe.sae)) for recipe in recipes}
        self._args = (workspace_url, cache_id, config, sources, recipes, done)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown, and small: rows are names."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One task, whatever ``parallelism`` asks: windows are numbered in corpus order."""
        url, cache_id, config, sources, recipes, done = self._args

        def read() -> Iterator[pa.Table]:
            cache = Workspace.open(url).cache(cache_id)
            for task in tasks(cache, config, sources, recipes, done):
                if task.missing:
                    lines = "\n".join(f"{sae}\t{name}" for sae, name in task.missing)
                    yield pa.table({"block": [task.block], "missing": [lines]})

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, metadata)]
