"""Features as they go over HTTP, from what the workspace says of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raylens.api.feature_texts import ActivateAnswer, FeatureWindows, Window, Windows
from raylens.api.feature_words import FeatureExplanation, FeatureLabel, FeatureNote, FeatureWords, Figure
from raylens.api.features import (
    FeatureHit,
    FeaturePage,
    FeatureScore,
    Histogram,
    ListedFeature,
    RelatedFeature,
    Statistics,
    TokenLogit,
)
from raylens.api.reading import ValuesAnswer
from raylens.ids import FeatureId
from raylens.labels.buckets import bucket_of
from raylens.labels.own_features import Own
from raylens.schema import histogram_edges
from raylens.search.features import Hit
from raylens.store.examples import Example
from raylens.store.feature_card import Card, Explained
from raylens.store.labels import HUMAN, Label, Note, Words
from raylens.store.selection import Readable

_FIGURE = ("scorer", "judge", "metric", "value", "ci_low", "ci_high", "n", "n_failed")
_OF_HIT = ("score", "similarity", "words", "text", "explainer", "author", "explanation_id")


def ref(one: Readable, index: int) -> dict[str, Any]:
    """The fields of :class:`raylens.api.features.FeatureRef`."""
    return {
        "id": one.short(index),
        "feature_id": str(FeatureId(one.sae, index)),
        "sae": str(one.sae),
        "index": index,
        "layer": one.layer,
        "cache_id": one.cache_id,
    }


def listed(one: Readable, row: Mapping[str, Any], promotes: Sequence[str]) -> ListedFeature:
    """A row of :class:`raylens.labels.feature_list.FeatureTables`."""
    figures = tuple(Figure.model_validate(figure) for figure in row["scores"] or ())
    same = {key: value for key, value in row.items() if key not in {"sae", "feature", "scores"}}
    return ListedFeature(**ref(one, row["feature"]), **same, scores=figures, promotes=tuple(promotes))


def hit(one: Readable, found: Hit) -> FeatureHit:
    """What a search found."""
    same: dict[str, Any] = {name: getattr(found, name) for name in _OF_HIT}
    return FeatureHit(**ref(one, found.feature), **same, bucket=bucket_of(found.text))


def page(card: Card, own: Own) -> FeaturePage:
    """All that is known of a feature but its windows."""
    counts = card.statistics["histogram"]
    same = {key: value for key, value in card.statistics.items() if key not in {"feature", "histogram"}}
    histogram = Histogram(edges=tuple(histogram_edges().tolist()), counts=tuple(counts))
    return FeaturePage(
        **ref(card.one, card.index),
        hook=own.hook or None,
        model=own.model or None,
        statistics=Statistics(**same, n_tokens=card.n_tokens, histogram=histogram),
        promotes=tuple(TokenLogit.model_validate(row) for row in card.logits("top")),
        suppresses=tuple(TokenLogit.model_validate(row) for row in card.logits("bottom")),
        neighbours=tuple(_related(row, "cosine") for row in card.relatives("neighbours", "neighbour", "cosine")),
        cofiring=tuple(_related(row, "jaccard") for row in card.relatives("cofiring", "other", "jaccard")),
        explanations=explanations(card),
        labels=tuple(map(_label, card.labels)),
        notes=tuple(map(_note, card.notes)),
        neuronpedia_url=card.url,
    )


def explanations(card: Card) -> tuple[FeatureExplanation, ...]:
    """People's labels, and then what explainers say, the latest first."""
    return (*_of_people(card.labels), *map(_explanation, card.explanations))


def scores(explained: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> tuple[FeatureScore, ...]:
    """Rows of ``schema.SCORES`` about rows of ``schema.EXPLANATIONS``, in order of explanation."""
    known = {row["explanation_id"]: row["explainer"] for row in explained}
    found = [
        FeatureScore(
            **{name: row[name] for name in _FIGURE},
            explanation_id=row["explanation_id"],
            explainer=known.get(row["explanation_id"], row["explainer"]),
            control=row["control"],
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda one: (one.explanation_id, one.scorer, one.judge or "", one.metric)))


def windows(
    one: Readable, index: int, kind: Windows, bounds: tuple[float, float], examples: Iterable[Example]
) -> FeatureWindows:
    """Windows of a feature whose peaks lie within ``bounds``."""
    found = tuple(
        Window(
            window_id=example.window_id,
            doc_id=example.doc_id,
            source=example.source,
            path=example.path,
            peak=example.peak,
            tokens=example.tokens,
            activations=tuple(example.activations.tolist()),
        )
        for example in examples
    )
    low, high = bounds
    return FeatureWindows(
        **ref(one, index), kind=kind, low=low, high=high if math.isfinite(high) else None, windows=found
    )


def words(feature: FeatureId, said: Words) -> FeatureWords:
    """What people say of a feature."""
    about = (feature.sae, feature.index)
    return FeatureWords(
        feature_id=str(feature),
        labels=tuple(map(_label, said.labels_of(*about))),
        notes=tuple(map(_note, said.notes_of(*about))),
    )


def activated(one: Readable, index: int, read: ValuesAnswer) -> ActivateAnswer:
    """One feature on a text."""
    values, special = read.features[0].values, set(read.special)
    of_text = [place for place in range(len(values)) if place not in special and values[place] > 0]
    position = max(of_text, key=lambda place: values[place], default=None)
    return ActivateAnswer(
        **ref(one, index),
        model=read.model,
        token_ids=read.token_ids,
        tokens=read.tokens,
        values=values,
        special=read.special,
        n_dropped=read.n_dropped,
        peak=0.0 if position is None else values[position],
        position=position,
    )


def _explanation(one: Explained) -> FeatureExplanation:
    last = {(row["scorer"], row["judge"], row["metric"]): row for row in one.figures}  # in order of run
    row = one.row
    return FeatureExplanation(
        explanation_id=row["explanation_id"],
        explanation=row["explanation"] or "",
        explainer=row["explainer"],
        model=row["model"],
        rule=row["rule"],
        run_id=row["run_id"],
        created_at=row["created_at"],
        bucket=bucket_of(row["explanation"]),
        figures=tuple(Figure(**{name: figure[name] for name in _FIGURE}) for figure in last.values()),
    )


def _of_people(said: Iterable[Label]) -> Iterable[FeatureExplanation]:
    for one in said:
        if one.label is not None:
            yield FeatureExplanation(
                explanation_id=one.label_id,
                explanation=one.label,
                explainer=HUMAN,
                author=one.author,
                created_at=one.at,
                bucket=bucket_of(one.label),
            )


def _label(one: Label) -> FeatureLabel:
    return FeatureLabel(
        label_id=one.label_id, label=one.label, author=one.author, starred=one.starred, updated_at=one.at
    )


def _note(one: Note) -> FeatureNote:
    return FeatureNote(note_id=one.note_id, note=one.note, author=one.author, created_at=one.at)


def _related(row: Mapping[str, Any], measure: str) -> RelatedFeature:
    return RelatedFeature(id=row["id"], index=row["feature"], value=row[measure])
