"""Which features changed, and where it shows: what of the evidence needs tokens as a model reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.audit.differences import NOISE, differences
from raylens.audit.effects import Effects, paired_effects
from raylens.audit.feature_rows import Highlight
from raylens.audit.feature_rows import Side as HighlightSide
from raylens.audit.pooling import PromptCodes
from raylens_jobs.audit_evidence import Evidence, Side
from raylens_jobs.audit_forms import Form
from raylens_jobs.audit_scores import Features

_HIGHLIGHTED: Final = 5
_HIGHLIGHT_TOKENS: Final = 256

Read = Callable[[Sequence[Sequence[int]]], list[list[str]]]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Features that changed.

    Attributes:
        effects: Of all tested ones.
        rows: Of those that are listed, the largest first.
        highlights: Of the first few.
    """

    effects: Effects
    rows: NDArray[np.intp]
    highlights: tuple[Highlight, ...]

    @property
    def listed(self) -> list[int]:
        """Features that are listed, by index."""
        return [int(self.effects.feature[row]) for row in self.rows]


def changes_of(forms: Sequence[Form], k: int, features: Features, evidence: Evidence, read: Read) -> Changes:
    """What changed.

    Args:
        forms: All wordings of the suite.
        k: Features listed at most.
        features: Of both models.
        evidence: What was measured.
        read: Token ids as people read them.
    """
    clusters = np.array([forms[at].id for at in features.rows])
    effects = paired_effects(features.reference, features.candidate, clusters)
    rows = effects.largest(k)
    shown = [int(effects.feature[row]) for row in rows[:_HIGHLIGHTED]]
    return Changes(effects, rows, tuple(_highlights(forms, features, evidence, shown, read)))


def _highlights(
    forms: Sequence[Form], features: Features, evidence: Evidence, listed: Sequence[int], read: Read
) -> list[Highlight]:
    """Each feature on the wording where its pooled value differs most."""
    difference = differences(features.reference, features.candidate, noise=NOISE).tocsc()
    places = []
    for index in listed:
        column = difference[:, [index]].toarray()[:, 0]
        places.append((index, int(features.rows[np.abs(column).argmax()])))
    sides = ((evidence.reference, features.reference_codes), (evidence.candidate, features.candidate_codes))
    ids = [_ids(forms[at], side, at) for _, at in places for side, _ in sides]
    texts = iter(read(ids))
    found = []
    for index, at in places:
        shown = [_side(next(texts), codes[at], index, len(forms[at].ids)) for _, codes in sides]
        form = forms[at]
        found.append(
            Highlight(index=index, prompt=form.id, variant=form.variant, reference=shown[0], candidate=shown[1])
        )
    return found


def _ids(form: Form, side: Side, at: int) -> list[int]:
    return [*form.ids, *side.completions[at]["ids"]][:_HIGHLIGHT_TOKENS]


def _side(tokens: Sequence[str], codes: PromptCodes, index: int, n_prompt: int) -> HighlightSide:
    activations = np.zeros(codes.n_positions)
    mine = codes.feature == index
    activations[codes.position[mine]] = codes.activation[mine]
    kept = [round(float(value), 6) for value in activations[: len(tokens)]]
    return HighlightSide(tokens=tuple(tokens), activations=tuple(kept), n_prompt_tokens=min(n_prompt, len(tokens)))
