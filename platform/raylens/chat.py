"""What is said to a language model and what it answers: values only, so that pure rooms can build and read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer.

    Attributes:
        token: Its text.
        logprob: Natural logarithm of its probability.
        top: The likeliest tokens at this place with theirs, itself perhaps among them.
    """

    token: str
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a chat model, and all that determines its answer besides the model.

    Attributes:
        messages: The chat so far; the last is the user's.
        max_tokens: Of the answer, at most.
        temperature: 0 for the likeliest answer.
        top_logprobs: Ask for log-probabilities with this many alternatives a token; 0 for none.
        seed: Where the endpoint takes one.
        stop: Texts that end the answer.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 500
    temperature: float = 0.0
    top_logprobs: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: What it says.
        logprobs: A row a token, where they were asked for and the endpoint gives them.
        prompt_tokens: As the endpoint counts.
        completion_tokens: Likewise.
        cost_usd: By the prices that were configured; None where none are known.
        finish_reason: ``stop``, ``length`` …
        from_cache: Whether it was read from the reply cache, and cost nothing.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    finish_reason: str = "stop"
    from_cache: bool = False
