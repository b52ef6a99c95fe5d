"""Scoring a batch of features a task: what needs no language model at once, the rest as questions.

What a judge answered comes back to a second task, which works out the figures and stores the batch;
no torch is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from raylens import schema
from raylens.bundle.embedding import embed
from raylens.chat import Request
from raylens.config import ScorerName
from raylens.examples.excerpt import ExampleSets
from raylens.explain.matching import TokenBatch
from raylens.explain.rule import Rule
from raylens.ids import SaeId
from raylens.score import concept, embedding, fuzz, intruder, recall, rule, surprisal
from raylens.score.metrics import Metric
from raylens.score.questions import Answered, Question, ScorerSettings, feature_seed
from raylens.score.scorers import CHAT
from raylens.store.domains import Domain
from raylens.store.example_reader import TEST, Unusable
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from raylens_jobs.explain_tasks import examples_of
from raylens_jobs.passes import Pass

SHUFFLED: Final = "shuffled"
"""``control`` of scores of another feature's explanation."""
_UNCONTROLLED: Final = (intruder.SCORER, concept.SCORER)
"""The first does not read the explanation and the second nothing else, so a shuffled one would say nothing."""
_SILENT: Final = Request(messages=())


@dataclass(frozen=True, slots=True)
class ToScore:
    """An explanation and the feature whose examples it is held against; its own, or as a control another's."""

    feature: int
    explanation_id: str
    explainer: str
    explanation: str
    rule: str | None
    control: str | None = None

    def about(self, run_id: str) -> dict[str, Any]:
        """What every row of its figures begins with."""
        return {
            "feature": self.feature,
            "run_id": run_id,
            "explanation_id": self.explanation_id,
            "explainer": self.explainer,
            "control": self.control,
        }


