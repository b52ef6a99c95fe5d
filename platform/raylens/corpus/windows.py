"""Tokenised documents → windows: the sequences a model sees.

A window holds at most ``ctx_len`` tokens, of which the first are the prefix (BOS) that the
tokenizer would have added. Every token of every document is in exactly one window.

Without ``pack`` a window never crosses documents, and the last window of a document is shorter.
With ``pack`` windows run on into the next document, so that all but the last of the corpus are
full; where two documents meet inside a window one ``separator`` token stands after the first.
The separator is nobody's token: it has no characters and is not counted. Where a document ends
exactly with its window the boundary separates, and no separator is written.

A window's text is the documents' text that its tokens stand for. Joined in order, the texts of a
document's windows are the document, with one exception: where a character is spelled by tokens on
both sides of a border (a byte-level vocabulary splits rare characters), both texts hold it, so
they overlap by that character. ``Window.char_start`` says where each text begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raylens.corpus.document import Document
from raylens.corpus.tokenize import TokenizedDocument
from raylens.errors import CorpusError, InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two windows of a corpus, from which cutting can go on.

    Attributes:
        documents: Documents of the stream that lie wholly before it, dropped ones included.
        tokens: Tokens of the next document that lie before it; 0 between documents.
        next_document: ``doc_id`` of that next document: those before it, without the dropped.
        next_window: ``window_id`` of the next window.
        text_tokens: Text tokens (not special) in all windows before it.
        dropped: Documents before it that were blank or encoded to nothing.
    """

    documents: int = 0
    tokens: int = 0
    next_document: int = 0
    next_window: int = 0
    text_tokens: int = 0
    dropped: int = 0


START = Cursor()


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """A document that a window begins; ``n_tokens`` counts its text tokens, special ones left out."""

    doc_id: int
    document: Document
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        window_id: Dense, in corpus order.
        doc_id: Document of its first token after the prefix.
        start: Index of that token among its document's tokens.
        char_start: Where ``text`` begins in that document's text, in characters.
        token_ids: ``[n]`` int32, prefix included, ``n <= ctx_len``.
        token_offsets: ``[n]`` int32, first character of each token in ``text``; prefix tokens have 0.
        text: The text of its tokens.
        n_text_tokens: Tokens that are not special.
        begins: Documents whose first token it holds.
        cursor: The place after it.
    """

    window_id: int
    doc_id: int
    start: int
    char_start: int
    token_ids: NDArray[np.int32]
    token_offsets: NDArray[np.int32]
    text: str
    n_text_tokens: int
    begins: tuple[DocumentEntry, ...]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens ``first … last - 1`` of one document, on their way into a window."""

    doc_id: int
    source: TokenizedDocument
    first: int
    last: int

    @property
    def char_start(self) -> int:
        return int(self.source.offsets[self.first])

    @property
    def text(self) -> str:
        return self.source.text[self.char_start : int(self.source.ends[self.last - 1])]


@dataclass(slots=True)
class _Open:
    """The window being filled."""

    pieces: list[_Piece] = field(default_factory=list)
    begins: list[DocumentEntry] = field(default_factory=list)
    n_tokens: int = 0  # separators included, prefix not
    n_text_tokens: int = 0


