"""Excerpts hold the document's own tokens and each token's own activation, also across windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.examples.cut import Look, WindowTokens, cut_around, cut_piece, peak_place
from raylens.examples.pieces import FeatureRows

BOS = 99


class Corpus:
    """Documents of one-word tokens, cut into windows as a cache holds them; ``fires`` by (document, token)."""

    def __init__(self, lengths: list[int], ctx_len: int, n_prefix: int, fires: dict[tuple[int, int], float]) -> None:
        self.windows: list[WindowTokens] = []
        self.place: dict[tuple[int, int], tuple[int, int]] = {}
        for doc_id, length in enumerate(lengths):
            for start in range(0, length, ctx_len):
                own = range(start, min(length, start + ctx_len))
                words = [f"d{doc_id}t{token} " for token in own]
                offsets = [0] * n_prefix + np.cumsum([0, *map(len, words)])[:-1].tolist()
                ids = [BOS] * n_prefix + [doc_id * 1000 + token for token in own]
                for k, token in enumerate(own):
                    self.place[doc_id, token] = (len(self.windows), n_prefix + k)
                self.windows.append(
                    WindowTokens(
                        len(self.windows), doc_id, start, np.array(ids, np.int32), np.array(offsets, np.int32),
                        "".join(words), n_prefix,
                    )
                )  # fmt: skip
        rows = [(*self.place[key], value) for key, value in fires.items()] + [(0, 0, 9.0)] * bool(n_prefix)
        window, position, value = (np.array(column) for column in zip(*rows, strict=True))
        self.rows = FeatureRows.of(
            window.astype(np.int32), position.astype(np.int16), value.astype(np.float32), n_prefix
        )

    @property
    def look(self) -> Look:
        return lambda i: self.windows[i] if 0 <= i < len(self.windows) else None


@given(st.data())
def test_a_centred_excerpt_is_the_document_around_its_peak(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    ctx_len, n_prefix = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 2))
    length = data.draw(st.integers(1, 16))
    places = [(doc, token) for doc, n in enumerate(lengths) for token in range(n)]
    fires = data.draw(st.dictionaries(st.sampled_from(places), st.integers(1, 9).map(float), min_size=1))
    corpus = Corpus(lengths, ctx_len, n_prefix, fires)
    doc, token = data.draw(st.sampled_from(places))
    window, position = corpus.place[doc, token]
    found = cut_around(corpus.rows, corpus.look, window, position, length, 7)
    # The oracle, along the document.
    n = min(length, lengths[doc])
    first = max(0, min(token - peak_place(length), lengths[doc] - n))
    expected = range(first, first + n)
    assert found.token_ids.tolist() == [doc * 1000 + one for one in expected]
    assert found.tokens == tuple(f"d{doc}t{one} " for one in expected)
    assert found.activations.tolist() == [fires.get((doc, one), 0.0) for one in expected]
    assert (found.window_id, found.doc_id, found.quantile) == (window, doc, 7)
    assert found.start == first - corpus.windows[window].start
    if peak_place(length) <= token <= lengths[doc] - (length - peak_place(length)):
        assert expected[peak_place(length)] == token


def test_a_piece_is_cut_at_its_own_place_and_the_last_is_shorter() -> None:
    corpus = Corpus([10], 6, 1, {(0, 2): 3.0, (0, 7): 5.0})
    first = cut_piece(corpus.rows, corpus.look, 0, 0, 4, None)
    assert first.text == "d0t0 d0t1 d0t2 d0t3 "
    assert (first.activations.tolist(), first.peak, first.start) == ([0, 0, 3, 0], 3.0, 0)
    last = cut_piece(corpus.rows, corpus.look, 0, 1, 4, 2)
    assert last.tokens == ("d0t4 ", "d0t5 ")
    assert (last.is_active, last.quantile, last.start) == (False, 2, 4)
    assert BOS not in [*first.token_ids, *last.token_ids]


@pytest.mark.parametrize("gap", ["document", "missing"])
def test_windows_that_do_not_go_on_are_not_joined(gap: str) -> None:
    corpus = Corpus([6, 6] if gap == "document" else [18], 6, 0, {(0, 5): 1.0})
    if gap == "missing":
        del corpus.windows[1]
        corpus.windows[1] = WindowTokens(
            1, 0, 12, corpus.windows[1].token_ids, corpus.windows[1].offsets, corpus.windows[1].text, 0
        )
    found = cut_around(corpus.rows, corpus.look, 0, 5, 8, None)
    assert found.tokens == tuple(f"d0t{k} " for k in range(6))
