"""Order of documents: a permutation, stable in its prefix, in bounded memory; slow oracles beside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.corpus.document import Document
from raylens.sources.mix import interleave, shuffle


def doc(text: str, path: str = "") -> Document:
    return Document(text, "s", ".", path, "all")


def docs(sizes: list[int], path: str = "") -> list[Document]:
    return [doc("x" * size, f"{path}{i}") for i, size in enumerate(sizes)]


sizes = st.lists(st.integers(0, 30), max_size=60)
buffers = st.tuples(st.integers(1, 20), st.integers(1, 200))


class Watched:
    """A stream that counts what it gave."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents, self.given = documents, 0

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            self.given += 1
            yield document


@given(sizes, buffers, st.integers(0, 2**40))
def test_shuffling_permutes(lengths: list[int], buffer: tuple[int, int], seed: int) -> None:
    documents = docs(lengths)
    shuffled = list(shuffle(documents, seed, max_documents=buffer[0], max_bytes=buffer[1]))
    assert Counter(shuffled) == Counter(documents)


@given(sizes, sizes, buffers, st.integers(0, 1000), st.integers(0, 60))
def test_taking_more_only_extends(
    lengths: list[int], more: list[int], buffer: tuple[int, int], seed: int, taken: int
) -> None:
    def order(documents: list[Document]) -> Iterator[Document]:
        return shuffle(documents, seed, max_documents=buffer[0], max_bytes=buffer[1])

    documents = docs(lengths)
    assert list(islice(order(documents), taken)) == list(order(documents))[:taken]
    # What came out before the stream ended does not depend on how it goes on.
    stream = Watched(documents)
    before_the_end = []
    for document in shuffle(stream, seed, max_documents=buffer[0], max_bytes=buffer[1]):
        if stream.given == len(documents):
            break
        before_the_end.append(document)
    assert list(order(documents + docs(more, "m")))[: len(before_the_end)] == before_the_end


@given(sizes, buffers, st.integers(0, 1000))
def test_the_buffer_is_bounded(lengths: list[int], buffer: tuple[int, int], seed: int) -> None:
    stream = Watched(docs(lengths))
    emitted: list[Document] = []
    for document in shuffle(stream, seed, max_documents=buffer[0], max_bytes=buffer[1]):
        emitted.append(document)
        held = list((Counter(stream.documents[: stream.given]) - Counter(emitted)).elements())
        # Held beyond the buffer: the one document that is about to go in.
        inside = held[:-1] if stream.given < len(stream.documents) else held
        n_bytes = sum(d.memory_bytes for d in held) - max((d.memory_bytes for d in held), default=0)
        assert len(inside) <= buffer[0]
        assert n_bytes <= buffer[1]


def test_a_corpus_that_fits_is_shuffled_as_one() -> None:
    """Oracle: drawing from the whole list, swapping the last into the gap."""
    documents = docs([3] * 200)
    draw, pool, expected = random.Random(5), list(documents), []
    while pool:
        index = draw.randrange(len(pool))
        pool[index], pool[-1] = pool[-1], pool[index]
        expected.append(pool.pop())
    assert list(shuffle(documents, 5)) == expected
    assert expected != documents


def test_seeds_differ_and_a_negative_one_keeps_the_order() -> None:
    documents = docs([1] * 50)
    orders = {tuple(d.path for d in shuffle(documents, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert list(shuffle(documents, -1)) == documents


def test_memory_is_counted_from_content_alone() -> None:
    assert doc("abc").memory_bytes == 3
    assert doc("añc").memory_bytes == 12
    chat = Document("", "s", ".", "p", "all", ({"role": "user", "content": "añ"}, {"role": "a", "content": "xy"}))
    assert (chat.characters, chat.memory_bytes) == (4, 10)


@given(st.lists(sizes, min_size=1, max_size=4))
def test_interleaving_matches_the_obvious_loop(streams: list[list[int]]) -> None:
    named = [docs(lengths, f"{index}/") for index, lengths in enumerate(streams)]
    queues, given_characters, expected = [list(s) for s in named], [0] * len(named), []
    while any(queues):
        live = [i for i, queue in enumerate(queues) if queue]
        index = min(live, key=lambda i: given_characters[i])
        document = queues[index].pop(0)
        given_characters[index] += max(1, len(document.text))
        expected.append(document)
    assert list(interleave(named)) == expected


@pytest.mark.parametrize("n", [2, 3])
def test_sources_get_equal_shares_of_text_while_they_last(n: int) -> None:
    streams = [docs([(index + 1) * 10] * 200, f"{index}/") for index in range(n)]
    taken = list(islice(interleave(streams), 150))
    shares = Counter()
    for document in taken:
        shares[document.path.partition("/")[0]] += len(document.text)
    assert max(shares.values()) - min(shares.values()) <= 10 * n
