"""What the corpus is made of: one text (or conversation) and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Message = Mapping[str, object]
"""One turn of a conversation: at least ``role`` and ``content``, both strings."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, before tokenising.

    Attributes:
        text: The document; empty where ``messages`` is given.
        source: The ``--text`` item it came from, as the user wrote it.
        domain: Its top-level folder, its data-set config, or ``"."``.
        path: Its POSIX path within the source; ``#<n>`` names a row, counted from 1.
        split: ``train`` or ``held_out`` for the standard library, the split of a data set, else ``all``.
        messages: A conversation, to go through the tokenizer's chat template.
    """

    text: str
    source: str
    domain: str
    path: str
    split: str
    messages: tuple[Message, ...] | None = None

    @property
    def characters(self) -> int:
        """Length of the text, or of all messages' contents, in characters."""
        if self.messages is None:
            return len(self.text)
        return sum(len(str(message["content"])) for message in self.messages)

    @property
    def memory_bytes(self) -> int:
        """An upper bound of the text's size in memory: 1 byte a character where all are ASCII, else 4.

        Computed from the content alone, so that what depends on it (the shuffle's buffer) is the
        same on every Python.
        """
        parts = [self.text] if self.messages is None else [str(message["content"]) for message in self.messages]
        return sum(len(part) * (1 if part.isascii() else 4) for part in parts)
