"""Tokens as text while they come: whole characters only, and nothing of what may turn out to be a stop text.

A token may end within a character, and a stop text within or across tokens. What is not certain yet is held back,
with the tokens that it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from transformers import PreTrainedTokenizerBase

_ENOUGH: Final = 6
"""Tokens before a text that its first one is decoded with."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """A part of a text.

    Attributes:
        text: What it adds.
        tokens: What was handed in with the tokens whose text begins in it.
        offsets: Where in the text so far each of these begins, in characters.
    """

    text: str = ""
    tokens: tuple[T, ...] = ()
    offsets: tuple[int, ...] = ()


class Characters:
    """Token ids in, whole characters out.

    A character of which a part is missing is shown as U+FFFD, and held back until the next token, or the end, shows
    whether it becomes whole. Tokens are decoded together with those before them: alone, SentencePiece would drop a
    leading space. Special tokens are no text.

    Args:
        tokenizer: Of the ids.
        before: Token ids that the text follows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before[-_ENOUGH:])
        self._n_given, self._given = len(self._ids), self._decoded()
        if "\ufffd" in self._given:  # the text begins within a character
            self._ids, self._n_given, self._given = [], 0, ""

    def add(self, token: int) -> str:
        """What a further token adds; nothing where it is not whole."""
        self._ids.append(token)
        text = self._decoded()
        if text.endswith("\ufffd") or len(text) <= len(self._given):
            return ""
        new = text[len(self._given) :]
        # The tokens of this part are all that the next one needs before it.
        self._ids = self._ids[self._n_given :]
        self._n_given, self._given = len(self._ids), self._decoded()
        return new

    def rest(self) -> str:
        """What was held back, as it is."""
        return self._decoded()[len(self._given) :]

    def _decoded(self) -> str:
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


@dataclass
class TextPieces(Generic[T]):
    """The text of one answer.

    Attributes:
        characters: Of its tokens.
        stop: Texts that end it; they are not part of it.
    """

    characters: Characters
    stop: Sequence[str] = ()
    _held: str = ""
    _given: int = 0
    _tokens: list[tuple[T, int]] = field(default_factory=list)

    def add(self, token: int, said: T) -> tuple[Piece[T], bool]:
        """What is certain now, and whether a stop text came.

        Args:
            token: Its id.
            said: What goes with it.
        """
        self._tokens.append((said, self._given + len(self._held)))
        self._held += self.characters.add(token)
        return self._certain()

    def end(self) -> Piece[T]:
        """The rest; none comes after it."""
        self._held += self.characters.rest()
        piece, stopped = self._certain()
        if stopped:
            return piece
        last = self._released(len(self._held), all_tokens=True)
        return Piece(piece.text + last.text, piece.tokens + last.tokens, piece.offsets + last.offsets)

    def _certain(self) -> tuple[Piece[T], bool]:
        cut = min((at for stop in self.stop if (at := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            return self._released(cut), True
        return self._released(len(self._held) - self._doubtful()), False

    def _doubtful(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = min(max((len(stop) for stop in self.stop), default=1) - 1, len(self._held))
        for n in range(longest, 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self.stop):
                return n
        return 0

    def _released(self, n: int, *, all_tokens: bool = False) -> Piece[T]:
        text, self._held = self._held[:n], self._held[n:]
        self._given += n
        out = [one for one in self._tokens if all_tokens or one[1] < self._given]
        self._tokens = self._tokens[len(out) :]
        return Piece(text, tuple(said for said, _ in out), tuple(at for _, at in out))
