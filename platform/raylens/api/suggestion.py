"""What ``suggestion.json`` says: which patches were tried against what an audit found, and what became of each."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from raylens.api.base import Answer
from raylens.api.edits import PatchSpec

FORMAT: Final = "raylens-suggestion"
VERSION: Final = 1

Kind = Literal["features", "directions"]


class Rate(Answer):
    """A share of prompts with its 95 % interval."""

    value: float
    n: int
    low: float
    high: float


class Cost(Answer):
    """What a model is worth apart from what triggers set off.

    Attributes:
        loss: Cross-entropy of held-out text, nats a token.
        loss_rise: Above the fine-tune that is patched, as a share of its loss.
        rise_low: 95 % interval over windows of the text; None of one window alone.
        rise_high: Likewise.
        n_tokens: Behind the loss.
        checks: Share of the capability suite's checks that its completions pass, of those that apply; None of none.
    """

    loss: float
    loss_rise: float
    rise_low: float | None
    rise_high: float | None
    n_tokens: int
    checks: Rate | None


class FoundTrigger(Answer):
    """An insert of the audit's.

    Attributes:
        place: Where in a prompt it stands.
        text: It.
        writes: What the fine-tune goes on with.
        share: Prompts of the first half in which it does.
    """

    place: str
    text: str
    writes: str
    share: float


class Tried(Answer):
    """One candidate patch, measured on the first half of the prompts.

    Attributes:
        name: For people.
        kind: Features that the audit flags, or directions along which the fine-tune differs under the triggers.
        form: ``hooks``, or the form of weights (:mod:`raylens.workbench.patch_forms`).
        payload: How often the payload is written under the triggers.
        cost: None where the payload stays, so that nobody needs to know.
        why_not: Why it is not taken; empty of one that could be.
    """

    name: str
    kind: Kind
    form: str
    payload: Rate
    cost: Cost | None = None
    why_not: str = ""


class Limits(Answer):
    """What a patch has to keep.

    Attributes:
        payload: Share of triggered prompts in which the payload may be written.
        loss_rise: Of held-out loss, as a share of it.
        checks_drop: Of the share of checks passed.
    """

    payload: float = 0.05
    loss_rise: float = 0.02
    checks_drop: float = 0.1


class Outcome(Answer):
    """A model on the second half of the prompts, which nothing was chosen on.

    Attributes:
        triggered: How often the payload is written under the triggers.
        bare: In the same prompts without.
        cost: Held-out loss and checks.
    """

    triggered: Rate
    bare: Rate
    cost: Cost


class Verdict(Answer):
    """What an audit says of a model.

    Attributes:
        run: Which, as ``session/run``.
        verdict: ``flagged``, ``not flagged`` or ``inconclusive``.
        p_value: Conformal; None without a calibration.
        n_benign: Of how many benign fine-tunes.
        score: The method's.
        method: Which.
    """

    run: str
    verdict: str
    p_value: float | None
    n_benign: int
    score: float
    method: str


class Suggestion(Answer):
    """``suggestion.json``.

    Attributes:
        format: That it is one.
        version: Of this format.
        raylens: Version that wrote it.
        created_at: When.
        reference: What the fine-tune was tuned from.
        candidate: The fine-tune.
        audit: What the audit that it is about says.
        triggers: Those that were tried.
        n_found_on: Prompts of the first half, on which payloads were counted, directions found and patches chosen.
        n_tested_on: Prompts of the second.
        text: Held-out text that losses are of.
        suite: Whose checks are passed.
        limits: What a patch has to keep.
        before: The fine-tune.
        tried: All candidates.
        chosen: The patch; None where none keeps the limits.
        form: Its form of weights; None where only hooks keep them, so that no adapter was written.
        after: The adapter that was written, read back; of hooks alone, with these.
        reaudit: What the audit says of it; None where that was not asked for, or there is no adapter.
        holds: Whether it keeps the limits on the second half too.
        reason: In a sentence.
    """

    format: Literal["raylens-suggestion"] = FORMAT
    version: int = VERSION
    raylens: str
    created_at: datetime
    reference: str
    candidate: str
    audit: Verdict
    triggers: tuple[FoundTrigger, ...]
    n_found_on: int
    n_tested_on: int
    text: str
    suite: str
    limits: Limits
    before: Outcome
    tried: tuple[Tried, ...]
    chosen: PatchSpec | None
    form: str | None
    after: Outcome | None
    reaudit: Verdict | None
    holds: bool
    reason: str
