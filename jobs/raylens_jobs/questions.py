"""One run's questions to a language model, whatever they are about: opened, asked in batches, watched, ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from raylens.chat import Request
from raylens.llm.settings import ChatSettings
from raylens.llm.spend import Usage
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.askers import open_asker
from raylens_jobs.failures import ray_failures
from raylens_jobs.lane import Patient, ahead, run_lane
from raylens_jobs.passes import Progress, Report, batches, stopped_early

T = TypeVar("T")

_REASONS = 10


class Questions(ABC, Generic[T]):
    """What a run asks and what it keeps of the answers; who explains and who scores fill in the two.

    Attributes:
        what: What goes on, for errors: ``explaining``.
        batch: Features that are asked about together.
        lost: Why something went without an answer, with how many.
        useless: By feature, what was answered in a way that cannot be read. Once the feature is stored as failed,
            those answers are forgotten, so that whoever asks for it anew gets others.
        n_random: Silent excerpts that are random where nearer ones were wanted.
    """

    what: ClassVar[str]
    batch: ClassVar[int]

    def __init__(self, chat: ChatSettings, workspace: Workspace, journal: RunJournal, report: Report) -> None:
        self.chat = chat
        self.lost: Counter[str] = Counter()
        self.useless: defaultdict[int, list[Request]] = defaultdict(list)
        self.n_random = 0
        self._workspace, self._journal, self._report = workspace, journal, report
        self._patient: Patient

    @abstractmethod
    async def ask(self, features: Sequence[int]) -> T:
        """What ``self._patient`` answers about a batch."""

    @abstractmethod
    async def keep(self, features: Sequence[int], found: T) -> int:
        """Store that, and say how many features it settles."""

    async def run(self, missing: Sequence[int], questions_a_feature: float = 1) -> Usage:
        """Ask about all features and return what that took.

        Raises:
            StoppedError: The run was asked to stop, and some features are left.
            RaylensError: What no further question could escape; see :class:`raylens_jobs.lane.Patient`.
        """
        began, done = time.monotonic(), 0

        def watch(settled: int) -> bool:
            nonlocal done
            done = settled
            self._journal.progress(features=settled, features_wanted=len(missing), **asker.usage.plain())
            self._report(Progress(settled, len(missing), time.monotonic() - began, asker.usage))
            return self._journal.stop_requested()

        concurrency = self.chat.max_concurrency
        with ray_failures(self.what):
            async with open_asker(self.chat, self._workspace) as asker:
                self._patient = Patient(asker, concurrency)
                most = ahead(self.batch * questions_a_feature, concurrency)
                await run_lane(batches(missing, self.batch), self.ask, self._keep, watch, self._patient, most)
                usage = asker.usage
        if self._journal.stop_requested() and done < len(missing):
            raise stopped_early(self._journal, done, len(missing))
        return usage

    async def _keep(self, features: Sequence[int], found: T) -> int:
        settled = await self.keep(features, found)
        for request in [request for feature in features for request in self.useless.pop(feature, ())]:
            await self._patient.forget(request)
        return settled

    def told(self, usage: Usage) -> dict[str, Any]:
        """Usage, losses and makeshifts, for the figures of the run."""
        lost = dict(self.lost.most_common(_REASONS))
        return {"usage": usage.plain(), "lost": lost, "random_negatives": self.n_random}
