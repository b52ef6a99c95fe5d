"""Features over HTTP: lists, searches, one feature's page, comparisons."""

from __future__ import annotations

from typing import Literal

from raylens.api.base import Answer
from raylens.api.extraction import Bucket
from raylens.api.feature_words import FeatureExplanation, FeatureLabel, FeatureNote, Figure

Order = Literal["asc", "desc"]
Sort = Literal["density", "max", "mean", "windows", "score", "index"]
SearchMode = Literal["meaning", "words"]
"""``meaning``: by words and by meaning, in one ranking; ``words``: by words alone."""


class FeatureRef(Answer):
    """Which feature.

    Attributes:
        id: As it is shown: ``f_3_17``, or the whole id where its SAE's layer is not known.
        feature_id: ``<sae>/<index>``: names it wherever a feature is asked for.
        sae: Its SAE.
        index: Of the SAE's features.
        layer: Where the SAE reads.
        cache_id: The cache that all figures are of.
    """

    id: str
    feature_id: str
    sae: str
    index: int
    layer: int | None
    cache_id: str


class ListedFeature(FeatureRef):
    """A feature in a list.

    Attributes:
        n_active: Tokens of text on which it fires.
        n_windows: Windows that hold such a token.
        density: ``n_active`` as a share of all tokens of text.
        mean_activation: Over these tokens; None where it never fires.
        max_activation: Likewise.
        promotes: Tokens whose logits it raises most.
        explanation: The best that an explainer says, by score and then length.
        explanation_id: Of it.
        explainer: Who says it.
        score: Mean of ``scores``.
        scores: A headline figure of each scorer.
        n_explanations: How many explanations there are.
        label: What a person says; of several the last.
        author: Who that is.
        starred: Whether somebody starred it.
        bucket: By the words of the label, else of the explanation.
    """

    n_active: int
    n_windows: int
    density: float
    mean_activation: float | None
    max_activation: float | None
    promotes: tuple[str, ...] = ()
    explanation: str | None = None
    explanation_id: str | None = None
    explainer: str | None = None
    score: float | None = None
    scores: tuple[Figure, ...] = ()
    n_explanations: int = 0
    label: str | None = None
    author: str | None = None
    starred: bool = False
    bucket: Bucket = "unknown"


class FeatureList(Answer):
    """One page of a list.

    Attributes:
        features: Of this page.
        total: How many there are in all.
        limit: As asked.
        offset: As asked.
        cache_id: Whose figures these are.
        saes: The SAEs whose features are listed.
    """

    features: tuple[ListedFeature, ...]
    total: int
    limit: int
    offset: int
    cache_id: str
    saes: tuple[str, ...]


class FeatureHit(FeatureRef):
    """A feature that a search found.

    Attributes:
        score: Of the ranking: 1 where words and meaning both put it first.
        similarity: Cosine of query and text; None by words alone.
        words: BM25 of the text; 0 where it holds no word of the query.
        text: What fits.
        explainer: Who says so; ``human`` for people.
        author: The person.
        explanation_id: Of the text.
        bucket: By its words.
    """

    score: float
    similarity: float | None
    words: float
    text: str
    explainer: str
    author: str | None
    explanation_id: str
    bucket: Bucket


class FeatureHits(Answer):
    """One page of what a search found; ``total`` features in all."""

    hits: tuple[FeatureHit, ...]
    total: int
    limit: int
    offset: int
    cache_id: str
    saes: tuple[str, ...]


class Histogram(Answer):
    """Activations of a feature: ``counts[i]`` lie from ``edges[i]`` to ``edges[i + 1]``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Statistics(Answer):
    """How often and how strongly a feature fires; as in :class:`ListedFeature`, of ``n_tokens`` tokens of text."""

    n_tokens: int
    n_active: int
    n_windows: int
    density: float
    mean_activation: float | None
    max_activation: float | None
    histogram: Histogram


class TokenLogit(Answer):
    """What a feature does to the logit of a token, through the final norm's gain and the unembedding."""

    token: str
    token_id: int
    logit: float


class RelatedFeature(Answer):
    """A feature of the same SAE.

    Attributes:
        id: As it is shown.
        index: Which.
        value: Cosine of decoder rows, or Jaccard index of tokens on which both fire.
    """

    id: str
    index: int
    value: float


class FeaturePage(FeatureRef):
    """All that is known of a feature but its windows.

    Attributes:
        hook: The tensor that its SAE reads.
        model: That it was read from.
        statistics: Of its activations.
        promotes: Tokens whose logits it raises most.
        suppresses: Tokens whose logits it lowers most.
        neighbours: Features that write in the most similar directions.
        cofiring: Features that fire on the same tokens.
        explanations: People's labels first, then explainers' words, the latest first.
        labels: People's labels and stars.
        notes: People's remarks.
        neuronpedia_url: Its page there, where it has one.
    """

    hook: str | None
    model: str | None
    statistics: Statistics
    promotes: tuple[TokenLogit, ...] = ()
    suppresses: tuple[TokenLogit, ...] = ()
    neighbours: tuple[RelatedFeature, ...] = ()
    cofiring: tuple[RelatedFeature, ...] = ()
    explanations: tuple[FeatureExplanation, ...] = ()
    labels: tuple[FeatureLabel, ...] = ()
    notes: tuple[FeatureNote, ...] = ()
    neuronpedia_url: str | None = None


class FeatureExplanations(FeatureRef):
    """What is said of a feature."""

    explanations: tuple[FeatureExplanation, ...]


class FeatureScore(Figure):
    """A figure, and of which explanation.

    Attributes:
        explanation_id: Names it.
        explainer: Who said it.
        control: ``shuffled`` where another feature's explanation was scored, which shows what chance gives.
    """

    explanation_id: str
    explainer: str | None
    control: str | None = None


class FeatureScores(FeatureRef):
    """All that scorers measured of a feature's explanations."""

    scores: tuple[FeatureScore, ...]


class FeaturePair(Answer):
    """Two features beside one another.

    Attributes:
        first: ``<sae>/<index>``.
        second: Likewise.
        cosine: Of their decoder rows; None where weights are not at hand, or read tensors of different widths.
        n_first: Tokens of text on which the first fires, of the cache that holds both; None where none does.
        n_second: Likewise.
        n_both: Tokens on which both do.
        jaccard: ``n_both`` as a share of the tokens on which either does; None where neither does.
    """

    first: str
    second: str
    cosine: float | None
    n_first: int | None = None
    n_second: int | None = None
    n_both: int | None = None
    jaccard: float | None = None


class Comparison(Answer):
    """Features side by side: the page of each, in the order they were named, and every pair."""

    features: tuple[FeaturePage, ...]
    pairs: tuple[FeaturePair, ...]
