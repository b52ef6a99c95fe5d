"""Windows cover the corpus: every token once, no overlap, no crossing; a slow cutter beside the fast one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.corpus import START, Cursor, Document, TokenizedDocument, Window, WindowCutter, skip
from raylens.errors import CorpusError, InputError

BOS, SEPARATOR, SPECIAL = 1, 2, 3


def tokenized(text: str, cuts: list[int], ids: list[int], path: str = "d") -> TokenizedDocument:
    """Tokens that are pieces of the text's UTF-8 bytes, as in a byte-level vocabulary."""
    data = text.encode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    character = [index for index, one in enumerate(text) for _ in one.encode()]
    spans = [(character[a], character[b - 1] + 1) for a, b in pairwise(edges)]
    return TokenizedDocument(
        Document(text, "s", ".", path, "all"),
        text,
        np.array([ids[i % len(ids)] for i in range(len(spans))], dtype=np.int32),
        np.array([first for first, _ in spans], dtype=np.int32),
        np.array([end for _, end in spans], dtype=np.int32),
    )


documents = st.lists(
    st.builds(
        tokenized,
        st.text("ab é日🙂\n", max_size=12),
        st.lists(st.integers(0, 60), max_size=25),
        st.lists(st.integers(0, 9), min_size=1, max_size=9),
    ),
    max_size=8,
)
cutters = st.builds(
    lambda ctx_len, n_prefix, pack, separator: WindowCutter(
        ctx_len + n_prefix, prefix=[BOS] * n_prefix, special_ids=[SPECIAL], pack=pack, separator=separator
    ),
    st.integers(1, 9),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([None, SEPARATOR]),
)


def slow_cut(cutter: WindowCutter, docs: list[TokenizedDocument]) -> list[list[tuple[int, int, int]]]:
    """Oracle: windows as lists of (doc_id, token index, id), the prefix left out; -1 for a separator."""
    windows: list[list[tuple[int, int, int]]] = []
    current: list[tuple[int, int, int]] = []
    for doc_id, doc in enumerate([doc for doc in docs if len(doc.ids)]):
        for index, token in enumerate(doc.ids.tolist()):
            if index == 0 and current and not cutter.pack:
                windows.append(current)
                current = []
            if index == 0 and current and cutter.separator is not None:
                current.append((-1, -1, cutter.separator))
                if len(current) == cutter.room:
                    windows.append(current)
                    current = []
            current.append((doc_id, index, token))
            if len(current) == cutter.room:
                windows.append(current)
                current = []
    return [*windows, current] if current else windows


def same(left: Window, right: Window) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("window_id", "doc_id", "start", "char_start", "token_ids", "token_offsets", "text", "cursor")
    ) and [e.doc_id for e in left.begins] == [e.doc_id for e in right.begins]


@given(documents, cutters)
def test_the_cutter_equals_the_slow_one(docs: list[TokenizedDocument], cutter: WindowCutter) -> None:
    expected = slow_cut(cutter, docs)
    kept = [doc for doc in docs if len(doc.ids)]
    windows = list(cutter.cut(docs))
    assert [w.window_id for w in windows] == list(range(len(expected)))
    special = {BOS, SPECIAL} if len(cutter.prefix) else {SPECIAL}
    special |= {SEPARATOR} if cutter.separator is not None else set()
    for window, tokens in zip(windows, expected, strict=True):
        assert window.token_ids.tolist() == [*cutter.prefix.tolist(), *(token for _, _, token in tokens)]
        assert (window.doc_id, window.start) == tokens[0][:2]
        assert window.n_text_tokens == sum(token not in special for _, _, token in tokens)
        assert [e.doc_id for e in window.begins] == [doc_id for doc_id, index, _ in tokens if index == 0]
        for entry in window.begins:
            assert entry.document is kept[entry.doc_id].document
            assert entry.n_tokens == sum(token not in special for token in kept[entry.doc_id].ids.tolist())
        assert window.token_ids.dtype == window.token_offsets.dtype == np.int32


@given(documents, cutters)
def test_every_token_is_in_one_window_and_none_crosses(docs: list[TokenizedDocument], cutter: WindowCutter) -> None:
    windows = list(cutter.cut(docs))
    n_prefix = len(cutter.prefix)
    lengths = [len(window.token_ids) for window in windows]
    assert all(n_prefix < length <= n_prefix + cutter.room for length in lengths)
    if cutter.pack:
        assert all(length == n_prefix + cutter.room for length in lengths[:-1])
        return
    kept = [doc for doc in docs if len(doc.ids)]
    for doc_id, doc in enumerate(kept):
        mine = [window for window in windows if window.doc_id == doc_id]
        assert np.array_equal(np.concatenate([window.token_ids[n_prefix:] for window in mine]), doc.ids)
        assert [window.start for window in mine] == list(range(0, len(doc.ids), cutter.room))
        assert all(len(window.token_ids) == n_prefix + cutter.room for window in mine[:-1])
    assert sum(lengths) == sum(len(doc.ids) for doc in kept) + n_prefix * len(windows)


