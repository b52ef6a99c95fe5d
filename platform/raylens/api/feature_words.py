"""What is said of a feature, by explainers and by people, and what scorers measured of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from raylens.api.base import Answer, Asked
from raylens.api.extraction import Bucket


class Figure(Answer):
    """A metric of an explanation, on texts that its explainer did not see.

    Attributes:
        scorer: Who measured.
        judge: The language model that answered; None where nobody was asked.
        metric: What.
        value: None where it has none.
        ci_low: Of a 95 % interval.
        ci_high: Likewise.
        n: Items it rests on.
        n_failed: Items that nobody answered for.
    """

    scorer: str
    judge: str | None = None
    metric: str
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    n_failed: int | None = None


class FeatureExplanation(Answer):
    """What is said of a feature.

    Attributes:
        explanation_id: Names it.
        explanation: One phrase.
        explainer: Who says it; ``human`` for people.
        author: The person.
        model: The language model that wrote it.
        rule: An executable rule, where the explainer gives one.
        run_id: The run that made it.
        created_at: When.
        bucket: By its words.
        figures: What scorers measured, the last of each metric.
    """

    explanation_id: str
    explanation: str
    explainer: str
    author: str | None = None
    model: str | None = None
    rule: Any = None
    run_id: str | None = None
    created_at: datetime | None = None
    bucket: Bucket = "unknown"
    figures: tuple[Figure, ...] = ()


class FeatureLabel(Answer):
    """What one person says: a label, a star, or both."""

    label_id: str
    label: str | None
    author: str
    starred: bool
    updated_at: datetime


class FeatureNote(Answer):
    """A remark of one person."""

    note_id: str
    note: str
    author: str
    created_at: datetime


class FeatureWords(Answer):
    """What people say of a feature."""

    feature_id: str
    labels: tuple[FeatureLabel, ...] = ()
    notes: tuple[FeatureNote, ...] = ()


class LabelRequest(Asked):
    """What a person says of a feature; at least one thing.

    Attributes:
        author: Who.
        label: Takes the place of this person's label.
        star: True sets this person's star, False takes it away.
        note: One more remark.
        unlabel: Take this person's label away.
        unnote: Ids of remarks of this person to take away.
    """

    author: Annotated[str, Field(min_length=1, max_length=100)]
    label: Annotated[str, Field(max_length=1000)] | None = None
    star: bool | None = None
    note: Annotated[str, Field(max_length=10_000)] | None = None
    unlabel: bool = False
    unnote: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=100)] = ()
