"""Fetching the labels of many features ahead, so that later runs can be frozen with ``cache_only`` (A2.12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from raylens.labels.client import LabelClient
from raylens.labels.names import NeuronpediaId

_AT_A_TIME: Final = 128


@dataclass(slots=True)
class Warmed:
    """What came of it.

    Attributes:
        source: Whose labels.
        wanted: Features asked for.
        known: Of these, known before.
        explained: Now known with an explanation, those known before among them.
        unexplained: Likewise, known to have none.
        missing: Known not to exist there.
        unknown: Of which nothing is known still, by why; the same command asks for them again.
        asked: Requests sent.
    """

    source: NeuronpediaId
    wanted: int = 0
    known: int = 0
    explained: int = 0
    unexplained: int = 0
    missing: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    def fields(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "source": str(self.source),
            "wanted": self.wanted,
            "known": self.known,
            "explained": self.explained,
            "unexplained": self.unexplained,
            "missing": self.missing,
            "unknown": sum(self.unknown.values()),
            "why": dict(self.unknown),
            "asked": self.asked,
        }


def warm(
    client: LabelClient,
    source: NeuronpediaId,
    indices: Iterable[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Warmed:
    """Look many features up and keep what comes, committed every few requests: a run that is cut short goes on.

    Where the server wants no more requests, the rest is not waited for.

    Args:
        client: Asks, and keeps; as many requests at a time as its settings say.
        source: Whose labels.
        indices: Of which features.
        progress: Told how many of how many are done.

    Raises:
        DiskFullError: What was fetched could not be kept.
    """
    wanted = sorted(set(indices))
    found = Warmed(source, wanted=len(wanted))
    before = client.n_asked
    rest = iter(wanted)
    done = 0
    while part := list(islice(rest, _AT_A_TIME)):
        found.known += sum(one.status != "unknown" for one in client.store.look(source, part).values())
        for one in client.labels(source, part).values():
            if one.status == "unknown":
                found.unknown[one.why] += 1
            elif one.status == "missing":
                found.missing += 1
            elif one.explanations:
                found.explained += 1
            else:
                found.unexplained += 1
        client.store.flush()
        done += len(part)
        progress(done, len(wanted))
    found.asked = client.n_asked - before
    return found
