"""The standard library as a source: :mod:`raylens.bundle.stdlib` as documents."""

from __future__ import annotations

from collections.abc import Iterator

from raylens.bundle.stdlib import read_stdlib
from raylens.corpus.document import Document
from raylens.sources.spec import StdlibSource


def read_stdlib_source(source: StdlibSource) -> Iterator[Document]:
    """Yield one document a file or reference topic, in the corpus's own order."""
    for file in read_stdlib(source.part):
        yield Document(file.text, source.spec, file.domain, file.path, file.split)
