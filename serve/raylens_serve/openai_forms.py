"""What an answer is made of, whichever of OpenAI's two endpoints was asked: chunks, and wholes made of chunks."""

from __future__ import annotations

import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion, FinishReason, Usage
from raylens.engine.text_events import End, PromptRead, TextRequest, Token
from raylens.engine.text_pieces import Piece

LEAST: Final = -9999.0
"""Log-probability of what has none: JSON knows no infinity, and OpenAI writes this."""

Chunk = ChatChunk | Completion
Whole = ChatCompletion | Completion


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of an answer begin with.

    Attributes:
        model: The name that was asked for.
        fingerprint: Of the model's files.
        token: Random.
        created: Seconds since 1970.
    """

    model: str
    fingerprint: str
    token: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))


class Form(ABC):
    """One request on its way to an answer.

    Attributes:
        texts: What the engine is asked for, one a choice.
        n_prompt: Tokens of all prompts.
    """

    texts: list[TextRequest]
    n_prompt: int

    @abstractmethod
    def begun(self, index: int, event: PromptRead) -> Chunk:
        """The first chunk of a choice."""

    @abstractmethod
    def adds(self, index: int, piece: Piece[Token]) -> Chunk:
        """A further one."""

    @abstractmethod
    def done(self, index: int, reason: FinishReason) -> Chunk:
        """Its last one."""

    @abstractmethod
    def counts(self, usage: Usage) -> Chunk:
        """The last chunk of an answer whose counts were asked for."""

    @abstractmethod
    def whole(self, chunks: Sequence[Chunk], usage: Usage) -> Whole:
        """All chunks as one answer."""

    def usage(self, ends: Iterable[End]) -> Usage:
        """Counts of the whole answer."""
        written = sum(end.n_tokens for end in ends)
        return Usage(prompt_tokens=self.n_prompt, completion_tokens=written, total_tokens=self.n_prompt + written)


def seed_of(seed: int | None, n: int) -> int | None:
    """Of the nth answer to one prompt."""
    return None if seed is None else seed + n


def reason_of(said: Iterable[FinishReason | None]) -> FinishReason:
    """Why a choice ended: the one of its chunks that says it."""
    return next(reason for reason in said if reason is not None)


def finite(log_prob: float) -> float:
    """As JSON can write it."""
    return log_prob if math.isfinite(log_prob) else LEAST
