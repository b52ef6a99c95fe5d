"""What can be asked of :mod:`raylens.engine.text_streams`, and what it tells while it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raylens.engine.text_pieces import Piece


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What to write.

    Attributes:
        prompt: Token ids that it follows, at least one.
        max_tokens: Written at most; None for as many as fit into the context.
        stop: Texts that end it, and are no part of it; none of them is empty.
        temperature: 0 for the likeliest tokens.
        top_p: Tokens are drawn from the likeliest ones that make up this much probability.
        seed: The same one gives the same text; None for another each time.
        top_log_probs: Likely tokens to give at each place, with log-probabilities; None for none at all.
        prompt_log_probs: Likewise of the prompt.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_log_probs: int | None = None
    prompt_log_probs: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token at its place.

    Attributes:
        id: Its number.
        log_prob: Nats, by the model itself (temperature 1); None where it was not asked for, or nothing is before it.
        top: The likeliest tokens in its place with theirs, the likeliest first.
    """

    id: int
    log_prob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The prompt was read; the first thing that is told.

    Attributes:
        tokens: Its tokens, where their log-probabilities were asked for.
    """

    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The text is done.

    Attributes:
        reason: ``stop`` for an end token or a stop text, ``length`` for ``max_tokens``.
        n_tokens: Written in all, an end token and a stop text's included.
    """

    reason: Literal["stop", "length"]
    n_tokens: int


Event = PromptRead | Piece[Token] | End | Exception
"""Told in this order; an exception may come at any time, and is the last one."""
