"""How excerpts are shown to a language model: marked tokens, levels of activation, and what to drop when too long.

Tokens on which the feature fires strongly stand in ``<<`` and ``>>``. Text of the corpus cannot fake that: an angle
bracket that could be read as part of a mark gets a backslash. A line break is shown as ``↵``, so that an excerpt is
one line and a backslash and an n of the text stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raylens.chat import Request
from raylens.errors import InputError
from raylens.examples.excerpt import ExampleSets, Excerpt

OPEN, CLOSE = "<<", ">>"
MARK_ABOVE = 0.3
"""Share of the feature's maximum above which a token is marked."""
MOST_PAIRS = 11
_TOKENS_A_MESSAGE = 8
"""What a chat template adds around a message, at most, in the templates of current models."""
_VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "↵": "\\↵", "␍": "\\␍"})


def levels(activations: NDArray[np.float32], maximum: float) -> NDArray[np.int64]:
    """Activations as whole numbers 0–10: ceil(10·a/maximum), 0 only where the feature is silent: ``[n]`` int64.

    Args:
        activations: ``[n]`` float32, not negative.
        maximum: The feature's largest; activations beyond it are 10.
    """
    if maximum <= 0:
        return np.zeros(len(activations), dtype=np.int64)
    tenths = np.asarray(activations, dtype=np.float64) * (10 / maximum)
    # Stored maxima are float32: without the margin, three tenths of one would come out as 4.
    rounded = np.ceil(tenths - 1e-5).clip(0, 10).astype(np.int64)
    return np.where(tenths > 0, np.maximum(rounded, 1), 0)


def strong(excerpt: Excerpt, maximum: float) -> NDArray[np.bool_]:
    """Tokens above :data:`MARK_ABOVE` of ``maximum``; where the feature fires but nowhere so strongly, its peak."""
    marks = excerpt.activations > MARK_ABOVE * maximum
    if excerpt.is_active and not marks.any():
        marks[int(np.argmax(excerpt.activations))] = True
    return marks


def plain(excerpt: Excerpt) -> str:
    """The excerpt's text on one line, nothing marked."""
    return marked(excerpt, np.zeros(len(excerpt.tokens), dtype=np.bool_))


def marked(excerpt: Excerpt, marks: NDArray[np.bool_]) -> str:
    """The excerpt's text on one line, tokens of ``marks`` (``[n]`` bool) within ``<<…>>``, adjacent ones together."""
    runs: list[tuple[bool, str]] = []
    for token, mark in zip(excerpt.tokens, marks.tolist(), strict=True):
        if runs and runs[-1][0] == mark:
            runs[-1] = mark, runs[-1][1] + token
        else:
            runs.append((mark, token))
    return "".join(f"{OPEN}{_escape(text)}{CLOSE}" if mark else _escape(text) for mark, text in runs)


def _escape(text: str) -> str:
    """``text`` with a backslash before each angle bracket that touches another or an end, where a mark may stand.

    Backslashes of the text that would stand before a bracket are doubled, so that none of them can disarm a mark.
    """

    def one(found: re.Match[str]) -> str:
        slashes, bracket = found.group(1), found.group(2)
        first, last = found.end() - 1, found.end()
        touches = first == 0 or last == len(text) or text[first - 1] in "<>" or text[last] in "<>"
        return slashes * 2 + ("\\" if bracket and touches else "") + bracket

    return re.sub(r"(\\*)([<>])|(?P<end>\\+)$", lambda m: m["end"] * 2 if m["end"] else one(m), text).translate(
        _VISIBLE
    )


def pairs(excerpt: Excerpt, maximum: float) -> str:
    """The strongest tokens with their levels, in reading order: ``("return" : 9), (" self" : 4)``."""
    order = np.argsort(-excerpt.activations, kind="stable")[:MOST_PAIRS]
    at = sorted(int(i) for i in order if excerpt.activations[i] > 0)
    level = levels(excerpt.activations, maximum)
    return ", ".join(f'("{excerpt.tokens[i].translate(_VISIBLE)}" : {level[i]})' for i in at)


