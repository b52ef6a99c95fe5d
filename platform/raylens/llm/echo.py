"""Losses of a text from an OpenAI-compatible ``/completions``, which repeats what it read with log-probabilities.

Pure: values in, values out. ``echo`` with ``logprobs`` is what vLLM and SGLang serve, and OpenAI for its base
models. One token is always generated, since vLLM's engine takes no 0, and left out. Servers without prompt
log-probabilities refuse ``echo``, pass over it (llama.cpp, whose rows are then of the generated token alone), or
send nulls; that is told apart from one text that could not be read.

Which row belongs to which character is worked out from the rows' own texts: SGLang's ``text_offset`` is always
-1, and vLLM's counts the BOS that is not in the text, and a character's pieces as characters of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.chat import Reply, TokenLogprob
from raylens.llm.protocol import Failure, completed, finite
from raylens.llm.settings import EndpointSettings

_NO_ECHO: Final = re.compile(r"\becho\b|log_?prob", re.IGNORECASE)
_PIECE: Final = re.compile(r"\ufffd|^bytes:|^<0x[0-9A-Fa-f]{2}>$")
"""Part of a character, as vLLM, OpenAI and SentencePiece show it."""
_SPACES: Final = str.maketrans("▁Ġ", "  ")
_MOST_SPECIAL: Final = 4
"""Tokens that a server may put before a prompt."""
_NOTHING: Final = "gives no log-probabilities of the text it is sent"


def losses_body(context: str, text: str, settings: EndpointSettings) -> dict[str, Any]:
    """The JSON body that asks for the losses of ``text`` after ``context``."""
    body: dict[str, Any] = {
        "model": settings.model,
        "prompt": context + text,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": 1,
        "echo": True,
        "stream": False,
    }
    if settings.provider == "openrouter":
        body["usage"] = {"include": True}  # adds what the call cost
    return body


def read_losses(status: int, content: bytes, context: str, text: str, settings: EndpointSettings) -> Reply | Failure:
    """A reply with a row for each token of ``text``; no text of it, so that none of a corpus gets into a cache.

    A token that lies across the border belongs to the context: which part of its loss is the text's, nobody knows.
    A row whose log-probability is null or infinite has ``-inf``.
    """
    answer = completed(status, content, settings)
    if isinstance(answer, Failure):
        no_such = answer.kind in ("model", "request") and (status in (404, 405) or _NO_ECHO.search(answer.said))
        return Failure("losses", f"{_NOTHING} ({status})", answer.said) if no_such else answer
    rows: Any = answer.choice.get("logprobs")
    try:
        tokens, values = list(rows["tokens"]), list(rows["token_logprobs"])
        logprobs = [math.nan if value is None else finite(value) for value in values]
        strings = [str(token) for token in tokens]
    except (TypeError, KeyError, ValueError, OverflowError):
        return Failure("losses", _NOTHING, may_be_billed=True)
    if len(strings) != len(logprobs) or len(strings) < 2:
        return Failure("losses", _NOTHING, may_be_billed=True)
    starts = token_places(strings, context + text)
    if starts is None:
        return Failure("request", "sent tokens that are not those of the text it was sent", may_be_billed=True)
    end = len(context) + len(text)
    found = [value for start, value in zip(starts, logprobs, strict=True) if len(context) <= start < end]
    if len(found) > 1 and all(math.isnan(value) for value in found):
        return Failure("losses", _NOTHING, may_be_billed=True)
    return Reply(
        text="",
        logprobs=tuple(TokenLogprob("", value if math.isfinite(value) else -math.inf, {}) for value in found),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cost_usd=answer.cost_usd,
        finish_reason="stop",
    )


def nats(reply: Reply) -> NDArray[np.float64]:
    """Losses of :func:`read_losses`' rows, float64 ``[tokens]``, NaN where one is not known."""
    values = np.array([-row.logprob for row in reply.logprobs or ()], np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def token_places(tokens: Sequence[str], prompt: str) -> list[int] | None:
    """Where in ``prompt`` each token begins, ``len(prompt)`` and beyond for what was generated; None of another text.

    Special tokens before the prompt begin at -1. A token may lack its leading space, or spell it as its tokenizer
    does. Pieces of a character have no text to find: they begin where the last token with one ended, and the next
    one is looked for behind them.
    """
    places: list[int] = []
    at, pieces = 0, 0
    for token in tokens:
        if at >= len(prompt) and not pieces:
            places.append(len(prompt))
        elif (found := _found(token, prompt, at, pieces)) is not None:
            places.append(found[0])
            at, pieces = found[1], 0
        elif _PIECE.search(token):
            places.append(at)
            pieces += 1
        elif at == 0 and not pieces and len(places) < _MOST_SPECIAL:
            places.append(-1)
        elif pieces:  # the prompt ended with a character in pieces, and this was generated
            places.append(len(prompt))
            at, pieces = len(prompt), 0
        else:
            return None
    # Without anything generated after them, pieces may be the prompt's end, if it is a character or few.
    return places if at >= len(prompt) or (pieces and len(prompt) - at <= pieces) else None


def _found(token: str, prompt: str, at: int, pieces: int) -> tuple[int, int] | None:
    """Begin and end of ``token``, which is at ``at``, or behind a character for each of up to ``pieces``."""
    for text in dict.fromkeys((token, token.translate(_SPACES))):
        for skipped in range(min(pieces, 1), pieces + 1):
            begin = at + skipped
            if prompt.startswith(text, begin):
                return begin, begin + len(text)
            bare, rest = text.lstrip(" "), len(prompt[begin:]) - len(prompt[begin:].lstrip(" "))
            if bare and (rest or begin == 0) and prompt.startswith(bare, begin + rest):
                return begin, begin + rest + len(bare)
    return None
