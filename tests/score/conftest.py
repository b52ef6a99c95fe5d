"""Excerpts made by hand, a judge that knows the truth, and the prompts."""

from __future__ import annotations

import pytest

from raylens.score.questions import ScorerSettings, score_prompts


@pytest.fixture(scope="session")
def settings() -> ScorerSettings:
    return ScorerSettings(score_prompts())
