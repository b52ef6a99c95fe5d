"""Tokens one by one as text and as bytes: a token may be part of a character, which has bytes but no text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from raylens.engine.load import token_strings

_BYTE_OF: Final = {character: byte for byte, character in bytes_to_unicode().items()}
"""How byte-level tokenizers write each byte."""
_HEXADECIMAL: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece does."""


@dataclass(frozen=True, slots=True)
class TokenText:
    """One token of a vocabulary.

    Attributes:
        id: Its number.
        text: As a reader would write it; None where it is part of a character.
        bytes: Its UTF-8, or a part of a character's.
    """

    id: int
    text: str | None
    bytes: bytes

    @property
    def escaped(self) -> str:
        r"""Its text, or ``\x..`` for each byte of a part of a character."""
        return self.text if self.text is not None else "".join(f"\\x{byte:02x}" for byte in self.bytes)


class TokenTexts:
    """Looks tokens up, each once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, TokenText] = {}

    def __getitem__(self, token: int) -> TokenText:
        """The token of an id."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._looked_up(token)
        return known

    def _looked_up(self, token: int) -> TokenText:
        decoded = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if "\ufffd" not in decoded:
            text = token_strings(self._tokenizer, [token])[0]
            return TokenText(token, text, text.encode())
        raw = self._tokenizer.convert_ids_to_tokens(token)
        assert isinstance(raw, str)
        if found := _HEXADECIMAL.fullmatch(raw):
            return TokenText(token, None, bytes([int(found[1], 16)]))
        if all(character in _BYTE_OF for character in raw):
            return TokenText(token, None, bytes(_BYTE_OF[character] for character in raw))
        return TokenText(token, raw, raw.encode())
