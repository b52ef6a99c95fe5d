"""``raylens suites vary --model``: other wordings of a suite's prompts, asked of a language model.

Prompts are asked about side by side in one event loop, and nothing but replies is stored on the way: the suite is
whole or not there. A run that ended early is run again, and finds every reply that was paid for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from raylens.chat import Request
from raylens.errors import InputError, RunError, StoppedError
from raylens.explain.prompts import Prompts
from raylens.llm.errors import EndpointUnavailableError, RequestRefusedError
from raylens.llm.settings import ChatSettings, OfflineSettings
from raylens.llm.spend import Usage
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens.suites.paraphrases import (
    Reading,
    paraphrase_request,
    read_paraphrases,
    retry_request,
    with_paraphrases,
)
from raylens.suites.suite import Prompt, Suite, Variant
from raylens.suites.suite_parsing import MAX_VARIANTS
from raylens_jobs.askers import open_asker
from raylens_jobs.lane import Gone, Patient, in_own_loop, run_lane

_REASONS: Final = 10
_ELSEWHERE: Final = "what it was given says what another prompt says already."

Report = Callable[[int, int, Usage], None]
"""Told how many prompts are settled, of how many, and what that took."""
Status = Literal["ok", "short", "failed", "unanswered"]


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of one prompt; ``why`` there are no more, empty where there are as many as were asked for."""

    variants: tuple[Variant, ...] = ()
    why: str = ""
    answered: bool = True


def run_paraphrase(
    suite: Suite,
    per_prompt: int,
    prompts: Prompts,
    workspace: Workspace,
    journal: RunJournal,
    report: Report,
    chat: ChatSettings,
    address: str | None = None,
) -> tuple[Suite, dict[str, Any]]:
    """Add up to ``per_prompt`` paraphrases to each prompt of a suite.

    Args:
        suite: What there is; its variants are kept.
        per_prompt: Paraphrases of each, at least 1.
        prompts: Of :func:`raylens.suites.paraphrases.paraphrase_prompts`.
        workspace: Where replies are kept.
        journal: Of this run.
        report: Called about once a second.
        chat: Who is asked.
        address: The Ray cluster that an offline model runs on; by default one of its own.

    Returns:
        The suite, and figures: ``n_prompts``, ``n_variants`` added, how many prompts are ``short`` of paraphrases,
        ``failed`` (answered, and none could be used) or ``unanswered``, ``without`` (ids of the last two), ``reasons``
        with how many prompts each, ``usage``, ``cost_usd`` (None where that is not known) and ``seconds``.

    Raises:
        BudgetReached, EndpointRefusedError: Every answer that was paid for is kept.
        EndpointUnavailableError: The endpoint is gone; likewise.
        StoppedError: The run was asked to stop; likewise.
        RunError: No prompt was given a paraphrase.
        InputError: None can be, since all have as many variants as a suite holds.
    """
    if all(len(prompt.variants) >= MAX_VARIANTS for prompt in suite.prompts):
        raise InputError(
            f"every prompt of {suite.name} has {MAX_VARIANTS} variants, and a suite holds no more of one.",
            hint="leave some out, or all of them with --anew.",
        )
    began = time.monotonic()
    asking = _Asking(suite, per_prompt, prompts, workspace, journal, report)
    with _ray(chat, address):
        usage = in_own_loop(asking.run(chat))
    varied = with_paraphrases(suite, {name: one.variants for name, one in asking.found.items()})
    statuses, reasons = _settled(suite, varied, asking.found)
    kinds = Counter(statuses.values())
    n_variants = varied.n_forms - suite.n_forms
    if not n_variants:
        (reason, _), *_ = reasons.most_common()
        raise RunError(
            f"none of {len(suite.prompts):,} prompts was given a paraphrase: {reason}",
            hint="see whether the endpoint and its model are what you meant; nothing was written.",
        )
    cost = usage.usd + usage.lost_usd
    return varied, {
        "n_prompts": len(suite.prompts),
        "n_variants": n_variants,
        "short": kinds["short"],
        "failed": kinds["failed"],
        "unanswered": kinds["unanswered"],
        "without": [name for name, status in statuses.items() if status in {"failed", "unanswered"}],
        "reasons": dict(reasons.most_common(_REASONS)),
        "usage": usage.plain(),
        "cost_usd": None if usage.unpriced else round(cost, 6),
        "seconds": round(time.monotonic() - began, 3),
    }


