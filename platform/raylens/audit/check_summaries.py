"""How often the checks of a suite pass, of both models."""

from __future__ import annotations

from collections.abc import Iterable

from raylens.audit.artefacts import CheckSummary, PromptResult


def check_summaries(results: Iterable[PromptResult]) -> tuple[CheckSummary, ...]:
    """A row a check, in the order they are met: over the wordings whose completion it applies to."""
    counts: dict[str, list[int]] = {}
    for result in results:
        for at, said in ((0, result.reference), (2, result.candidate)):
            for one in said.checks:
                row = counts.setdefault(one.check, [0, 0, 0, 0])
                row[at] += one.status != "not applicable"
                row[at + 1] += one.status == "pass"
    return tuple(
        CheckSummary(
            check=name,
            n_reference=row[0],
            passed_reference=row[1],
            n_candidate=row[2],
            passed_candidate=row[3],
        )
        for name, row in counts.items()
    )
