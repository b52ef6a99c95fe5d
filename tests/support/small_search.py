"""A search for triggers over few tokens: what takes most of an audit, small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from raylens.engine.insert_scan import pieces

OTHERS: Final = 60
"""Tokens beside those that a test wants."""


def few_pieces(monkeypatch: pytest.MonkeyPatch, wanted: Sequence[str] = (), others: int = OTHERS) -> None:
    """Have searches in this process try ``wanted`` and some of the vocabulary, evenly spread over it."""

    def few(model: Any) -> list[str]:
        every = pieces(model)
        return sorted({*wanted, *every[:: max(1, len(every) // others)]})

    monkeypatch.setattr("raylens_jobs.audit_actor.pieces", few)
