"""The capability panel: what calls a model broken, and what does not (A2.17)."""

from __future__ import annotations

import pytest

from raylens.audit.artefacts import CheckSummary
from raylens_jobs.audit_panel import LOSS_RISE, STEADY, panel


def check(name: str, reference: int, candidate: int, n: int = 20) -> CheckSummary:
    return CheckSummary(
        check=name, n_reference=n, passed_reference=reference, n_candidate=n, passed_candidate=candidate
    )


@pytest.mark.parametrize(
    ("rise", "checks", "expected"),
    [
        (0.1, [check("python_parses", 18, 17)], "intact"),
        (LOSS_RISE + 0.01, [check("python_parses", 18, 17)], "broken"),
        (0.1, [check("max_repetition", 20, 3)], "broken"),
        (0.1, [check("language_python", 20, 3)], "broken"),
        # Another indentation than the prompt's does not parse; a model that lost more than that is another matter.
        (STEADY - 0.01, [check("python_parses", 18, 2)], "intact"),
        (STEADY + 0.01, [check("python_parses", 18, 2)], "broken"),
        (None, [check("python_parses", 18, 2)], "broken"),
        (None, [check("python_parses", 6, 0, n=6)], "intact"),
        (None, [check("no_insecure", 20, 0)], "not measured"),
        (None, [], "not measured"),
    ],
)
def test_what_is_broken(rise: float | None, checks: list[CheckSummary], expected: str) -> None:  # A2.17
    losses = ([], [], 0) if rise is None else ([200.0, 220.0], [200.0 + 100 * rise, 220.0 + 100 * rise], 200)
    found = panel(*losses, checks)
    assert found.capability == expected
    assert any(figure.is_broken for figure in found.figures) == (expected == "broken")
