"""Pieces of work of an audit: where their answers are kept, and who does them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import ray

from raylens_jobs.audit_actor import AuditActor
from raylens_jobs.processes import await_exit

_ANSWER_S: Final = 10.0


class Keep(Protocol):
    """Where pieces of work are kept: :class:`raylens.store.audit_parts.Parts`."""

    def put_part(self, key: str, data: bytes) -> None: ...

    def get_part(self, key: str) -> bytes | None: ...


class Nowhere:
    """Keeps pieces in memory, for candidates that are scored and then forgotten."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}

    def put_part(self, key: str, data: bytes) -> None:
        """Keep it."""
        self._parts[key] = data

    def get_part(self, key: str) -> bytes | None:
        """What was kept."""
        return self._parts.get(key)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Keeps pieces under a tag: what another candidate, suite or way of measuring left at the same place is not found.

    Attributes:
        keep: Where.
        tag: A hash of all that determines the pieces.
    """

    keep: Keep
    tag: str

    def put_part(self, key: str, data: bytes) -> None:
        """Keep it."""
        self.keep.put_part(f"{self.tag}/{key}", data)

    def get_part(self, key: str) -> bytes | None:
        """What was kept under this tag."""
        return self.keep.get_part(f"{self.tag}/{key}")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One piece of work.

    Attributes:
        keep: Where its answer is kept.
        key: What names it there.
        method: Of :class:`raylens_jobs.audit_actor.AuditActor`.
        arguments: Of that method; asked for when it is done, once what it needs is there.
        needs: Pieces whose answers its arguments are made of.
    """

    keep: Keep
    key: str
    method: str
    arguments: Callable[[], tuple[Any, ...]]
    needs: tuple[Piece, ...] = ()

    @property
    def answer(self) -> bytes | None:
        """What was kept of it; None before it is done."""
        return self.keep.get_part(self.key)

    @classmethod
    def of(cls, keep: Keep, key: str, method: str, *arguments: Any) -> Self:
        """One that needs no other."""
        return cls(keep, key, method, lambda: arguments)


class Pool(Protocol):
    """Who does the work: actors on a cluster, or this process."""

    def run(self, pieces: Sequence[Piece], tell: Callable[[], None]) -> None:
        """Do each piece and keep its answer; ``tell`` is called after each.

        Args:
            pieces: Those that must be done; what one needs and is not among them was done before. They are begun in
                this order, save those that still need another.
            tell: Called after each.
        """
        ...

    def ask(self, method: str, *arguments: Any) -> Any:
        """One answer at once."""
        ...

    def release(self) -> None:
        """Let go of what others may wait for: cores, GPUs, memory; it does no work after that."""
        ...


class InProcess:
    """Does all work in this process.

    Args:
        actor: What does it.
    """

    def __init__(self, actor: AuditActor) -> None:
        self._actor = actor

    def run(self, pieces: Sequence[Piece], tell: Callable[[], None]) -> None:
        """One piece after another."""
        waiting = list(pieces)
        while waiting:
            piece = _first_ready(waiting, waiting)
            assert piece is not None, "pieces need one another"
            waiting.remove(piece)
            _keep(piece, self.ask(piece.method, *piece.arguments()))
            tell()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the method."""
        return getattr(self._actor, method)(*arguments)

    def release(self) -> None:
        """It holds nothing that a cluster gives away."""


class RayPool:
    """Gives each piece to the next idle actor, of those that have come up.

    Ray may have no core for an actor until another job is done, and that job may wait for ours: what one that has not
    come up was given would be waited for by all.

    Args:
        actors: Handles.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._starting = {actor.process.remote(): actor for actor in self._actors}
        self._up: list[Any] = []

    def run(self, pieces: Sequence[Piece], tell: Callable[[], None]) -> None:
        """As many at a time as there are actors."""
        waiting, idle = list(pieces), list(self._up)
        busy: dict[Any, tuple[Piece, Any]] = {}
        while waiting or busy:
            under_way = [piece for piece, _ in busy.values()]
            while idle and (piece := _first_ready(waiting, [*waiting, *under_way])) is not None:
                waiting.remove(piece)
                actor = idle.pop(0)
                busy[getattr(actor, piece.method).remote(*piece.arguments())] = (piece, actor)
                under_way.append(piece)
            ready, _ = ray.wait([*busy, *(self._starting if waiting else ())], num_returns=1)
            for reference in ready:
                if reference in self._starting:
                    idle.append(self._has_come_up(reference))
                    continue
                piece, actor = busy.pop(reference)
                _keep(piece, ray.get(reference))
                idle.append(actor)
                tell()

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of the first one that is there."""
        if not self._up:
            (reference,), _ = ray.wait(list(self._starting), num_returns=1)
            self._has_come_up(reference)
        return ray.get(getattr(self._up[0], method).remote(*arguments))

    @property
    def is_released(self) -> bool:
        """Whether its actors have ended."""
        return not self._actors

    def _has_come_up(self, reference: Any) -> Any:
        actor = self._starting.pop(reference)
        ray.get(reference)  # raises what kept it from coming up
        self._up.append(actor)
        return actor

    def release(self) -> None:
        """End the actors, and wait until the processes of those that had come up have ended."""
        if self._starting:
            came, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
            self._up += [self._starting.pop(reference) for reference in came]
        asked = [actor.process.remote() for actor in self._up]
        try:
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S) if asked else ([], [])
            processes = ray.get(answered)
        finally:
            while self._actors:
                ray.kill(self._actors.pop())
            self._starting, self._up = {}, []
        await_exit(processes)


def _first_ready(waiting: Sequence[Piece], unfinished: Sequence[Piece]) -> Piece | None:
    """The first piece that needs none of those that are not finished."""
    return next((piece for piece in waiting if not any(one in unfinished for one in piece.needs)), None)


def _keep(piece: Piece, answer: Any) -> None:
    piece.keep.put_part(piece.key, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
