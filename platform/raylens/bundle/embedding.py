"""The embedded sentence embedding, read with NumPy alone.

A vector is the L2-normalised weighted mean of per-token vectors: a *static* embedding, which needs
no forward pass, so hard negatives and embedding scores work without a hub, a GPU or torch. The
folder is in sentence-transformers format, and ``SentenceTransformer(embedding_path())`` gives the
same vectors; :mod:`raylens.bundle.embedding_recipe` trains it.

``model.safetensors`` holds unit rows ``embeddings`` float16 ``[vocab, dim]`` and one float32 factor
a token, ``weights`` ``[vocab]``: the layout of model2vec (Tulkens and van Dongen 2024), which
sentence-transformers folds into float32 rows. Half precision then costs bytes, and no accuracy
where a rare token's row is long and a common one's is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raylens.bundle.paths import embedding_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 1024


class StaticEmbedder:
    """Token vectors float32 ``[vocab, dim]`` and the tokenizer that goes with them."""

    def __init__(self, tokenizer: Tokenizer, vectors: NDArray[np.float32]) -> None:
        self._tokenizer = tokenizer
        self._vectors = vectors

    @classmethod
    def load(cls, folder: Path) -> StaticEmbedder:
        """Read a folder written by :func:`raylens.bundle.embedding_recipe.save_embedding`."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        tensors = load_file(folder / "model.safetensors")
        vectors = tensors["embeddings"].astype(np.float32) * tensors["weights"][:, None]
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), vectors)

    @property
    def dim(self) -> int:
        return self._vectors.shape[1]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[len(texts), dim]``; a text without tokens gets the zero vector."""
        out = np.zeros((len(texts), self.dim), np.float32)
        for first in range(0, len(texts), _BATCH):
            encodings = self._tokenizer.encode_batch(list(texts[first : first + _BATCH]), add_special_tokens=False)
            ids = [np.asarray(e.ids, np.int64) for e in encodings]
            filled = np.array([i for i, row in enumerate(ids) if len(row)], np.int64)
            if not len(filled):
                continue
            lengths = np.array([len(ids[i]) for i in filled])
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            sums = np.add.reduceat(self._vectors[np.concatenate(ids)], starts, axis=0)
            out[first + filled] = sums / lengths[:, None]
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.maximum(norms, np.float32(1e-12))


@cache
def _bundled() -> StaticEmbedder:
    return StaticEmbedder.load(embedding_path())


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of ``texts`` by the bundled embedding: float32 ``[len(texts), dim]``."""
    return _bundled().embed(texts)
