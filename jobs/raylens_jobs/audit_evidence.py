"""All that is measured of candidates against one reference, over a pool of actors.

What is of the reference alone is kept in the workspace and read again for the next candidate, so that one costs its
own forward passes only. What is done of a candidate is kept as it comes, until its audit is finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import ray

from raylens.audit.slots import Place, places
from raylens.engine.readings import PromptReading, from_bytes
from raylens.engine.trigger_search import SearchSettings
from raylens_jobs.audit_actor import AuditActor, FineTune, Subjects, Who
from raylens_jobs.audit_forms import Form, frames_of
from raylens_jobs.audit_pool import Keep, Piece, Pool, RayPool
from raylens_jobs.failures import ray_failures
from raylens_jobs.workers import Workers

_FORMS: Final = 16
"""Wordings a piece of work: what is done over when an audit is interrupted."""
_HITS: Final = 10
_FEATURES: Final = 5


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured, whatever the candidate.

    Attributes:
        forms: All wordings of the suite.
        max_new_tokens: Written at most.
        panel: Windows of held-out text, for the capability panel; may be empty.
        search: How far the search for triggers goes; None for no search.
        methods: Score methods that need an engine besides the search: ``weight_projection``, ``difference_sae``.
        named: Inserts whose features are named, the best first.
    """

    forms: tuple[Form, ...]
    max_new_tokens: int
    panel: tuple[tuple[int, ...], ...]
    search: SearchSettings | None
    methods: tuple[str, ...] = ("weight_projection", "difference_sae")
    named: int = 3

    @property
    def places(self) -> tuple[Place, ...]:
        """Where inserts are tried."""
        return places(frames_of(self.forms)) if self.search is not None else ()


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What one model gave: completions, readings and losses."""

    completions: tuple[Mapping[str, Any], ...]
    readings: tuple[PromptReading, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What was measured of a candidate.

    Attributes:
        reference: The reference's side.
        candidate: The candidate's.
        weight_projection: ``score`` and ``note``.
        difference_sae: Likewise.
        hits: Inserts found, the best first; None where no search was made.
    """

    reference: Side
    candidate: Side
    weight_projection: Mapping[str, Any] | None
    difference_sae: Mapping[str, Any] | None
    hits: tuple[Mapping[str, Any], ...] | None