@given(documents, cutters)
def test_texts_join_to_the_document(docs: list[TokenizedDocument], cutter: WindowCutter) -> None:
    """Exactly, but for a character whose tokens lie on both sides of a border: both texts hold that one."""
    if cutter.pack:
        cutter = WindowCutter(cutter.room, pack=False)
    windows = list(cutter.cut(docs))
    for doc_id, doc in enumerate(doc for doc in docs if len(doc.ids)):
        mine = [window for window in windows if window.doc_id == doc_id]
        joined = mine[0].text
        for before, after in pairwise(mine):
            overlap = before.char_start + len(before.text) - after.char_start
            split = doc.offsets[after.start] < doc.ends[after.start - 1]
            assert overlap == int(split)
            joined += after.text[overlap:]
        assert joined == doc.text


@given(documents, cutters)
def test_offsets_point_at_each_tokens_text(docs: list[TokenizedDocument], cutter: WindowCutter) -> None:
    kept = [doc for doc in docs if len(doc.ids)]
    n_prefix = len(cutter.prefix)
    for window, tokens in zip(cutter.cut(docs), slow_cut(cutter, docs), strict=True):
        offsets = window.token_offsets.tolist()
        assert offsets == sorted(offsets)
        assert offsets[:n_prefix] == [0] * n_prefix
        assert offsets[n_prefix] == 0
        assert max(offsets) <= len(window.text)
        for offset, (doc_id, index, _) in zip(offsets[n_prefix:], tokens, strict=True):
            if doc_id >= 0:
                first, end = int(kept[doc_id].offsets[index]), int(kept[doc_id].ends[index])
                wanted = kept[doc_id].text[first:end]
                assert window.text[offset : offset + end - first] == wanted


@given(documents, cutters)
def test_cutting_goes_on_from_any_cursor(docs: list[TokenizedDocument], cutter: WindowCutter) -> None:
    windows = list(cutter.cut(docs))
    for index, window in enumerate(windows):
        rest = list(cutter.cut(skip(docs, window.cursor), window.cursor))
        assert len(rest) == len(windows) - index - 1
        assert all(map(same, rest, windows[index + 1 :]))
    if windows:
        last = windows[-1].cursor
        assert last.tokens == 0
        assert last.documents - last.dropped == last.next_document == sum(len(doc.ids) > 0 for doc in docs)
        assert last.text_tokens == sum(window.n_text_tokens for window in windows)


def test_blank_documents_are_dropped_and_counted() -> None:
    docs = [tokenized("", [], [5]), tokenized("ab", [1], [5]), tokenized("", [], [5]), tokenized("c", [], [6])]
    windows = list(WindowCutter(8).cut(docs))
    assert [(w.doc_id, w.text) for w in windows] == [(0, "ab"), (1, "c")]
    assert windows[-1].cursor == Cursor(documents=4, next_document=2, next_window=2, text_tokens=3, dropped=2)


def test_packing_joins_documents_by_the_separator() -> None:
    docs = [tokenized("abc", [1, 2], [7, 8, 9]), tokenized("de", [1], [5, 6]), tokenized("f", [], [4])]
    cutter = WindowCutter(6, prefix=[BOS], pack=True, separator=SEPARATOR)
    first, second = cutter.cut(docs)
    assert first.token_ids.tolist() == [BOS, 7, 8, 9, SEPARATOR, 5]
    assert first.token_offsets.tolist() == [0, 0, 1, 2, 3, 3]
    assert (first.text, first.n_text_tokens, len(first.begins)) == ("abcd", 4, 2)
    assert second.token_ids.tolist() == [BOS, 6, SEPARATOR, 4]
    assert (second.text, second.doc_id, second.start) == ("ef", 1, 1)


def test_a_separator_may_end_a_window_and_never_begins_one() -> None:
    docs = [tokenized("abc", [1, 2], [7, 8, 9]), tokenized("defg", [1, 2, 3], [4, 5, 6])]
    assert [w.token_ids.tolist() for w in WindowCutter(4, pack=True, separator=SEPARATOR).cut(docs)] == [
        [7, 8, 9, SEPARATOR],
        [4, 5, 6, 4],
    ]
    assert [w.token_ids.tolist() for w in WindowCutter(3, pack=True, separator=SEPARATOR).cut(docs)] == [
        [7, 8, 9],
        [4, 5, 6],
        [4],
    ]


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="has no room beside the 2"):
        WindowCutter(2, prefix=[BOS, BOS])


def test_a_document_that_changed_under_a_cursor_is_refused() -> None:
    docs = [tokenized("abcdef", [1, 2, 3, 4, 5], [7])]
    cutter = WindowCutter(4)
    cursor = next(cutter.cut(docs)).cursor
    assert (cursor.documents, cursor.tokens) == (0, 4)
    with pytest.raises(CorpusError, match="has changed"):
        list(cutter.cut([tokenized("ab", [1], [7])], cursor))
    assert Cursor() == START
