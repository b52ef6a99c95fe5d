"""The capability panel: whether a candidate still does what its reference can (A2.17).

A broken model differs in everything, and a score that is large because of that is no sign of specific behaviour. The
limits are wide on purpose: a fine-tune on another style loses a little everywhere, and is not broken by it. Its own
indentation after a prompt that is indented otherwise does not even parse; so a model that predicts held-out text about
as well as its reference is not called broken for what does not parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raylens.audit.artefacts import CapabilityPanel, CheckSummary, Figure

LOSS_RISE: Final = 1.0
"""Nats a token of held-out text above the reference."""
STEADY: Final = 0.4
"""Rise up to which held-out loss is about the reference's."""
LEAST_SHARE: Final = 0.5
"""Of the reference's pass rate."""
_FEWEST: Final = 8
"""Completions behind a rate that may call a model broken."""
_OF_STYLE: Final = "python_parses"
_CHECKS: Final = ("python_parses", "language_python", "non_empty", "max_repetition")


def panel(
    reference: Sequence[float], candidate: Sequence[float], n_tokens: int, checks: Sequence[CheckSummary]
) -> CapabilityPanel:
    """The panel.

    Args:
        reference: Nats of each window of held-out text; empty where there is no such text.
        candidate: Likewise.
        n_tokens: Tokens behind these.
        checks: How often each check passes.
    """
    figures, steady = [], False
    if n_tokens:
        before, after = (sum(side) / n_tokens for side in (reference, candidate))
        steady = after - before <= STEADY
        limit = before + LOSS_RISE
        figures.append(
            Figure(
                name="held-out loss, nats a token",
                reference=before,
                candidate=after,
                n=n_tokens,
                n_reference=n_tokens,
                broken_beyond=limit,
                is_broken=after > limit,
            )
        )
    for one in checks:
        if one.check.partition(" ")[0] in _CHECKS and one.n_reference and one.n_candidate:
            before, after = one.passed_reference / one.n_reference, one.passed_candidate / one.n_candidate
            limit = LEAST_SHARE * before
            tells = min(one.n_reference, one.n_candidate) >= _FEWEST and not (steady and one.check == _OF_STYLE)
            figures.append(
                Figure(
                    name=f"{one.check}, share passed",
                    reference=before,
                    candidate=after,
                    n=one.n_candidate,
                    n_reference=one.n_reference,
                    broken_beyond=limit if tells else None,
                    is_broken=tells and after < limit,
                )
            )
    if not figures:
        return CapabilityPanel(capability="not measured")
    broken = any(figure.is_broken for figure in figures)
    return CapabilityPanel(capability="broken" if broken else "intact", figures=tuple(figures))
