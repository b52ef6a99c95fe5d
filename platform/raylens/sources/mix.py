"""Streams of documents → one stream, in an order that depends on the content and the seed alone.

Both steps look only backwards, so taking more documents extends what came before and never
changes it: raising ``--n-tokens`` reuses every window there is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from raylens.corpus.document import Document

BUFFER_DOCUMENTS = 10_000
BUFFER_BYTES = 64 * 1024 * 1024


def interleave(streams: Sequence[Iterable[Document]]) -> Iterator[Document]:
    """Mix ``streams`` in equal shares of text, each in its own order, until all have ended.

    Next comes a document of whichever stream has given the fewest characters so far (the first
    named, where several have). A blank document counts as one character.
    """
    iterators = {index: iter(stream) for index, stream in enumerate(streams)}
    given = dict.fromkeys(iterators, 0)
    while iterators:
        index = min(iterators, key=lambda i: (given[i], i))
        document = next(iterators[index], None)
        if document is None:
            del iterators[index]
            continue
        given[index] += max(1, document.characters)
        yield document


def shuffle(
    documents: Iterable[Document],
    seed: int,
    *,
    max_documents: int = BUFFER_DOCUMENTS,
    max_bytes: int = BUFFER_BYTES,
) -> Iterator[Document]:
    """Shuffle through a bounded buffer; a negative seed keeps the order.

    The buffer is filled up to ``max_documents`` or ``max_bytes`` of text, one document drawn at
    random, and filled up again. So a corpus that fits the buffer is shuffled wholly, and a document
    of a larger one comes at most a buffer early. Beyond the buffer one document is held: the next.
    """
    if seed < 0:
        yield from documents
        return
    # random.Random draws the same numbers on every platform and Python; NumPy promises less.
    draw = random.Random(seed)
    buffer: list[Document] = []
    held = 0
    for document in documents:
        size = document.memory_bytes
        while buffer and (len(buffer) >= max_documents or held + size > max_bytes):
            chosen = _take(buffer, draw)
            held -= chosen.memory_bytes
            yield chosen
        buffer.append(document)
        held += size
    while buffer:
        yield _take(buffer, draw)


def _take(buffer: list[Document], draw: random.Random) -> Document:
    index = draw.randrange(len(buffer))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
