"""Token ids → the text they stand for: for windows that were cut elsewhere, of which only the ids came along."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raylens.corpus.tokenize import TextTokenizer, surface_table

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer


class Speller:
    """Spells windows by a tokenizer's vocabulary.

    Where the vocabulary spells bytes (byte-level, SentencePiece) the text is exactly what was tokenised, but for
    bytes at a window's ends that are part of a character: they become U+FFFD. Elsewhere each token is decoded alone.

    Args:
        tokenizer: A transformers tokenizer.
        special_ids: Ids that stand for no text (BOS, separators, padding).
    """

    def __init__(self, tokenizer: TextTokenizer, special_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        backend: FastTokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._table = surface_table(backend) if backend is not None else None
        self._spelled: dict[int, bytes] = dict.fromkeys(special_ids, b"")

    def text(self, ids: Sequence[int]) -> tuple[str, NDArray[np.int32]]:
        """The text of a window, and ``[len(ids)]`` int32, the first character of each token in it.

        As in :mod:`raylens.corpus.offsets`: a token starts at the first character that any of its bytes belongs
        to, so the tokens that spell one character together start there.
        """
        parts = [self._spell(token) for token in ids]
        data = b"".join(parts)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return _decode_leniently(parts)
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        if len(text) != len(data):
            begins_character = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
            starts = np.append(np.cumsum(begins_character) - 1, len(text))[starts]
        return text, starts.astype(np.int32)

    def _spell(self, token: int) -> bytes:
        found = self._spelled.get(token)
        if found is None:
            if self._table is not None:
                found = self._table.spell(token)
            else:
                found = str(self._tokenizer.decode([token])).encode("utf-8", "replace")
            self._spelled[token] = found
        return found


def _decode_leniently(parts: Sequence[bytes]) -> tuple[str, NDArray[np.int32]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    starts, texts, length = [], [], 0
    for part in parts:
        starts.append(length)
        texts.append(decoder.decode(part))
        length += len(texts[-1])
    texts.append(decoder.decode(b"", final=True))
    return "".join(texts), np.array(starts, np.int32)
