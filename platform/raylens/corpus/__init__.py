"""Text → tokens → windows → blocks: arrays in, values out; no I/O, no torch, no transformers."""

from __future__ import annotations

from raylens.corpus.blocks import WindowBlock, block_name, shards
from raylens.corpus.document import Document, Message
from raylens.corpus.tokenize import TextEncoder, TextTokenizer, TokenizedDocument
from raylens.corpus.windows import START, Cursor, DocumentEntry, Window, WindowCutter, skip

__all__ = [
    "START",
    "Cursor",
    "Document",
    "DocumentEntry",
    "Message",
    "TextEncoder",
    "TextTokenizer",
    "TokenizedDocument",
    "Window",
    "WindowBlock",
    "WindowCutter",
    "block_name",
    "shards",
    "skip",
]
