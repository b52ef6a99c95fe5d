"""Runs: what is under way in a workspace, whoever started it, and what may be started over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AwareDatetime, Field, model_validator

from raylens.api.base import Answer, Asked
from raylens.config import ScorerName

RunStatus = Literal["queued", "running", "succeeded", "failed", "stopped", "lost"]
"""``lost``: its process is gone, or the cluster that it was given to, and nothing says how it ended."""

ENDED: Final[frozenset[RunStatus]] = frozenset({"succeeded", "failed", "stopped", "lost"})
ASK_NOBODY: Final[frozenset[ScorerName]] = frozenset({"rule", "embedding"})
"""Scorers that need no language model; of the explainers it is ``lexical`` alone."""
MOST_FEATURES: Final = 1000
"""Of one request."""
MOST_LINES: Final = 10_000
"""Of a log."""

ExplainerName = Literal["lexical", "default", "contrastive", "cot", "logits"]
SCORERS: Final[tuple[ScorerName, ...]] = get_args(ScorerName)

# What a client writes becomes one word of a command line: no control characters.
Word = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
RunId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Progress(Answer):
    """How far something is.

    Attributes:
        what: Is counted: ``pieces``, ``features``, ``tokens`` …
        done: So many.
        total: Of so many; None where nobody knows.
    """

    what: str
    done: float
    total: float | None = None


class RunRow(Answer):
    """A run in a list.

    Attributes:
        run_id: Which.
        kind: ``audit``, ``explain``, ``cache`` …
        status: How it stands.
        submitted_at: When it was asked for over HTTP; None of a run of the command line.
        started_at: When its process began; None while it is queued.
        finished_at: When it ended.
        cache_id: The cache that it reads or writes, where it has one.
        progress: Of what it is at.
        error: Why it failed, one sentence.
        hint: What to do about that.
        result: What it made: the path of an audit below ``/api/v1``; None where there is no such thing.
    """

    run_id: str
    kind: str
    status: RunStatus
    submitted_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    cache_id: str | None = None
    progress: tuple[Progress, ...] = ()
    error: str | None = None
    hint: str = ""
    result: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED


class RunOut(RunRow):
    """A run.

    Attributes:
        asked: What it was told, secrets left out.
        figures: What it measured.
    """

    asked: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)


class RunPage(Answer):
    """Runs, the one that began last first.

    Attributes:
        runs: Of this page.
        total: All that were asked for.
        offset: How many were passed over.
        next_offset: Where to go on; None at the end.
    """

    runs: tuple[RunRow, ...]
    total: int
    offset: int
    next_offset: int | None


class Started(Answer):
    """A run that was asked for.

    Attributes:
        run_id: Its id; it is written down, so that the run is found again whatever happens to the services.
        status_url: Where to ask how it stands.
        was_under_way: The same had been asked for before, and has not ended: this is that run.
    """

    run_id: str
    status_url: str
    was_under_way: bool = False


class RunLog(Answer):
    """What a run wrote.

    Attributes:
        run_id: Which.
        lines: The last of them.
        n_lines: How many there are in all.
    """

    run_id: str
    lines: tuple[str, ...]
    n_lines: int


class ExplainRequest(Asked):
    """Features to be explained, and the explanations to be scored.

    Attributes:
        feature: ``f_<layer>_<index>`` or ``<sae>/<index>``.
        features: Several of one SAE; one of ``feature`` and ``features`` is given.
        cache: Where excerpts come from: a cache's id, how it begins, or its name; needed where several hold the SAE.
        explainer: ``lexical`` asks nobody; the others ask ``model``.
        scorers: ``rule`` and ``embedding`` ask nobody; the others ask ``model``. None for no scores.
        model: A language model of the services' own configuration, by the name that it has there.
        min_examples: Features that fire in fewer excerpts are skipped.
        seed: Of the split by document, and of every choice.
    """

    feature: Word | None = None
    features: Annotated[tuple[Word, ...], Field(min_length=1, max_length=MOST_FEATURES)] | None = None
    cache: Word | None = None
    explainer: ExplainerName = "lexical"
    scorers: Annotated[tuple[ScorerName, ...], Field(max_length=len(SCORERS))] = ("rule", "embedding")
    model: Word | None = None
    min_examples: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    seed: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 22

    @model_validator(mode="after")
    def _one(self) -> ExplainRequest:
        if (self.feature is None) == (self.features is None):
            raise ValueError("give one of feature and features")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The features, each once, as they were written."""
        return tuple(dict.fromkeys(self.features or (self.feature or "",)))

    @property
    def asks(self) -> bool:
        """Whether a language model is needed."""
        return self.explainer != "lexical" or bool(set(self.scorers) - ASK_NOBODY)
