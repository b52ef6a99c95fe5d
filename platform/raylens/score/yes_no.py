"""Reading a reply that is a JSON list of 0 and 1, and the probability of each 1 from log-probabilities."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from raylens.chat import Reply, TokenLogprob
from raylens.score.questions import Answers, Unreadable

LIST = re.compile(r"\[[^\[\]]*\]")
_AROUND_DIGITS = re.compile(r"[\s,\[\]01]*")
_NOT_DIGITS = re.compile(r"[^01]")


def read_list(reply: Reply, n: int) -> Answers | Unreadable:
    """The last bracketed list of a reply, where it is n times 0 or 1; whatever stands around it is passed over.

    A list of another length answers nothing: which item it left out is unknown. The last one counts, as a judge that
    reasons ends with its answer.
    """
    found = list(LIST.finditer(reply.text))
    if not found:
        return no_answer(reply, "no JSON list")
    values = _zeros_and_ones(found[-1].group())
    if values is None:
        return Unreadable("its last list holds something other than 0 and 1")
    if len(values) != n:
        return Unreadable(f"a list of {len(values)} for {n} texts")
    return Answers(tuple(float(value) for value in values), _probabilities(reply.logprobs or (), values))


def no_answer(reply: Reply, what: str) -> Unreadable:
    """Why a reply that holds no answer does not: empty, cut off, or ``what``."""
    if not reply.text.strip():
        return Unreadable("an empty reply")
    return Unreadable(f"cut off at its length limit, with {what}" if reply.finish_reason == "length" else what)


def _zeros_and_ones(text: str) -> list[int] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not all(type(value) is int and value in {0, 1} for value in values):
        return None
    return values


def _probabilities(tokens: Sequence[TokenLogprob], values: Sequence[int]) -> tuple[float, ...] | None:
    """P(1) / (P(0) + P(1)) at each digit of the list; None unless the tokens spell the same list."""
    text = "".join(token.token for token in tokens)
    found = list(LIST.finditer(text))
    if not found or _zeros_and_ones(found[-1].group()) != list(values):
        return None
    starts = token_starts(tokens)
    result: list[float] = []
    for place in range(*found[-1].span()):
        if text[place] in "01":
            index = next(i for i in range(len(tokens)) if starts[i] <= place < starts[i + 1])
            result.append(_share_of_one(tokens[index], place - starts[index]))
    return tuple(result)


def token_starts(tokens: Sequence[TokenLogprob]) -> list[int]:
    """Where each token begins in the joined text, and where the last one ends."""
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token.token))
    return starts


def likeliest(token: TokenLogprob) -> Mapping[str, float]:
    """The alternatives at a token's place, itself among them whether the endpoint lists it or not."""
    return {token.token: token.logprob, **token.top}


def _share_of_one(token: TokenLogprob, place: int) -> float:
    """P(1) / (P(0) + P(1)) of the digit at ``place`` in a token such as ``1``, `` 1``, ``[1``, ``1,`` or ``0, 1``.

    An alternative votes where it is digits with list punctuation only, and has the same digits before this one: what
    was already decided is not reopened.
    """
    before = _NOT_DIGITS.sub("", token.token[:place])
    mass = {"0": 0.0, "1": 0.0}
    for text, logprob in likeliest(token).items():
        digits = _NOT_DIGITS.sub("", text)
        if text != token.token and not _AROUND_DIGITS.fullmatch(text):
            continue
        if len(digits) > len(before) and digits.startswith(before) and not math.isnan(logprob):
            mass[digits[len(before)]] += math.exp(min(logprob, 0.0))
    total = mass["0"] + mass["1"]
    # Log-probabilities so low that both vanish: the digit that was written is all there is.
    return mass["1"] / total if total > 0 else float(token.token[place])
