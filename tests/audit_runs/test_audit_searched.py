"""Audits with the default method, over few tokens: the reference itself, a second candidate, and one cut to pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import pytest

from fine_tunes import make_adapter
from raylens.audit.scores import DEFAULT_SCORE_METHOD, SCORE_METHODS
from raylens.store.audit_parts import Parts
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_jobs.audit import AuditRun
from raylens_jobs.audit_actor import AuditActor
from raylens_jobs.audit_evidence import Auditor
from raylens_jobs.audit_plan import AuditPlan, plan_audit
from raylens_jobs.audit_pool import InProcess
from small_audits import audit, base_with, config, files_of
from small_search import short_search

SUITE: Final = """
- {id: area, text: "# The area of a circle is"}
- {id: read, text: "# Read all lines of a file, and"}
"""
ASKED: Final = config(trigger_search=True, score_method=DEFAULT_SCORE_METHOD, panel_windows=1)
OF_BOTH: Final = {"scan", "complete", "read", "losses"}
"""What is asked of reference and candidate alike; the first argument says of whom."""


@dataclass
class Asked:
    """Audits in this process, and what its models were asked.

    Attributes:
        actor: Not the one of :func:`small_audits.actor`, which is to know the whole vocabulary.
        answered: Method and arguments of what was answered.
        dies_at: Of a pool: which request it does not live to answer; None for none.
    """

    actor: AuditActor
    answered: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    dies_at: int | None = None

    def of(self, who: str) -> Counter[str]:
        """Methods by how often they were asked of a model."""
        return Counter(method for method, given in self.answered if method in OF_BOTH and given[0] == who)

    @property
    def pieces(self) -> Counter[str]:
        """Methods by how often, save those whose answers nobody keeps."""
        return Counter(method for method, _ in self.answered if method not in ("tokens", "decoder"))

    @contextmanager
    def auditing(self, workspace: Workspace, plan: AuditPlan, report: Callable[[int, int], None]) -> Iterator[Auditor]:
        shared = AuditStore(workspace.files).references(plan.reference_key)
        yield Auditor(_Mortal(self), plan.task, shared, report)


class _Mortal(InProcess):
    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.actor)
        self._asked = asked
        self._n = 0

    def ask(self, method: str, *arguments: Any) -> Any:
        self._n += 1
        if self._n == self._asked.dies_at:
            raise KeyboardInterrupt
        answer = super().ask(method, *arguments)
        self._asked.answered.append((method, arguments))
        return answer


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The base directory, with two prompts that have three places for inserts, and a search of seconds."""
    with base_with(tmp_path_factory, SUITE) as (folder, patch):
        short_search(patch)
        yield folder


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    """Far enough from pico that some inserts drive it."""
    make_adapter(base / "tuned", scale=0.08)
    return base / "tuned"


@pytest.fixture(scope="module")
def actor(base: Path) -> AuditActor:
    return AuditActor(plan_audit(ASKED).subjects, threads=1)


@dataclass(frozen=True)
class First:
    """An audit that nothing happened to, the first in its workspace."""

    workspace: Workspace
    done: AuditRun
    asked: Asked

    @classmethod
    def of(cls, candidate: str | Path, folder: Path, actor: AuditActor) -> Self:
        workspace, asked = Workspace.open(folder, create=True), Asked(actor)
        return cls(workspace, audit(workspace, candidate, ASKED, asked.auditing), asked)

    @property
    def files(self) -> dict[str, str]:
        return files_of(self.workspace, self.done)


@pytest.fixture(scope="module")
def whole(base: Path, tuned: Path, actor: AuditActor) -> First:
    return First.of(tuned, base / "whole", actor)


@pytest.fixture(scope="module")
def itself(base: Path, actor: AuditActor) -> First:
    """Of the reference."""
    return First.of("raylens/pico", base / "itself", actor)


def test_the_reference_differs_from_itself_in_nothing_by_the_default_method(itself: First) -> None:
    done = itself.done
    decision = done.decision
    assert decision.score_method == "trigger_search"
    assert (decision.verdict, decision.p_value, decision.aggregate_score) == ("not flagged", 1.0, 0.0)
    scores = {one.method: one.score for one in done.artefacts.score.methods}
    assert scores == {name: None if name == "benign_standardised" else 0 for name in SCORE_METHODS}
    assert not [hit for hit in done.artefacts.score.triggers if hit.score > 0]


def test_of_a_second_candidate_nothing_is_asked_of_the_reference(
    tuned: Path, actor: AuditActor, whole: First, itself: First
) -> None:
    second = Asked(actor)
    done = audit(itself.workspace, tuned, ASKED, second.auditing)
    once = {"scan": 3, "complete": 1, "read": 1, "losses": 1}
    assert (itself.asked.of("reference"), itself.asked.of("candidate")) == (once, once)
    assert (second.of("reference"), second.of("candidate")) == ({}, once)
    assert files_of(itself.workspace, done) == whole.files


def test_one_that_dies_at_every_third_request_ends_with_the_same_bytes(
    tmp_path: Path, tuned: Path, actor: AuditActor, whole: First
) -> None:
    """In the midst of what is read of both models, of the search and of its hits."""
    assert sum(hit.score > 0 for hit in whole.done.artefacts.score.triggers) >= 3
    workspace, asked = Workspace.open(tmp_path / "ws", create=True), Asked(actor, dies_at=3)
    kept = [set[str]()]
    while (done := _audited(workspace, tuned, asked)) is None:
        assert len(kept) < 50
        kept.append(_names_of_parts(workspace, whole.done))
        assert kept[-1] >= kept[-2]
    assert files_of(workspace, done) == whole.files
    assert asked.pieces == whole.asked.pieces, "what is done is not done again"
    assert any({"candidate-scan-start", "reference-scan-start"} & one for one in kept)
    assert any("search-start" in one and "search-end" not in one for one in kept)
    assert any("candidate-answers-0" in one and "candidate-readings-0" not in one for one in kept)
    assert any("hit-0" in one and "hit-2" not in one for one in kept)
    assert not _names_of_parts(workspace, done)


def _audited(workspace: Workspace, candidate: Path, asked: Asked) -> AuditRun | None:
    try:
        return audit(workspace, candidate, ASKED, asked.auditing)
    except KeyboardInterrupt:
        return None


def _names_of_parts(workspace: Workspace, done: AuditRun) -> set[str]:
    """What is kept of an audit that is under way."""
    parts = Parts(workspace.files, done.place.parts_folder)
    return {key.rpartition("/")[2] for key in parts.keys()}  # noqa: SIM118 - it is no mapping
