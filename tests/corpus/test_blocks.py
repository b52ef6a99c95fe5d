"""Blocks are the same whatever the token budget, and a run goes on from any full one."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.corpus import (
    START,
    Cursor,
    Document,
    TokenizedDocument,
    WindowBlock,
    WindowCutter,
    block_name,
    shards,
    skip,
)


def tokenized(n: int, seed: int) -> TokenizedDocument:
    ids = np.random.default_rng(seed).integers(0, 6, n).astype(np.int32)
    places = np.arange(n, dtype=np.int32)
    return TokenizedDocument(Document("x" * n, "s", ".", f"d{seed}", "all"), "x" * n, ids, places, places + 1)


corpora = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 99)), max_size=10).map(
    lambda pairs: [tokenized(*pair) for pair in pairs]
)
cutters = st.builds(
    lambda room, pack: WindowCutter(room + 1, prefix=[0], special_ids=[0, 5], pack=pack, separator=5),
    st.integers(1, 8),
    st.booleans(),
)


def blocks_of(
    docs: list[TokenizedDocument],
    cutter: WindowCutter,
    size: int,
    n_tokens: int | None = None,
    cursor: Cursor = START,
) -> list[WindowBlock]:
    windows = cutter.cut(skip(docs, cursor), cursor)
    return list(shards(windows, size, n_tokens=n_tokens, cursor=cursor))


def same(left: WindowBlock, right: WindowBlock) -> bool:
    return all(np.array_equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(WindowBlock))


@given(corpora, cutters, st.integers(1, 5))
def test_blocks_hold_the_windows_in_columns(docs: list[TokenizedDocument], cutter: WindowCutter, size: int) -> None:
    windows = list(cutter.cut(docs))
    blocks = blocks_of(docs, cutter, size)
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert [block.n_windows for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert [block.partial for block in blocks] == [block.n_windows < size for block in blocks]
    for block in blocks:
        for i in range(block.n_windows):
            window = windows[block.window_first + i]
            cut = slice(*block.bounds[i : i + 2])
            assert np.array_equal(block.token_ids[cut], window.token_ids)
            assert np.array_equal(block.token_offsets[cut], window.token_offsets)
            assert (block.doc_ids[i], block.starts[i], block.texts[i]) == (window.doc_id, window.start, window.text)
        is_special = np.isin(block.token_ids, [0, 5])
        assert (block.n_special_tokens, block.n_text_tokens) == (is_special.sum(), (~is_special).sum())
    assert sum(block.n_windows for block in blocks) == len(windows)
    entries = [entry for block in blocks for entry in block.documents]
    assert [entry.doc_id for entry in entries] == list(range(sum(len(doc.ids) > 0 for doc in docs)))


@given(corpora, cutters, st.integers(1, 5), st.integers(1, 200), st.integers(0, 200))
def test_a_longer_run_extends_a_shorter_one(
    docs: list[TokenizedDocument], cutter: WindowCutter, size: int, n_tokens: int, more: int
) -> None:
    short, long = blocks_of(docs, cutter, size, n_tokens), blocks_of(docs, cutter, size, n_tokens + more)
    full = [block for block in short if not block.partial]
    assert all(map(same, full, long))
    assert [block_name("c", block) for block in full] == [block_name("c", block) for block in long[: len(full)]]
    if len(short) > len(full):
        assert short[-1].partial
        last, counterpart = short[-1], long[len(full)]
        assert np.array_equal(counterpart.token_ids[: last.n_tokens], last.token_ids)
        same_windows = last.n_windows == counterpart.n_windows
        assert (block_name("c", last) == block_name("c", counterpart)) == same_windows


@given(corpora, cutters, st.integers(1, 5), st.integers(1, 200))
def test_the_budget_is_met_by_whole_windows_and_no_more(
    docs: list[TokenizedDocument], cutter: WindowCutter, size: int, n_tokens: int
) -> None:
    windows = list(cutter.cut(docs))
    blocks = blocks_of(docs, cutter, size, n_tokens)
    counts = np.cumsum([window.n_text_tokens for window in windows])
    enough = np.flatnonzero(counts >= n_tokens)
    expected = int(enough[0]) + 1 if len(enough) else len(windows)
    assert sum(block.n_windows for block in blocks) == expected
    if blocks:
        assert blocks[-1].cursor.text_tokens == counts[expected - 1]


@given(corpora, cutters, st.integers(1, 5), st.integers(1, 200), st.integers(0, 50))
def test_a_run_goes_on_after_any_full_block(
    docs: list[TokenizedDocument], cutter: WindowCutter, size: int, n_tokens: int, place: int
) -> None:
    blocks = blocks_of(docs, cutter, size, n_tokens)
    for index, block in enumerate(blocks):
        if not block.partial and place % len(blocks) == index:
            rest = blocks_of(docs, cutter, size, n_tokens, block.cursor)
            assert len(rest) == len(blocks) - index - 1
            assert all(map(same, rest, blocks[index + 1 :]))


def test_going_on_inside_a_block_is_an_error() -> None:
    docs = [tokenized(40, 1)]
    cutter = WindowCutter(4)
    [block] = blocks_of(docs, cutter, 5, 8)
    assert block.partial
    with pytest.raises(ValueError, match="does not begin a block"):
        blocks_of(docs, cutter, 5, 40, block.cursor)


def test_names_change_with_cache_place_and_content() -> None:
    cutter = WindowCutter(4)
    blocks = blocks_of([tokenized(40, 1)], cutter, 2)
    others = blocks_of([tokenized(40, 2)], cutter, 2)
    names = {block_name(cache, block) for cache in ("a", "b") for block in [*blocks, *others]}
    assert len(names) == 2 * len([*blocks, *others])
    assert block_name("a", blocks[1]).startswith("00000001-")
    assert len(block_name("a", blocks[1])) == 25
