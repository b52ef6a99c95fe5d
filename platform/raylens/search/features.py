"""Features found by what explainers and people say of them, by words and by meaning in one ranked list.

The two rankings are merged by reciprocal ranks (Cormack, Clarke and Büttcher, SIGIR 2009), because a BM25 score
and a cosine have no common scale: what both find comes first, what only one finds still comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.search.words import bm25
from raylens.store.labels import HUMAN, Labels
from raylens.store.phrases import Embed, phrases
from raylens.store.workspace import CacheStore, Workspace

QUERY_LIMIT: Final = 1000
"""Characters."""

_DAMPING: Final = 60.0  # of the paper
_BY_MEANING: Final = 1000  # beyond these, nearness means nothing


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature, and what of all that is said of it fits the query best.

    Attributes:
        sae: Whose feature.
        feature: Which.
        score: Of the merged ranking: 1 where words and meaning both put it first.
        similarity: Cosine between query and text; None without an embedding.
        words: BM25 score of the text; 0 where it holds no word of the query.
        text: What fits: an explanation or a person's label.
        explainer: Who says so; ``human`` for people.
        author: The person, for a label.
        explanation_id: Of the text.
    """

    sae: SaeId
    feature: int
    score: float
    similarity: float | None
    words: float
    text: str
    explainer: str
    author: str | None
    explanation_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """One page of what a search finds, and how many features it finds in all."""

    hits: list[Hit]
    n_features: int


def search(
    workspace: Workspace,
    cache: CacheStore,
    saes: Sequence[SaeId],
    query: str,
    embed: Embed | None,
    *,
    limit: int = 20,
    offset: int = 0,
    among: Mapping[SaeId, NDArray[np.integer]] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Found:
    """Features of ``saes`` of which something is said that fits ``query``, the best first.

    Args:
        workspace: Where; people's labels are of it.
        cache: Whose explanations.
        saes: Which SAEs of it.
        query: Words.
        embed: Texts → unit vectors, float32 ``[n, dim]``; None to go by words alone.
        limit: Features at most.
        offset: Leave out this many first.
        among: By SAE, the features that may be found; all by default.
        say: Told what takes time.

    Raises:
        InputError: The query is empty or too long.
        DamagedFileError: A file of explanations or labels cannot be read.
    """
    query = query.strip()
    if not 0 < len(query) <= QUERY_LIMIT:
        raise InputError(
            f"a search of {len(query)} characters finds nothing.", hint=f"write 1 to {QUERY_LIMIT} characters."
        )
    table, vectors = _said(workspace, cache, saes, embed, say)
    if not table.num_rows:
        return Found([], 0)
    words = bm25(table["explanation"].combine_chunks(), query)
    similarity = None if embed is None else vectors @ embed([query])[0]
    score = merged(words, similarity)
    feature, number = table["feature"].to_numpy().astype(np.int64), table["sae"].to_numpy()
    if among is not None:
        allowed = np.zeros(len(score), np.bool_)
        for place, sae in enumerate(saes):
            own = number == place
            allowed[own] = np.isin(feature[own], among.get(sae, np.zeros(0, np.int64)))
        score[~allowed] = 0.0
    order = np.lexsort((feature, number, -score))[: int((score > 0).sum())]
    # The first place of each feature, in the order of places: its best text.
    first = np.sort(np.unique(number[order] * (1 << 32) + feature[order], return_index=True)[1])
    best = order[first[offset : offset + limit]]
    hits = [
        Hit(
            sae=saes[row["sae"]],
            feature=row["feature"],
            score=float(score[at]),
            similarity=None if similarity is None else float(similarity[at]),
            words=float(words[at]),
            text=row["explanation"],
            explainer=row["explainer"],
            author=row["author"],
            explanation_id=row["explanation_id"],
        )
        for at, row in zip(best.tolist(), table.take(pa.array(best, pa.int64())).to_pylist(), strict=True)
    ]
    return Found(hits, len(first))


def _said(
    workspace: Workspace, cache: CacheStore, saes: Sequence[SaeId], embed: Embed | None, say: Callable[[str], None]
) -> tuple[pa.Table, NDArray[np.float32]]:
    """Everything that is said of features of ``saes``, with ``author`` and the SAE's place, and its vectors."""
    words = Labels(workspace).read()
    tables: list[pa.Table] = []
    vectors: list[NDArray[np.float32]] = []
    for place, sae in enumerate(saes):
        found = phrases(cache, sae, embed, say)
        labels = [one for one in words.labels_of(sae) if one.label is not None]
        rows = {
            "feature": [one.feature for one in labels],
            "explanation_id": [one.label_id for one in labels],
            "explainer": [HUMAN] * len(labels),
            "explanation": [one.label for one in labels],
            "author": [one.author for one in labels],
        }
        explained = found.table.append_column("author", pa.nulls(found.table.num_rows, pa.string()))
        both = pa.concat_tables([explained, pa.table(rows, schema=explained.schema)])
        tables.append(both.append_column("sae", pa.array(np.full(both.num_rows, place, np.int64))))
        vectors.append(found.vectors)
        if embed is not None and labels:
            vectors.append(embed([str(one.label) for one in labels]))
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(vectors)


def merged(words: NDArray[np.float64], similarity: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Scores of texts from both rankings, ``[n]`` in 0 … 1; 0 where neither finds a text.

    Args:
        words: ``[n]`` BM25 scores; those above 0 are ranked.
        similarity: ``[n]`` cosines; the nearest of those above 0 are ranked. None: words alone count.
    """
    rankings = [_reciprocal(words, len(words))]
    if similarity is not None:
        rankings.append(_reciprocal(similarity.astype(np.float64), _BY_MEANING))
    return np.mean(rankings, axis=0) * (_DAMPING + 1)


def _reciprocal(scores: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """1 / (60 + rank), equal scores sharing the best rank; 0 for scores of 0 and below, and beyond ``most``."""
    falling = np.sort(-scores)
    rank = np.searchsorted(falling, -scores, side="left") + 1
    return np.where((scores > 0) & (rank <= most), 1 / (_DAMPING + rank), 0.0)