class Auditor:
    """Measures candidates against one reference; on a cluster made by :func:`auditor`.

    Args:
        pool: Who does the work.
        task: What to measure.
        shared: Where the reference's pieces are kept.
        report: Called with pieces done and pieces in all.
    """

    def __init__(
        self, pool: Pool, task: Task, shared: Keep, report: Callable[[int, int], None] = lambda _a, _b: None
    ) -> None:
        self._pool = pool
        self._task = task
        self._shared = shared
        self._report = report
        self._done = self._total = 0

    def evidence(self, ref: str, own: Keep, revision: str | None = None) -> Evidence:
        """Measure a candidate.

        Args:
            ref: As :func:`raylens.engine.candidates.load_candidate` takes it.
            own: Where its pieces are kept.
            revision: That these pieces are of; None where nobody can change it.

        Raises:
            MismatchError, InputError, DamagedFileError: The candidate cannot be loaded or compared, or is not of that
                revision any more.
            RunError: An actor failed.
        """
        candidate, task, chunks = FineTune(ref, revision), self._task, self._chunks()
        self._done, self._total = 0, 4 * len(chunks) + 2 + 3 * len(task.places) + len(task.methods)
        with ray_failures("the audit"):
            self._run(self._pieces(candidate, chunks, own))
            hits = self._hits(candidate, own) if task.search is not None else None
        return Evidence(
            self._side("reference", chunks, self._shared),
            self._side("candidate", chunks, own),
            _json(own.get_part("weight_projection")) if "weight_projection" in task.methods else None,
            _json(own.get_part("difference_sae")) if "difference_sae" in task.methods else None,
            hits,
        )

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Each token as people read it."""
        return self._pool.ask("tokens", rows)

    def decoder(self) -> Any:
        """Decoder rows of the SAE; None without one."""
        return self._pool.ask("decoder")

    def release(self) -> None:
        """Give back the cores and GPUs that the work was done on; nothing can be asked after that.

        Whatever runs on the same cluster next would otherwise wait for them for ever.
        """
        with ray_failures("the audit"):
            self._pool.release()

    def _pieces(self, candidate: FineTune, chunks: Sequence[Sequence[Form]], own: Keep) -> list[Piece]:
        """All but what is asked of the best inserts; what takes longest begins first, so that no worker ends late."""
        task = self._task
        sides: tuple[tuple[Who, Keep], ...] = (("reference", self._shared), ("candidate", own))
        methods = {name: Piece.of(own, name, name, *_arguments(name, candidate, task)) for name in task.methods}
        scans = [
            (
                place,
                [Piece.of(keep, f"{who}-scan-{place.name}", "scan", who, candidate, place) for who, keep in sides],
            )
            for place in task.places
        ]
        found = [methods.pop("difference_sae")] if "difference_sae" in methods else []
        found += [piece for _, both in scans for piece in both]
        found += [self._search(candidate, place, both, own) for place, both in scans]
        for at, chunk in enumerate(chunks):
            answers = [
                Piece.of(keep, f"{who}-answers-{at}", "complete", who, candidate, chunk, task.max_new_tokens)
                for who, keep in sides
            ]
            of_reference = self._reading("reference", candidate, at, chunk, answers[0])
            of_candidate = self._reading("candidate", candidate, at, chunk, answers[1], of_reference)
            found += [*answers, of_reference, of_candidate]
        found += methods.values()
        return found + [Piece.of(keep, f"{who}-losses", "losses", who, candidate, task.panel) for who, keep in sides]

    def _reading(
        self,
        who: Who,
        candidate: FineTune,
        at: int,
        chunk: Sequence[Form],
        answers: Piece,
        reference: Piece | None = None,
    ) -> Piece:
        """Of prompts with their answers; the candidate's are compared with the reference's."""

        def arguments() -> tuple[Any, ...]:
            written = [one["ids"] for one in _json(answers.answer)]
            return who, candidate, chunk, written, reference.answer if reference is not None else None

        needs = (answers,) if reference is None else (answers, reference)
        return Piece(answers.keep, f"{who}-readings-{at}", "read", arguments, needs)

    def _search(self, candidate: FineTune, place: Place, scans: Sequence[Piece], own: Keep) -> Piece:
        settings = self._task.search

        def arguments() -> tuple[Any, ...]:
            return candidate, place, *(scan.answer for scan in scans), settings

        return Piece(own, f"search-{place.name}", "search", arguments, tuple(scans))

    def _hits(self, candidate: FineTune, own: Keep) -> tuple[Mapping[str, Any], ...]:
        """The best inserts of all places, with features of the very best."""
        places = self._task.places
        found = [hit for place in places for hit in _json(own.get_part(f"search-{place.name}"))]
        hits = sorted(found, key=lambda hit: (-hit["score"], hit["slot"], hit["text"]))[:_HITS]
        by_name = {place.name: place for place in places}
        named = [hit for hit in hits[: self._task.named] if hit["score"] > 0]
        self._run(
            [
                Piece.of(own, f"hit-{at}", "hit_features", candidate, by_name[hit["slot"]], hit["text"], _FEATURES)
                for at, hit in enumerate(named)
            ]
        )
        read = [_json(own.get_part(f"hit-{at}")) for at in range(len(named))]
        return tuple({**hit, **(_driven(read[at]) if at < len(read) else _driven([]))} for at, hit in enumerate(hits))

    def _side(self, who: Who, chunks: Sequence[Sequence[Form]], keep: Keep) -> Side:
        completions = [one for at in range(len(chunks)) for one in _json(keep.get_part(f"{who}-answers-{at}"))]
        readings = [
            one for at in range(len(chunks)) for one in from_bytes(keep.get_part(f"{who}-readings-{at}") or b"")
        ]
        return Side(tuple(completions), tuple(readings), tuple(_json(keep.get_part(f"{who}-losses"))))

    def _chunks(self) -> list[tuple[Form, ...]]:
        forms = self._task.forms
        return [forms[first : first + _FORMS] for first in range(0, len(forms), _FORMS)]

    def _run(self, pieces: Sequence[Piece]) -> None:
        """Have those done that are missing."""
        missing = [piece for piece in pieces if piece.answer is None]
        self._tell(len(pieces) - len(missing))
        self._pool.run(missing, lambda: self._tell(1))

    def _tell(self, done: int) -> None:
        if done:
            self._done += done
            self._report(min(self._done, self._total), self._total)


@contextmanager
def auditor(
    subjects: Subjects,
    task: Task,
    shared: Keep,
    workers: Workers,
    report: Callable[[int, int], None] = lambda _a, _b: None,
) -> Iterator[Auditor]:
    """An :class:`Auditor` with actors of its own, which end with the block.

    Args:
        subjects: What the actors load.
        task: What to measure.
        shared: Where the reference's pieces are kept: named by all that determines them.
        workers: How many actors, and what each holds.
        report: Called with pieces done and pieces in all.
    """
    with audit_pool(subjects, workers) as pool:
        yield Auditor(pool, task, shared, report)


@contextmanager
def audit_pool(subjects: Subjects, workers: Workers) -> Iterator[RayPool]:
    """Actors that audit, which end with the block.

    Args:
        subjects: What they load.
        workers: How many, and what each holds.
    """
    remote: Any = ray.remote(AuditActor)
    actors: list[Any] = [
        remote.options(num_cpus=workers.reserved_cpus, num_gpus=workers.gpus).remote(subjects, workers.threads)
        for _ in range(workers.count)
    ]
    try:
        yield RayPool(actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def _driven(rises: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Features that fire on an insert more in the candidate, and the sum of how much more."""
    return {
        "features": [int(feature) for feature, _ in rises],
        "feature_drive": sum(rise for _, rise in rises) if rises else None,
    }


def _arguments(name: str, candidate: FineTune, task: Task) -> tuple[Any, ...]:
    if name == "weight_projection":
        return (candidate,)
    return candidate, tuple(form for form in task.forms if form.number == 0), task.panel


def _json(data: bytes | None) -> Any:
    return json.loads(data or b"null")
