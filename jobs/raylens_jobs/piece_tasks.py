"""Embedding pieces and building their index: the parts that run inside Ray.

An actor holds the embedding model and commits one file a range of windows; it imports no torch unless a model
other than the bundled one is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from raylens.bundle.embedding import embed as bundled
from raylens.bundle.paths import bundle_hashes
from raylens.errors import InputError
from raylens.store.piece_index import build_index
from raylens.store.piece_vectors import PieceVectors, WindowRange, read_texts
from raylens.store.workspace import Workspace

if TYPE_CHECKING:
    from raylens.engine.text_embedding import Embed

BUNDLED = "raylens/embedding"


@dataclass(frozen=True, slots=True)
class Embedding:
    """Which embedding model, by name and by what identifies its weights; ``ref`` is None for the bundled one."""

    ref: str | None
    name: str
    revision: str

    @classmethod
    def of(cls, ref: str | None) -> Embedding:
        """The model that ``ref`` means now.

        Raises:
            InputError: It names no embedding model, or one that cannot be reached.
        """
        if ref is None:
            return cls(None, BUNDLED, bundle_hashes()["embedding/model.safetensors"])
        from raylens.engine.text_embedding import locate_embedding

        files = locate_embedding(ref)
        return cls(files.name, files.name, files.revision)

    def load(self, device: str) -> Embed:
        """Make it ready, on another machine perhaps.

        Raises:
            InputError: It cannot be loaded, or this machine has another one by that name.
        """
        if self.ref is None:
            return bundled
        from raylens.engine.dedicated import dedicate
        from raylens.engine.text_embedding import load_embedding, locate_embedding

        files = (
            locate_embedding(self.ref)
            if self.ref.startswith("/")
            else locate_embedding(self.ref, revision=self.revision)
        )
        if files.revision != self.revision:
            raise InputError(
                f"{self.name} is not the same on every machine of the cluster.",
                hint="put it on a file system that all nodes mount, or name a hub id.",
            )
        if device == "cpu":
            dedicate(1)
        return load_embedding(files, device)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Whose pieces are embedded by what; small enough to send with each task."""

    url: str
    cache_id: str
    embedding: Embedding
    length: int
    n_prefix: int

    def vectors(self) -> PieceVectors:
        cache = Workspace.open(self.url).cache(self.cache_id)
        return PieceVectors(cache, self.embedding.name, self.embedding.revision, self.length)


class PieceEmbedder:
    """Embeds ranges of windows, one after the other.

    Args:
        of: The corpus.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, of: Corpus, device: str) -> None:
        self._of, self._device, self._vectors = of, device, of.vectors()

    @cached_property
    def _embed(self) -> Embed:
        # Not in the constructor, whose errors Ray reports as the death of an actor.
        return self._of.embedding.load(self._device)

    def embed(self, windows: WindowRange) -> int:
        """Embed the full pieces of some windows and commit them; returns how many."""
        texts = read_texts(self._vectors.cache, windows, self._of.length, self._of.n_prefix)
        vectors = self._embed(texts)
        if not np.isfinite(vectors).all():
            raise InputError(
                f"{self._of.embedding.name} gives vectors that are not numbers.",
                hint="name another --embedding_model, or none for the bundled one.",
            )
        return self._vectors.write(windows, vectors).pieces


def embedders(of: Corpus, count: int, *, gpus: bool) -> list[Any]:
    """``count`` actors, each with a core or a GPU of its own; one that dies is started again, and its range redone."""
    device = "cuda" if gpus else "cpu"
    actor = ray.remote(PieceEmbedder).options(
        num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0, max_restarts=3, max_task_retries=3
    )
    return [actor.remote(of, device) for _ in range(count)]


@ray.remote
def index_pieces(of: Corpus, ranges: Sequence[WindowRange], threads: int) -> None:
    """Build the index over everything embedded."""
    build_index(of.vectors(), ranges, threads)
