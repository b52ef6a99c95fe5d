"""Where text comes from: ``--text`` items → documents, streamed in a fixed order.

``spec`` parses an item, ``files``, ``stdlib`` and ``hub`` read one kind each (``rows`` the formats of
files), ``mix`` orders several into one stream, ``identity`` says what content that is, and ``read``
puts them together.
"""

from __future__ import annotations

from raylens.corpus.document import Document
from raylens.sources.identity import fingerprint
from raylens.sources.read import check_sources, pin_sources, read_documents
from raylens.sources.spec import TextSource, parse_source

__all__ = [
    "Document",
    "TextSource",
    "check_sources",
    "fingerprint",
    "parse_source",
    "pin_sources",
    "read_documents",
]
