"""Of what can be read, what a command line means that names no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylens.store.selection import Readable


def latest(candidates: Sequence[Readable]) -> list[Readable]:
    """Those of the cache merged last; what else there is, a note on stderr says.

    Args:
        candidates: At least one, caches merged last coming last, as :func:`readables` gives them.
    """
    from raylens_app.cli.output import note

    chosen = candidates[-1].cache_id
    if others := sorted({one.cache_id for one in candidates} - {chosen}):
        note(f"of cache {chosen}, merged last; --cache names another: {', '.join(others)}.")
    return [one for one in candidates if one.cache_id == chosen]