def numbered(excerpts: tuple[Excerpt, ...], maximum: float, first: int = 1) -> str:
    """Excerpts one below the other, each with its number; active ones marked and with their pairs."""
    lines: list[str] = []
    for number, excerpt in enumerate(excerpts, start=first):
        lines.append(f"Example {number}: {marked(excerpt, strong(excerpt, maximum))}")
        if excerpt.is_active:
            lines.append(f"Activations: {pairs(excerpt, maximum)}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request that fits.

    Attributes:
        request: What to send.
        trimmed: Whether it shows less than it would have, were there room.
        n_tokens: Of its messages, as counted.
        n_shown: Activating examples in it.
    """

    request: Request
    trimmed: bool
    n_tokens: int
    n_shown: int


def fit(
    build: Callable[[ExampleSets], Request], sets: ExampleSets, max_len: int, count_tokens: Callable[[str], int]
) -> Fitted:
    """The request that shows as many examples as fit in a context of ``max_len`` tokens, the answer's included.

    First examples are dropped, evenly over their order, so that strong and weak ones remain; a last one that is still
    too long is cut around its peak.

    Args:
        build: Makes the request of the examples to show.
        sets: What would be shown, were there room.
        max_len: ``--explainer_model_max_len``.
        count_tokens: Of a text, by the explainer's tokenizer.

    Raises:
        InputError: The prompt does not fit with so much as one token of one example.
    """

    def counted(request: Request) -> int:
        return sum(count_tokens(m.content) + _TOKENS_A_MESSAGE for m in request.messages)

    request = build(sets)
    if (n_tokens := counted(request)) + request.max_tokens <= max_len:
        return Fitted(request, trimmed=False, n_tokens=n_tokens, n_shown=len(sets.train))
    most = max(len(sets.train), len(sets.train_negatives))
    longest = max((len(e.tokens) for e in (*sets.train, *sets.train_negatives)), default=1)
    widths = [w for w in (16, 8, 4, 2, 1) if w < longest]
    steps = [(n, longest) for n in range(most - 1, 0, -1)] + [(1, width) for width in widths]
    low, high = 0, len(steps)
    best: Fitted | None = None
    while low < high:
        middle = (low + high) // 2
        smaller = _smaller(sets, *steps[middle], most)
        request = build(smaller)
        n_tokens = counted(request)
        if n_tokens + request.max_tokens <= max_len:
            best, high = Fitted(request, True, n_tokens, len(smaller.train)), middle
        else:
            low = middle + 1
    if best is None:
        raise InputError(
            f"the prompt needs {n_tokens} tokens and its answer {request.max_tokens}, but the context has {max_len}.",
            hint="raise --explainer_model_max_len, or shorten the prompt with --prompt-dir.",
        )
    return best


def spread(excerpts: tuple[Excerpt, ...], most: int | None) -> tuple[Excerpt, ...]:
    """At most ``most`` of them (None: all), evenly over their order, so that no band of strength is lost."""
    if most is None or len(excerpts) <= most:
        return excerpts
    return tuple(excerpts[i] for i in np.linspace(0, len(excerpts) - 1, most).round().astype(int))


def _smaller(sets: ExampleSets, n: int, width: int, most: int) -> ExampleSets:
    """``n`` of ``most`` examples of each kind, at least one where there is any, and ``width`` tokens of each."""

    def some(excerpts: tuple[Excerpt, ...]) -> tuple[Excerpt, ...]:
        keep = min(len(excerpts), max(1, len(excerpts) * n // most))
        return tuple(_around_peak(e, width) for e in spread(excerpts, keep))

    return replace(sets, train=some(sets.train), train_negatives=some(sets.train_negatives))


def _around_peak(excerpt: Excerpt, width: int) -> Excerpt:
    n = len(excerpt.tokens)
    if n <= width:
        return excerpt
    # More of what comes before than after: a causal model has seen only that when the feature fires.
    first = int(np.clip(int(np.argmax(excerpt.activations)) - (3 * width) // 4, 0, n - width))
    kept = slice(first, first + width)
    return Excerpt.of(
        excerpt.window_id,
        excerpt.doc_id,
        excerpt.start + first,
        excerpt.tokens[kept],
        excerpt.token_ids[kept],
        excerpt.activations[kept],
        excerpt.quantile,
    )