class WindowCutter:
    """Cuts tokenised documents into windows of ``ctx_len`` tokens."""

    def __init__(
        self,
        ctx_len: int,
        *,
        prefix: Iterable[int] = (),
        special_ids: Iterable[int] = (),
        pack: bool = False,
        separator: int | None = None,
    ) -> None:
        """Set the rules.

        Args:
            ctx_len: Tokens per window, the prefix included.
            prefix: Ids at the start of every window, often just BOS.
            special_ids: All ids that are not text; prefix and separator are special anyhow.
            pack: Let windows run across documents.
            separator: Id between two documents of one packed window (EOS or BOS); None joins them directly.

        Raises:
            InputError: the prefix leaves no room for text.
        """
        self.prefix = np.array(list(prefix), dtype=np.int32)
        self.room = ctx_len - len(self.prefix)
        if self.room < 1:
            raise InputError(
                f"a context of {ctx_len} tokens has no room beside the {len(self.prefix)} that the tokenizer adds.",
                hint="raise --ctx-len.",
            )
        self.pack = pack
        self.separator = separator if pack else None
        extra = () if self.separator is None else (self.separator,)
        self.special_ids = np.unique(np.array([*special_ids, *self.prefix.tolist(), *extra], dtype=np.int32))

    def cut(self, documents: Iterable[TokenizedDocument], cursor: Cursor = START) -> Iterator[Window]:
        """Cut ``documents``, the stream from ``cursor`` on (see :func:`skip`), into windows.

        Raises:
            CorpusError: the document at ``cursor`` is shorter than it was.
        """
        opened = _Open()
        for source in documents:
            n = len(source.ids)
            if not n:
                cursor = replace(cursor, documents=cursor.documents + 1, dropped=cursor.dropped + 1)
                continue
            if cursor.tokens >= n:
                raise CorpusError(
                    f"{source.document.path} of {source.document.source} has changed since this run began.",
                    hint="restore it, or start a new cache of the text as it is now.",
                )
            if opened.pieces and self._separated(opened):
                yield (window := self._close(opened, cursor))
                opened, cursor = _Open(), window.cursor
            is_text = np.append(0, np.cumsum(~np.isin(source.ids, self.special_ids)))
            doc_id, first = cursor.next_document, cursor.tokens
            if not first:
                opened.begins.append(DocumentEntry(doc_id, source.document, int(is_text[-1])))
            while first < n:
                last = min(n, first + self.room - opened.n_tokens)
                opened.pieces.append(_Piece(doc_id, source, first, last))
                opened.n_tokens += last - first
                opened.n_text_tokens += int(is_text[last] - is_text[first])
                first = last
                ended = last == n
                cursor = replace(
                    cursor,
                    documents=cursor.documents + ended,
                    tokens=0 if ended else last,
                    next_document=doc_id + ended,
                )
                if opened.n_tokens == self.room or (ended and not self.pack):
                    yield (window := self._close(opened, cursor))
                    opened, cursor = _Open(), window.cursor
        if opened.pieces:
            yield self._close(opened, cursor)

    def _separated(self, opened: _Open) -> bool:
        """Put the separator before a next document; whether that filled the window."""
        opened.n_tokens += self.separator is not None
        return opened.n_tokens == self.room

    def _close(self, opened: _Open, cursor: Cursor) -> Window:
        pieces = opened.pieces
        ids, offsets, texts, length = [self.prefix], [np.zeros_like(self.prefix)], [], 0
        n_separators = opened.n_tokens - sum(piece.last - piece.first for piece in pieces)
        separator = np.array([self.separator] if n_separators else [], dtype=np.int32)
        for index, piece in enumerate(pieces):
            text = piece.text
            ids.append(piece.source.ids[piece.first : piece.last])
            offsets.append(piece.source.offsets[piece.first : piece.last] + np.int32(length - piece.char_start))
            texts.append(text)
            length += len(text)
            if index < n_separators:
                ids.append(separator)
                offsets.append(np.full_like(separator, length))
        return Window(
            window_id=cursor.next_window,
            doc_id=pieces[0].doc_id,
            start=pieces[0].first,
            char_start=pieces[0].char_start,
            token_ids=np.concatenate(ids),
            token_offsets=np.concatenate(offsets),
            text="".join(texts),
            n_text_tokens=opened.n_text_tokens,
            begins=tuple(opened.begins),
            cursor=replace(
                cursor,
                next_window=cursor.next_window + 1,
                text_tokens=cursor.text_tokens + opened.n_text_tokens,
            ),
        )


def skip(documents: Iterable[T], cursor: Cursor) -> Iterator[T]:
    """The documents from ``cursor`` on: those wholly before it are passed over, untokenised."""
    return islice(documents, cursor.documents, None)