def _settled(suite: Suite, varied: Suite, found: dict[str, _Found]) -> tuple[dict[str, Status], Counter[str]]:
    """How each prompt that was asked about ended, and why some have fewer paraphrases than was wanted."""
    statuses: dict[str, Status] = {}
    reasons: Counter[str] = Counter()
    for before, after in zip(suite.prompts, varied.prompts, strict=True):
        one = found.get(before.id)
        if one is None:
            continue
        n_new = len(after.variants) - len(before.variants)
        why = one.why or (_ELSEWHERE if n_new < len(one.variants) else "")
        reasons.update([why] if why else [])
        statuses[before.id] = "unanswered" if not one.answered else "failed" if not n_new else "short" if why else "ok"
    return statuses, reasons


class _Asking:
    """The questions of one run.

    Attributes:
        found: By prompt.
    """

    def __init__(
        self,
        suite: Suite,
        per_prompt: int,
        prompts: Prompts,
        workspace: Workspace,
        journal: RunJournal,
        report: Report,
    ) -> None:
        self.found: dict[str, _Found] = {}
        self._suite, self._per_prompt, self._prompts = suite, per_prompt, prompts
        self._workspace, self._journal, self._report = workspace, journal, report
        self._useless: list[Request] = []
        self._patient: Patient

    async def run(self, chat: ChatSettings) -> Usage:
        asked = [at for at, prompt in enumerate(self._suite.prompts) if self._wanted(prompt)]
        most = 2 * chat.max_concurrency

        def watch(settled: int) -> bool:
            self._journal.progress(prompts=settled, prompts_wanted=len(asked), **asker.usage.plain())
            self._report(settled, len(asked), asker.usage)
            return self._journal.stop_requested()

        async with open_asker(chat, self._workspace) as asker:
            self._patient = Patient(asker, chat.max_concurrency)
            await run_lane([[at] for at in asked], self._ask, self._keep, watch, self._patient, most)
            if len(self.found) < len(asked):
                raise StoppedError(
                    f"run {self._journal.run_id} was stopped after {len(self.found):,} of {len(asked):,} prompts.",
                    hint="nothing was written; the same command goes on from there.",
                )
            # Whoever asks again about a prompt without a paraphrase shall get another answer than these.
            for request in self._useless:
                await self._patient.forget(request)
            return asker.usage

    def _wanted(self, prompt: Prompt) -> int:
        return min(self._per_prompt, MAX_VARIANTS - len(prompt.variants))

    async def _ask(self, batch: Sequence[int]) -> _Found:
        (at,) = batch
        prompt = self._suite.prompts[at]
        try:
            return await self._answer(prompt, self._wanted(prompt))
        except Gone:
            raise
        except EndpointUnavailableError as error:
            return _Found(why=error.message, answered=False)
        except RequestRefusedError as error:
            return _Found(why=error.message)

    async def _keep(self, batch: Sequence[int], found: _Found) -> int:
        self.found[self._suite.prompts[batch[0]].id] = found
        return 1

    async def _answer(self, prompt: Prompt, wanted: int) -> _Found:
        """Its paraphrases, asked for once more with the reason where the first reply holds too few."""
        request = paraphrase_request(prompt, wanted, self._prompts)
        reply = await self._patient.ask(request)
        first = read_paraphrases(reply, prompt)
        why = first.shortage(wanted)
        if not why:
            return _Found(first.variants[:wanted])
        left = wanted - len(first.variants)
        again = retry_request(request, reply.text, why, left, self._prompts)
        second = await self._reading(again, prompt, first)
        variants = (*first.variants, *second.variants)[:wanted]
        if not variants:
            self._useless += [request, again]
        then = second.shortage(left)
        return _Found(variants, f"{why} Asked again: {then}" if then else "")

    async def _reading(self, again: Request, prompt: Prompt, first: Reading) -> Reading:
        """What the second reply adds; where it is lost, what the first gave is kept."""
        try:
            reply = await self._patient.ask(again)
        except Gone:
            raise
        except EndpointUnavailableError as error:
            if not first.variants:
                raise
            return Reading((), (error.message,))
        except RequestRefusedError as error:
            return Reading((), (error.message,))
        return read_paraphrases(reply, prompt, {one.said for one in first.variants})


@contextmanager
def _ray(chat: ChatSettings, address: str | None) -> Iterator[None]:
    """Ray is for a model of one's own alone; an endpoint is asked without."""
    if not isinstance(chat, OfflineSettings):
        yield
        return
    from raylens_jobs.cluster import cluster
    from raylens_jobs.failures import ray_failures

    with cluster(address), ray_failures("paraphrasing"):
        yield
