"""Training and judging the embedded sentence embedding: seconds of CPU, no download.

sentence-transformers' ``StaticEmbedding`` over pico's tokenizer, trained contrastively with in-batch
negatives in both directions (``MultipleNegativesSymmetricRankingLoss``) on :mod:`raylens.bundle.pairs`
of the training split. The loop is our own because the library's trainer tokenises each batch anew,
which took far longer than the training itself; module and loss are the library's.

Judged by retrieval on held-out files, where the right answer is known without labels: the next
excerpt, and the code of a docstring, among those of all held-out files; against chance-level
vectors (untrained) and TF-IDF over the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylens.bundle.pairs import Pair, docstring_pairs, next_pairs
from raylens.bundle.stdlib import StdlibFile
from raylens.score.intervals import clustered_interval

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """Everything that determines the training run."""

    dim: int = 128
    epochs: int = 3
    """Passes over the excerpt pairs."""
    batch: int = 512
    docstring_share: float = 0.4
    """Share of batches that hold docstring pairs, the rest hold excerpt pairs."""
    shifts: tuple[int, ...] = (0, 16, 32, 48)
    """Where cutting begins, in tokens: each shift pairs the corpus differently."""
    scale: float = 20.0
    """Inverse temperature of the softmax over cosines."""
    learning_rate: float = 0.02
    warmup_share: float = 0.1
    seed: int = 0

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate: linear warm-up, then linear decay to zero."""
        return self.learning_rate * min((step + 1) / (self.warmup_share * steps), (steps - step) / steps)


def untrained(tokenizer: Tokenizer, recipe: EmbeddingRecipe) -> SentenceTransformer:
    """Random token vectors: a bag of words under random projection, the starting point."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    generator = torch.Generator().manual_seed(recipe.seed)
    weights = torch.randn(tokenizer.get_vocab_size(), recipe.dim, generator=generator) / recipe.dim**0.5
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, weights), Normalize()], device="cpu")


def train_embedding(
    files: Sequence[StdlibFile], tokenizer: Tokenizer, recipe: EmbeddingRecipe, report: Callable[[str], None]
) -> SentenceTransformer:
    """Train from scratch on the pairs of ``files``, which must be of the training split."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesSymmetricRankingLoss

    model = untrained(tokenizer, recipe)
    loss = MultipleNegativesSymmetricRankingLoss(model, scale=recipe.scale)
    following = [pair for shift in recipe.shifts for pair in next_pairs(files, tokenizer, shift)]
    documented = list(docstring_pairs(files))
    report(f"{len(following)} excerpt pairs, {len(documented)} docstring pairs")
    kinds = [(_encode(following, tokenizer)), (_encode(documented, tokenizer))]
    steps = round(recipe.epochs * len(following) / recipe.batch / (1 - recipe.docstring_share))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(recipe.seed)
    for step in range(steps):
        anchors, positives = kinds[int(rng.random() < recipe.docstring_share)]
        chosen = rng.integers(len(anchors), size=recipe.batch)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step, steps)
        value = loss([_features([side[i] for i in chosen]) for side in (anchors, positives)], torch.empty(0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            report(f"step {step + 1}/{steps}  loss {value.item():.3f}")
    return model.eval()


def save_embedding(model: SentenceTransformer, folder: Path) -> None:
    """Save for sentence-transformers, weights as :mod:`raylens.bundle.embedding` describes them."""
    from safetensors.numpy import save_file
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = model[0]
    if not isinstance(static, StaticEmbedding):
        raise TypeError("the first module is not a StaticEmbedding")
    model.save(str(folder), create_model_card=False)
    vectors = static.embedding.weight.detach().numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    units = (vectors / lengths[:, None]).astype(np.float16)
    save_file({"embeddings": units, "weights": lengths.astype(np.float32)}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def judge_embedding(
    trained: Encode, random: Encode, train: Sequence[StdlibFile], held_out: Sequence[StdlibFile], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Retrieval on held-out files by the trained vectors, by untrained ones and by TF-IDF.

    TF-IDF (logarithmic counts) takes its document frequencies from the excerpts of ``train``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    def tokens(text: str) -> list[str]:
        return tokenizer.encode(text, add_special_tokens=False).tokens

    # As keywords of any type: scikit-learn's signatures say str and float64 where it takes more.
    settings: dict[str, Any] = {"analyzer": tokens, "sublinear_tf": True, "dtype": np.float32}
    tfidf = TfidfVectorizer(**settings)
    tfidf.fit(text for pair in next_pairs(train, tokenizer) for text in (pair.anchor, pair.positive))
    found: dict[str, Any] = {}
    tasks = {
        "next excerpt": list(next_pairs(held_out, tokenizer)),
        "docstring to code": list(docstring_pairs(held_out)),
    }
    for task, pairs in tasks.items():
        anchors, positives = [p.anchor for p in pairs], [p.positive for p in pairs]
        groups = [p.path for p in pairs]
        cosines = {
            name: encode(anchors) @ encode(positives).T
            for name, encode in (("trained", trained), ("untrained", random))
        }
        cosines["tf-idf"] = (tfidf.transform(anchors) @ tfidf.transform(positives).T).toarray()
        found[task] = {
            "n": len(pairs),
            "files": len(set(groups)),
            **{name: retrieval(matrix, groups) for name, matrix in cosines.items()},
        }
    return found


def retrieval(similarity: NDArray[np.float32], groups: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Mean reciprocal rank and recall at 10 where row i's right answer is column i.

    Args:
        similarity: float32 ``[n, n]``; a tie counts against the right answer.
        groups: What file each row came from. Rows of one file are alike, so the 95 % bootstrap
            interval resamples files, not rows.
        seed: Of the bootstrap.
    """
    ranks = (similarity >= np.diag(similarity)[:, None]).sum(axis=1)
    figures = {"mrr": 1 / ranks, "recall_at_10": (ranks <= 10).astype(np.float64)}
    return {
        name: {"value": float(values.mean()), "interval": clustered_interval(values, groups, seed=seed)}
        for name, values in figures.items()
    }


def recipe_json(recipe: EmbeddingRecipe) -> dict[str, Any]:
    """The recipe as it is written beside the weights."""
    return {**asdict(recipe), "shifts": list(recipe.shifts)}


def _encode(pairs: Sequence[Pair], tokenizer: Tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    anchors = tokenizer.encode_batch([p.anchor for p in pairs], add_special_tokens=False)
    positives = tokenizer.encode_batch([p.positive for p in pairs], add_special_tokens=False)
    return [e.ids for e in anchors], [e.ids for e in positives]


def _features(ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What ``StaticEmbedding`` takes: all ids end to end, and where each text starts."""
    import torch

    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])[:-1]])
    return {"input_ids": torch.from_numpy(np.concatenate(ids)), "offsets": torch.from_numpy(starts)}
