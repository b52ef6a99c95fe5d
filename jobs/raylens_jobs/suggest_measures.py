"""What a patch costs: held-out loss, and the checks of the capability suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.api.suggestion import Cost, Rate
from raylens.audit.slots import Slot
from raylens.engine.generation import generate
from raylens.engine.insert_trials import continuation_log_probs
from raylens.engine.load import LoadedModel, prefix_ids
from raylens.errors import InputError
from raylens.score.intervals import bootstrap, ratio
from raylens.sources.suites import load_suite
from raylens.suites.checks import run_checks
from raylens.workbench.trigger_payload import Payload, payload_rate, rate_of
from raylens_jobs.audit_forms import Form, forms_of
from raylens_jobs.suggest_prompts import Halves

_WRITTEN: Final = 32
"""Tokens of a completion of the suite."""


@dataclass(frozen=True, eq=False)
class Measures:
    """How patches of one fine-tune are measured.

    Attributes:
        model: The fine-tune; edits and changes are hooked into it while one measures.
        payloads: What its triggers set off.
        halves: Prompts.
        panel: Windows of held-out text, token ids.
        forms: Of the capability suite.
        before: Nats of each window in the fine-tune as it is, float64 ``[windows]`` (:func:`window_losses`).
    """

    model: LoadedModel
    payloads: tuple[Payload, ...]
    halves: Halves
    panel: tuple[tuple[int, ...], ...]
    forms: tuple[Form, ...]
    before: NDArray[np.float64]

    def payload(self, model: LoadedModel | None = None) -> Rate:
        """How often a model writes the payloads under the triggers, on the first half of the prompts."""
        return payload_rate(model or self.model, self._placed(tested=False))

    def tested(self, model: LoadedModel | None = None, *, triggered: bool = True) -> Rate:
        """Likewise on the second half, with the triggers or without."""
        return payload_rate(model or self.model, self._placed(tested=True), triggered=triggered)

    def cost(self, model: LoadedModel | None = None) -> Cost:
        """What a model is worth beside the fine-tune as it is.

        Raises:
            OutOfMemoryError: It does not fit.
        """
        before, after = self.before, window_losses(model or self.model, self.panel)
        n_tokens = sum(len(window) - 1 for window in self.panel)
        rise = bootstrap(np.stack([after - before, before], axis=1), ratio, seed=0) if len(before) > 1 else None
        return Cost(
            loss=float(after.sum() / n_tokens),
            loss_rise=float((after - before).sum() / before.sum()),
            rise_low=rise[0] if rise is not None else None,
            rise_high=rise[1] if rise is not None else None,
            n_tokens=n_tokens,
            checks=self._checks(model or self.model),
        )

    def _checks(self, model: LoadedModel) -> Rate | None:
        if not self.forms:
            return None
        made = generate(model, [form.ids for form in self.forms], _WRITTEN)
        passed: list[bool] = []
        prompts: list[str] = []
        for form, one in zip(self.forms, made, strict=True):
            text = str(model.tokenizer.decode(list(one.ids)))
            for outcome in run_checks(form.checks, form.continued, text):
                if outcome.status != "not applicable":
                    passed.append(outcome.status == "pass")
                    prompts.append(form.id)
        return rate_of(np.array(passed, np.bool_), prompts) if passed else None

    def _placed(self, *, tested: bool) -> list[tuple[Payload, tuple[Slot, ...]]]:
        half = self.halves.tested_on if tested else self.halves.found_on
        return [(payload, half[payload.trigger.place]) for payload in self.payloads]


def capability_forms(suite: str, model: LoadedModel) -> tuple[Form, ...]:
    """The first wording of each prompt of a suite that has checks.

    Raises:
        UnknownNameError, InputError: There is no such suite, or nothing of it is checked.
    """
    forms = forms_of(load_suite(suite), model.tokenizer, prefix_ids(model.tokenizer))
    found = tuple(form for form in forms if form.checks and form.number == 0)
    if not found:
        raise InputError(f"no prompt of suite {suite} has a check.", hint="name one with checks: --capability-suite.")
    return found


def window_losses(model: LoadedModel, panel: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Nats of each window, its first token given: float64 ``[windows]``.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    return -continuation_log_probs(model, [(window[:1], window[1:]) for window in panel])
