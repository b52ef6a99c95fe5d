"""Which characters each token stands for.

A token *starts* at the first character any of its bytes belongs to, its leading space included;
it *ends* after the last. Three ways lead there:

* :class:`SurfaceTable`, the fast one: a byte-level or SentencePiece-style vocabulary spells every
  token's bytes, so lengths add up to offsets. It is used for a document only where the spelled
  bytes are exactly the document's; normalisers that change text make them differ.
* :func:`close_gaps` over the offsets that ``tokenizers`` tracks: any fast tokenizer, slower. Where
  a post-processor trims offsets, a token of mere whitespace may come out empty.
* :func:`search`: any tokenizer at all, by looking for each token's decoded text.

All three keep one rule: starts never decrease, every character up to the last end is covered,
and characters between two tokens (whitespace that a tokenizer drops) belong to the later one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Spans = tuple[NDArray[np.int32], NDArray[np.int32]]
"""First character and one past the last character of each token: two ``[n]`` int32 arrays."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece vocabularies write a space
_SEARCH_SLACK = 32  # characters a dropped stretch may have before search() gives a token up


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's file format).

    Printable Latin-1 bytes stand for themselves; the other 68 take the code points from 256 up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class SurfaceTable:
    """The bytes that every token id of a vocabulary spells."""

    def __init__(self, vocabulary: Mapping[str, int], added: Mapping[int, str]) -> None:
        """Spell a vocabulary.

        Args:
            vocabulary: Token → id, the whole of it.
            added: Id → content of the tokens matched literally in text (special tokens among them).
        """
        size = max([*vocabulary.values(), *added], default=-1) + 1
        alphabet = byte_alphabet()
        learned = {token: index for token, index in vocabulary.items() if index not in added}
        byte_level = all(character in alphabet for character in set().union(*learned))
        self._bytes = [b""] * size
        for token, index in learned.items():
            if byte_level:
                self._bytes[index] = bytes(map(alphabet.__getitem__, token))
            elif match := _BYTE_TOKEN.fullmatch(token):
                self._bytes[index] = bytes([int(match[1], 16)])
            else:
                self._bytes[index] = token.replace(_SPACE, " ").encode("utf-8", "replace")
        for index, content in added.items():
            self._bytes[index] = content.encode("utf-8", "replace")
        self._lengths = np.array([len(spelled) for spelled in self._bytes], dtype=np.int32)

    def spell(self, token: int) -> bytes:
        """The bytes of one token; none of an id that the vocabulary has not."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def spans(self, text: str, ids: Sequence[int]) -> Spans | None:
        """Starts and ends of tokens, or None where their bytes do not spell ``text``.

        A space that the tokenizer put before the text itself is allowed for.
        """
        spelled = b"".join(map(self._bytes.__getitem__, ids))
        data = text.encode()
        lengths = self._lengths[np.asarray(ids, dtype=np.int64)]
        if spelled != data:
            if spelled != b" " + data:
                return None
            lengths[np.flatnonzero(lengths)[0]] -= 1
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        if len(data) != len(text):
            begins_character = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
            character_at = np.append(np.cumsum(begins_character) - 1, len(text))
            last_byte = np.maximum(ends - 1, 0)
            starts = character_at[starts]
            ends = np.where(lengths > 0, character_at[last_byte] + 1, starts)
        return starts.astype(np.int32), ends.astype(np.int32)


def close_gaps(offsets: Iterable[tuple[int, int]], n_characters: int) -> Spans:
    """Starts and ends from ``(first, last + 1)`` pairs: monotone, without gaps, ending at ``n_characters``."""
    pairs = np.array(list(offsets), dtype=np.int32).reshape(-1, 2)
    if not len(pairs):
        return pairs[:, 0], pairs[:, 1]
    ends = np.maximum.accumulate(pairs[:, 1])
    starts = pairs[:, 0]
    starts[0] = 0
    starts[1:] = np.minimum(starts[1:], ends[:-1])
    starts = np.maximum.accumulate(starts)
    ends = np.maximum(ends, starts)
    ends[-1] = n_characters
    return starts, ends


def search(text: str, pieces: Iterable[str]) -> Spans:
    """Find each token's own text after the one before; what is not found nearby gets no characters."""
    found: list[tuple[int, int]] = []
    position = 0
    for piece in pieces:
        wanted = piece.strip()
        limit = position + len(piece) + _SEARCH_SLACK
        first = text.find(wanted, position, limit) if wanted else -1
        end = first + len(wanted) if first >= 0 else position
        found.append((position, end))
        position = end
    return close_gaps(found, len(text))
