"""All sources together: checked before any work, then read as one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raylens.corpus.document import Document
from raylens.sources import hub
from raylens.sources.files import check_files, read_files
from raylens.sources.mix import interleave, shuffle
from raylens.sources.spec import FileSource, HubSource, StdlibSource, TextSource
from raylens.sources.stdlib import read_stdlib_source


def check_sources(sources: Sequence[TextSource]) -> None:
    """Read the head of everything, so that bad text shows before any work; whole files are not read.

    Raises:
        CorpusError: text is missing, empty, binary or malformed, or has no such column of text.
        UnknownNameError: no such data set, config or split.
        HubUnreachableError: a data set is neither cached nor to be had.
    """
    for source in sources:
        match source:
            case StdlibSource():
                pass  # as CPython ships it
            case FileSource():
                check_files(source)
            case HubSource():
                hub.check_hub(source)


def pin_sources(sources: Sequence[TextSource]) -> tuple[TextSource, ...]:
    """The same sources, hub data sets fixed to the commit they are at now."""
    return tuple(hub.pin(source) if isinstance(source, HubSource) else source for source in sources)


def read_documents(sources: Sequence[TextSource], *, seed: int) -> Iterator[Document]:
    """Stream the documents of all sources, mixed in equal shares and shuffled by ``seed``.

    The order depends on content, the order of ``sources`` and ``seed`` alone, and taking more
    documents only extends it. Memory is bounded by the shuffle's buffer
    (:data:`raylens.sources.mix.BUFFER_BYTES`) and one document or file block a source.

    Args:
        sources: What to read, as parsed.
        seed: Of the order; negative keeps each source's own order.

    Raises:
        CorpusError: a file turns out binary or malformed beyond its head; names file and row.
        HubUnreachableError: the hub stopped answering.
    """
    return shuffle(interleave([_read(source, seed) for source in sources]), seed)


def _read(source: TextSource, seed: int) -> Iterator[Document]:
    match source:
        case StdlibSource():
            return read_stdlib_source(source)
        case FileSource():
            return read_files(source, seed)
        case HubSource():
            return hub.read_hub(source)
