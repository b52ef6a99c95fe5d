"""Spans of a trace as a tree: each below the one that it is a part of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

_BRANCH: Final = "└ "
_DEEP: Final = 24
"""Levels that are drawn: a name that begins further to the right would not be seen."""


@dataclass(frozen=True, slots=True)
class Step:
    """One span, without its texts.

    Attributes:
        span_id: Its id.
        parent_id: The span that it is a part of.
        name: What the reporter calls it.
        kind: ``llm``, or what else it is.
        model: That was called.
        started_at: UTC.
        ended_at: UTC.
        status: ``ok``, ``error`` or ``unset``.
        depth: Spans above it.
    """

    span_id: str
    parent_id: str | None
    name: str
    kind: str
    model: str | None
    started_at: datetime
    ended_at: datetime | None
    status: str
    depth: int = 0

    @property
    def indent(self) -> str:
        """What stands before its name."""
        depth = min(self.depth, _DEEP)
        return "\N{NO-BREAK SPACE}" * 3 * (depth - 1) + _BRANCH if depth else ""


def ordered(steps: Iterable[Step]) -> list[Step]:
    """Spans with their depths, each followed by its parts; every one of them once.

    A span whose parent is not among them is at the top. So is the earliest of spans that are, each in turn, parts of
    one another: what others report may be anything.

    Args:
        steps: In order of their start.
    """
    listed = list(steps)
    known = {one.span_id for one in listed}
    parts: dict[str | None, list[Step]] = defaultdict(list)
    for one in listed:
        parts[one.parent_id if one.parent_id in known and one.parent_id != one.span_id else None].append(one)
    done: dict[str, Step] = {}
    for top in (*parts[None], *listed):
        waiting = [(top, 0)]
        while waiting:
            one, depth = waiting.pop()
            if one.span_id in done:
                continue
            done[one.span_id] = replace(one, depth=depth)
            waiting += [(part, depth + 1) for part in reversed(parts[one.span_id])]
    return list(done.values())
