"""Which outputs of a suite a report shows: those that differ, and of a long suite those that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raylens.audit.artefacts import CheckOutcome, Completion, PromptResult
from raylens.reports.numbers import count, figure

MOST_SHOWN: Final = 20
"""Outputs in full; a suite may have hundreds."""
MOST_NAMED: Final = 400
"""Names in a list."""
MOST_CHARACTERS: Final = 3000
"""Of one prompt or completion."""
SOURCE: Final = "suite_results.json"


@dataclass(frozen=True, slots=True)
class Outputs:
    """The results of a suite, in parts.

    Attributes:
        shown: In full, the most different first: those of which a check turned out otherwise, then by KL divergence.
        folded: Others that differ.
        alike: Both wrote the same.
    """

    shown: tuple[PromptResult, ...]
    folded: tuple[PromptResult, ...]
    alike: tuple[PromptResult, ...]

    @classmethod
    def of(cls, results: Sequence[PromptResult], most: int = MOST_SHOWN) -> Outputs:
        """In parts."""
        differing = [one for one in results if not one.same_text]
        differing.sort(key=lambda one: (not changed_checks(one), -one.logit_kl))
        return cls(tuple(differing[:most]), tuple(differing[most:]), tuple(one for one in results if one.same_text))

    def summary(self) -> str:
        """How many are alike, and how many of the others are shown."""
        n = len(self.shown) + len(self.folded)
        if not n:
            return f"Both wrote the same on {_all(len(self.alike))}."
        same = f"Both wrote the same on {len(self.alike)} of {count(n + len(self.alike), 'wording')}"
        if not self.folded:
            return f"{same}; those on which they differ follow, checks that changed first, then by KL divergence."
        return (
            f"{same}. Of the {n} others, the {len(self.shown)} most different follow, checks that changed first, then "
            f"by KL divergence; the other {len(self.folded)} are folded, and {SOURCE} has all of them."
        )


def name(result: PromptResult) -> str:
    """The prompt's id, and which wording where it is not the prompt's own."""
    return result.id if result.variant == "original" else f"{result.id} · {result.variant} {result.number}"


def names(results: Sequence[PromptResult]) -> tuple[list[str], int]:
    """Names of up to :data:`MOST_NAMED`, and how many more there are."""
    return [name(one) for one in results[:MOST_NAMED]], max(0, len(results) - MOST_NAMED)


def clipped(text: str) -> tuple[str, str]:
    """Its first :data:`MOST_CHARACTERS`, and a remark on what was cut off; empty where nothing was."""
    if len(text) <= MOST_CHARACTERS:
        return text, ""
    return text[:MOST_CHARACTERS], f"{len(text) - MOST_CHARACTERS} more characters in {SOURCE}"


def changed_checks(result: PromptResult) -> list[tuple[CheckOutcome, CheckOutcome]]:
    """Checks that say one thing of the reference's completion and another of the candidate's."""
    pairs = zip(result.reference.checks, result.candidate.checks, strict=False)
    return [(before, after) for before, after in pairs if before.status != after.status]


def distance(result: PromptResult) -> str:
    """How far the models are from one another on the prompt."""
    features = result.feature_difference
    said = f"KL {figure(result.logit_kl)} nats a token"
    return said if features is None else f"{said}, feature difference {figure(features)}"


def ending(completion: Completion) -> str:
    """How long it is, and why it ends."""
    return f"{count(completion.n_tokens, 'token')}, {'ended by itself' if completion.stopped else 'cut at the limit'}"


def _all(n: int) -> str:
    return "the one wording" if n == 1 else f"all {n} wordings"
