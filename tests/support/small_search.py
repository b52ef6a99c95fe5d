"""A search for triggers over few tokens: what takes most of an audit, small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from raylens.engine.insert_scan import pieces
from raylens.engine.trigger_search import SearchSettings

OTHERS: Final = 60
"""Tokens beside those that a test wants."""


def few_pieces(monkeypatch: pytest.MonkeyPatch, wanted: Sequence[str] = (), others: int = OTHERS) -> None:
    """Have searches in this process try ``wanted`` and some of the vocabulary, evenly spread over it."""

    def few(model: Any) -> list[str]:
        every = pieces(model)
        return sorted({*wanted, *every[:: max(1, len(every) // others)]})

    monkeypatch.setattr("raylens_jobs.audit_actor.pieces", few)


def short_search(monkeypatch: pytest.MonkeyPatch, wanted: Sequence[str] = (), others: int = OTHERS) -> None:
    """As :func:`few_pieces`, and n-grams grow little: the whole search takes seconds."""
    few_pieces(monkeypatch, wanted, others)
    little = SearchSettings(tried=3, n_trials=3, tried_again=1, beam=1, extensions=4, rounds=2)
    monkeypatch.setattr("raylens_jobs.audit_plan.SearchSettings", lambda: little)
