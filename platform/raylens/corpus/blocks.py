"""Windows → blocks: the columnar unit that is stored, encoded and resumed (one shard of windows).

Every block but the last holds exactly ``windows_per_shard`` windows, whatever the token budget, so
a longer run makes the same blocks and adds to them. The last may hold fewer and is then marked
``partial``; as a name is a hash of content, the full block of a longer run has another name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from raylens.corpus.windows import START, Cursor, DocumentEntry, Window


@dataclass(frozen=True, slots=True)
class WindowBlock:
    """``n`` consecutive windows, ``t`` tokens in all (prefixes and separators included).

    Attributes:
        index: Which block of the corpus, from 0.
        window_first: ``window_id`` of the first; the rest follow without gaps.
        lengths: ``[n]`` int32, tokens of each window.
        token_ids: ``[t]`` int32, window after window.
        token_offsets: ``[t]`` int32, first character of each token in its window's text.
        doc_ids: ``[n]`` int32.
        starts: ``[n]`` int32, index of the first text token within its document.
        texts: ``n`` strings.
        documents: Documents that begin in this block, in order.
        n_text_tokens: Tokens that are not special.
        partial: Fewer windows than a block holds, because the budget or the corpus ended.
        cursor: The place after the block; a later run goes on from there unless ``partial``.
    """

    index: int
    window_first: int
    lengths: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    token_offsets: NDArray[np.int32]
    doc_ids: NDArray[np.int32]
    starts: NDArray[np.int32]
    texts: tuple[str, ...]
    documents: tuple[DocumentEntry, ...]
    n_text_tokens: int
    partial: bool
    cursor: Cursor

    @property
    def n_windows(self) -> int:
        return len(self.lengths)

    @property
    def n_tokens(self) -> int:
        """All tokens, special ones included."""
        return len(self.token_ids)

    @property
    def n_special_tokens(self) -> int:
        return self.n_tokens - self.n_text_tokens

    @property
    def bounds(self) -> NDArray[np.int64]:
        """``[n + 1]`` int64: window ``i`` holds tokens ``bounds[i] … bounds[i + 1] - 1``."""
        return np.append(np.int64(0), np.cumsum(self.lengths, dtype=np.int64))


def shards(
    windows: Iterable[Window], windows_per_shard: int, *, n_tokens: int | None = None, cursor: Cursor = START
) -> Iterator[WindowBlock]:
    """Group ``windows`` into blocks until their text tokens reach ``n_tokens``, windows kept whole.

    Args:
        windows: What :meth:`WindowCutter.cut` yields, from ``cursor`` on.
        windows_per_shard: Windows per block.
        n_tokens: Text tokens wanted in the whole corpus, those before ``cursor`` included; None for all.
            A corpus with fewer ends earlier: compare the last block's ``cursor.text_tokens``.
        cursor: Where ``windows`` begin: the end of a full block.

    Raises:
        ValueError: ``cursor`` is not at the end of a full block.
    """
    index, inside = divmod(cursor.next_window, windows_per_shard)
    if inside:
        raise ValueError(f"window {cursor.next_window} does not begin a block of {windows_per_shard}")
    wanted = _until(windows, n_tokens, cursor.text_tokens)
    while group := list(islice(wanted, windows_per_shard)):
        yield _block(index, group, windows_per_shard)
        index += 1


def _until(windows: Iterable[Window], n_tokens: int | None, have: int) -> Iterator[Window]:
    if n_tokens is not None and have >= n_tokens:
        return
    for window in windows:
        yield window
        if n_tokens is not None and window.cursor.text_tokens >= n_tokens:
            return


def _block(index: int, group: list[Window], windows_per_shard: int) -> WindowBlock:
    return WindowBlock(
        index=index,
        window_first=group[0].window_id,
        lengths=np.array([len(window.token_ids) for window in group], dtype=np.int32),
        token_ids=np.concatenate([window.token_ids for window in group]),
        token_offsets=np.concatenate([window.token_offsets for window in group]),
        doc_ids=np.array([window.doc_id for window in group], dtype=np.int32),
        starts=np.array([window.start for window in group], dtype=np.int32),
        texts=tuple(window.text for window in group),
        documents=tuple(entry for window in group for entry in window.begins),
        n_text_tokens=sum(window.n_text_tokens for window in group),
        partial=len(group) < windows_per_shard,
        cursor=group[-1].cursor,
    )


def block_name(cache_id: str, block: WindowBlock) -> str:
    """``<index>-<16 hex>``: a hash of what determines the block's activations, given its cache.

    The cache's id stands for model, tokenizer and text; the block adds its place and its tokens.
    """
    content = hashlib.sha256(f"{cache_id}/{block.index}/{block.window_first}/{block.n_windows}".encode())
    for column in (block.lengths, block.token_ids, block.doc_ids, block.starts):
        content.update(np.ascontiguousarray(column, dtype="<i4").tobytes())
    return f"{block.index:08d}-{content.hexdigest()[:16]}"