@dataclass(frozen=True, slots=True)
class Asking:
    """What one scorer asks a judge about one explanation.

    Attributes:
        item: The explanation.
        scorer: Which.
        seed: Of its intervals.
        base_rate: Share of all pieces in which the feature fires; None where not known.
        questions: In order.
    """

    item: ToScore
    scorer: str
    seed: int
    base_rate: float | None
    questions: tuple[Question, ...]

    def silent(self) -> Asking:
        """The same without the texts that were sent, which figures do not need."""
        return replace(self, questions=tuple(replace(one, request=_SILENT) for one in self.questions))


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model reads for ``surprisal``: every text after one context, and after the other.

    Attributes:
        item: The explanation.
        seed: Of its intervals.
        told: The context with the explanation.
        untold: The one without.
        texts: Excerpts.
        labels: bool ``[texts]``: does the feature fire?
        documents: int64 ``[texts]``.
    """

    item: ToScore
    seed: int
    told: str
    untold: str
    texts: tuple[str, ...]
    labels: NDArray[np.bool_]
    documents: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ToJudge:
    """A batch: rows that are settled, and what a language model is needed for.

    ``n_random`` counts silent excerpts that are random where nearer ones were wanted.
    """

    rows: list[dict[str, Any]]
    asking: list[Asking]
    reading: list[Reading]
    n_random: int


Losses = Sequence[NDArray[np.floating] | None]


@ray.remote(num_cpus=1)
def score_batch(of: Pass, items: list[ToScore], scorers: list[ScorerName], domain: str | None) -> int:
    """Score explanations with scorers that need no model, and store the rows.

    Returns how many silent excerpts were random where nearer ones were wanted.
    """
    rows: list[dict[str, Any]] = []
    n_random = 0
    for _, sets, item in _with_examples(of, items):
        rows += _direct(of, item, sets, scorers, domain)
        n_random += sets.n_random if item.control is None else 0  # the control is held against the same ones
    _write(of, items, rows)
    return n_random


@ray.remote(num_cpus=1)
def questions_batch(
    of: Pass, items: list[ToScore], scorers: list[ScorerName], settings: ScorerSettings, domain: str | None
) -> ToJudge:  # fmt: skip
    """Rows of scorers that need no model, and the questions of those that do."""
    rows: list[dict[str, Any]] = []
    asking: list[Asking] = []
    reading: list[Reading] = []
    n_random = 0
    plain: dict[int, ExampleSets | Unusable] = {}
    if recall.SCORER in scorers:
        # Whole pieces as the corpus was cut, against random ones, whatever the other scorers see.
        config = of.config.model_copy(update={"center_examples": False, "non_activating_source": "random"})
        features = sorted({item.feature for item in items})
        plain = dict(examples_of(replace(of, config=config)).sets(features, len(features), TEST))
    for feature, sets, item in _with_examples(of, items):
        n_random += sets.n_random if item.control is None else 0
        rows += _direct(of, item, sets, scorers, domain)
        for name in (name for name in scorers if name in CHAT):
            if name in _UNCONTROLLED and item.control is not None:
                continue
            seed = feature_seed(of.config.seed, of.sae, feature, name, item.control)
            asks = _asking(of, item, name, seed, plain[feature] if name == recall.SCORER else sets, settings)
            if asks is not None:
                asking.append(asks)
        if surprisal.SCORER in scorers:
            seed = feature_seed(of.config.seed, of.sae, feature, surprisal.SCORER, item.control)
            reading.append(_reading(item, seed, sets, settings))
    return ToJudge(rows, asking, reading, n_random)


def _asking(
    of: Pass, item: ToScore, name: str, seed: int, sets: ExampleSets | Unusable, settings: ScorerSettings
) -> Asking | None:
    if isinstance(sets, Unusable):
        return None
    # Fuzz errs on marks, which no text of the corpus has.
    base_rate = None if name == fuzz.SCORER else _base_rate(of, sets, recall=name == recall.SCORER)
    questions = CHAT[name].build_requests(item.explanation, sets.test, sets.test_negatives, settings, seed)
    return Asking(item, name, seed, base_rate, tuple(questions))


@ray.remote(num_cpus=1)
def store_batch(
    of: Pass,
    items: list[ToScore],
    rows: list[dict[str, Any]],
    judged: list[tuple[Asking, list[Answered]]],
    read: list[tuple[Reading, Losses, Losses]],
    judge: str,
) -> int:
    """Work out what the answers say and store the whole batch; returns how many features."""
    found = list(rows)
    for asking, answered in judged:
        figures = CHAT[asking.scorer].result(answered, base_rate=asking.base_rate, seed=asking.seed)
        found += _rows(of, asking.item, asking.scorer, figures, judge)
    for reading, told, untold in read:
        figures = surprisal.result(told, untold, reading.labels, reading.documents, seed=reading.seed)
        found += _rows(of, reading.item, surprisal.SCORER, figures, judge)
    return _write(of, items, found)


def _with_examples(of: Pass, items: Sequence[ToScore]) -> Iterator[tuple[int, ExampleSets, ToScore]]:
    features = sorted({item.feature for item in items})
    for feature, sets in examples_of(of).sets(features, len(features), TEST):
        if isinstance(sets, Unusable):
            continue  # the cache has changed since; the explanation stays unscored
        for item in items:
            if item.feature == feature:
                yield feature, sets, item


def _direct(
    of: Pass, item: ToScore, sets: ExampleSets, scorers: Iterable[ScorerName], domain: str | None
) -> list[dict[str, Any]]:
    """Rows of the scorers that ask nobody."""
    excerpts = [*sets.test, *sets.test_negatives]
    labels, documents = _labels(sets)
    rows: list[dict[str, Any]] = []
    for name in scorers:
        if name == rule.SCORER and item.rule is not None:
            matches = TokenBatch.of(one.tokens for one in excerpts).matches(Rule.from_json(item.rule))
            rows += _rows(of, item, name, rule.result(labels, matches, documents, base_rate=_base_rate(of, sets)))
        elif name == embedding.SCORER:
            vectors = embed([item.explanation, *(one.text for one in excerpts)])
            rows += _rows(of, item, name, embedding.result(vectors[0], vectors[1:], labels, documents))
    if domain is not None and item.control is None:
        inside = _domain(of.url, of.cache_id, domain, of.settings["activations"])
        found = inside.specialization(SaeId.parse(of.sae), item.feature, seed=of.config.seed)
        rows += _rows(of, item, "domain", [found])
    return rows


@lru_cache(maxsize=2)
def _domain(url: str, cache_id: str, glob: str, _: str) -> Domain:
    """Keyed by what the cache held, too."""
    return Domain(CacheReader(Workspace.open(url), cache_id), glob)


def _reading(item: ToScore, seed: int, sets: ExampleSets, settings: ScorerSettings) -> Reading:
    told, untold = surprisal.contexts(item.explanation, settings)
    labels, documents = _labels(sets)
    texts = tuple(one.text for one in (*sets.test, *sets.test_negatives))
    return Reading(item, seed, told, untold, texts, labels, documents)


def _labels(sets: ExampleSets) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    excerpts = [*sets.test, *sets.test_negatives]
    return (
        np.array([one.is_active for one in excerpts], np.bool_),
        np.array([one.doc_id for one in excerpts], np.int64),
    )


def _base_rate(of: Pass, sets: ExampleSets, *, recall: bool = False) -> float | None:
    """Share of all pieces in which the feature fires, where the silent ones stand for all silent pieces.

    Near ones do not: what a rule says of them tells nothing of how often it is wrong on any text.
    """
    at_random = recall or of.config.non_activating_source == "random"
    return sets.rate if at_random and sets.rate is not None and 0 < sets.rate < 1 else None


def _rows(
    of: Pass, item: ToScore, scorer: str, figures: Iterable[Metric], judge: str | None = None
) -> list[dict[str, Any]]:
    about = item.about(of.run_id) | {"scorer": scorer, "judge": judge}
    return [
        about | {"metric": one.name} | {key: value for key, value in asdict(one).items() if key != "name"}
        for one in figures
    ]


def _write(of: Pass, items: Sequence[ToScore], rows: list[dict[str, Any]]) -> int:
    features = sorted({item.feature for item in items})
    of.findings().write(features, pa.Table.from_pylist(rows, schema=schema.SCORES))
    return len(features)
