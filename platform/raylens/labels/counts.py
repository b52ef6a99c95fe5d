"""How much is kept of one source of labels, for ``raylens labels status``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from raylens.labels.names import NeuronpediaId
from raylens.store.label_reader import LabelReader


@dataclass(frozen=True, slots=True)
class Counts:
    """What is kept of one source.

    Attributes:
        source: Which.
        pages: Features with a page.
        missing: Features that are known not to exist there, or to have no explanation.
        explained: Features with an explanation.
        explanations: How many of these.
        segments: Commits that count.
        bytes: Size of their files.
        newest: When the newest row was fetched or imported; None without rows.
    """

    source: NeuronpediaId
    pages: int = 0
    missing: int = 0
    explained: int = 0
    explanations: int = 0
    segments: int = 0
    bytes: int = 0
    newest: datetime | None = None


def count(reader: LabelReader, source: NeuronpediaId) -> Counts:
    """Count what ``reader`` sees of ``source``; reads a few narrow columns of every row.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    pages = reader.column("feature_cache", ["index", "status", "fetched_at"])
    said = reader.column("explanation_cache", ["index", "status", "explanation_id", "fetched_at"])
    ok, explained = _indices(pages, "ok"), _indices(said, "ok")
    texts = set(zip(said["index"].to_pylist(), said["explanation_id"].to_pylist(), strict=True))
    segments = list(reader.segments.values())
    return Counts(
        source,
        pages=len(ok),
        missing=len((_indices(pages, "missing") | _indices(said, "missing")) - ok - explained),
        explained=len(explained),
        explanations=sum(text is not None for _, text in texts),
        segments=len(segments),
        bytes=sum(one.bytes for one in segments),
        newest=max((max(one["fetched_at"].to_pylist()) for one in (pages, said) if one.num_rows), default=None),
    )


def _indices(table: pa.Table, status: str) -> set[int]:
    chosen = table["status"].to_numpy(zero_copy_only=False) == status
    return set(table["index"].to_numpy()[chosen].tolist())
