"""The OpenAI chat protocol as servers really speak it: a request as JSON, and what an answer means.

Pure: values in, values out. Servers differ in what they refuse (``logprobs``, ``max_tokens``), in the
status of an error (LM Studio and OpenRouter also send errors with 200), and in how they say that the
prompt is too long; all of that is told apart here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from raylens.chat import Reply, Request, TokenLogprob
from raylens.llm.settings import EndpointSettings

RETRIED: Final = frozenset({408, 409, 425, 429})
"""Besides all of 500 and above."""

_TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ]window|context[_ ]size|context the overflows|context overflow"
    r"|maximum model length|prompt is too long|input is too long|input tokens exceed"
    r"|inputs` (?:tokens \+|must have less)|exceeds? the maximum number of (?:input )?tokens"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an endpoint was found to take.

    Attributes:
        logprobs: Whether log-probabilities may be asked for.
        length: What the limit on the answer's length is called.
    """

    logprobs: bool = True
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that gave no answer.

    Attributes:
        kind: ``retry`` may succeed if repeated; ``key``, ``credit``, ``address`` and ``model`` concern every call,
            ``losses`` every one for losses; ``request`` and ``too_long`` this one.
        what: What happened, to follow the endpoint's name in a sentence.
        said: What the endpoint wrote, on one line.
        retry_after_s: The wait it asked for.
        may_be_billed: The answer was made, or may have been.
    """

    kind: Literal["retry", "key", "credit", "address", "model", "losses", "request", "too_long"]
    what: str
    said: str = ""
    retry_after_s: float | None = None
    may_be_billed: bool = False


def body_of(request: Request, settings: EndpointSettings, dialect: Dialect) -> dict[str, Any]:
    """The JSON body that asks for ``request``."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": one.role, "content": one.content} for one in request.messages],
        dialect.length: request.max_tokens,
        "temperature": request.temperature,
        "stream": False,
    }
    if request.top_logprobs and dialect.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if settings.provider == "openrouter":
        body["usage"] = {"include": True}  # adds what the call cost
    return body


def adapted(dialect: Dialect, failure: Failure, request: Request) -> Dialect | None:
    """The dialect to repeat ``request`` in, where ``failure`` says that the endpoint does not take this one."""
    if failure.kind != "request":
        return None
    if dialect.length == "max_tokens" and "max_completion_tokens" in failure.said:
        return replace(dialect, length="max_completion_tokens")
    if dialect.logprobs and request.top_logprobs and re.search("log_?prob", failure.said, re.IGNORECASE):
        return replace(dialect, logprobs=False)
    return None


@dataclass(frozen=True, slots=True)
class Completed:
    """An answer as far as all paths have it in common.

    Attributes:
        choice: The first of ``choices``.
        finish_reason: Where it says one.
        prompt_tokens: 0 where they are not counted.
        completion_tokens: Likewise.
        cost_usd: None where it is not known.
    """

    choice: Mapping[str, Any]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None


def completed(status: int, content: bytes, settings: EndpointSettings) -> Completed | Failure:
    """What the endpoint said, whichever path was asked.

    Args:
        status: Of the HTTP response.
        content: Its body, whole as far as HTTP can tell.
        settings: For the prices.
    """
    answer: Any
    try:
        answer = json.loads(content.decode("utf-8"))  # JSON is UTF-8 whatever the header says (RFC 8259)
    except (ValueError, RecursionError):
        answer = None
    if not 200 <= status < 300:
        return _refusal(status, answer, content)
    if not isinstance(answer, dict):
        return Failure("retry", "sent something that is not JSON", _line(content), may_be_billed=True)
    choices: Any = answer.get("choices")
    if answer.get("error") and not choices:
        code = _error_of(answer).get("code")
        inner = code if isinstance(code, int) and 400 <= code < 600 else 500
        return _refusal(inner, answer, content)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return _no_completion(content)
    finish = choice.get("finish_reason")
    if finish == "error":  # OpenRouter: the model's provider failed half-way
        return Failure("retry", "sent an answer that broke off with an error", _line(content), may_be_billed=True)
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return Completed(
        choice,
        finish if isinstance(finish, str) else "stop",
        prompt or 0,
        completion or 0,
        _cost(usage.get("cost"), prompt, completion, settings),
    )


def read_answer(status: int, content: bytes, request: Request, settings: EndpointSettings) -> Reply | Failure:
    """What ``/chat/completions`` said to ``request``; see :func:`completed`."""
    answer = completed(status, content, settings)
    if isinstance(answer, Failure):
        return answer
    try:
        text = _text(answer.choice["message"].get("content"))
    except (TypeError, KeyError, AttributeError):  # whatever is not a list of objects
        return _no_completion(content)
    return Reply(
        text=text,
        logprobs=_logprobs(answer.choice.get("logprobs")) if request.top_logprobs else None,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cost_usd=answer.cost_usd,
        finish_reason=answer.finish_reason,
    )


def _no_completion(content: bytes) -> Failure:
    return Failure("retry", "sent JSON that is no chat completion", _line(content), may_be_billed=True)


def _refusal(status: int, answer: Any, content: bytes) -> Failure:
    error = _error_of(answer)
    said = _line(str(error.get("message") or "") or content)
    codes = {str(error.get("code")), str(error.get("type"))}
    detail = f"{said} {' '.join(codes)} {_metadata(error)}"
    code = f"({status})"
    if codes & _NO_CREDIT or status == 402:
        return Failure("credit", f"says that the account has no credit left {code}", said)
    if status == 429:
        return Failure("retry", f"limits the rate of calls {code}", said)
    if 300 <= status < 400:
        return Failure("address", f"redirects elsewhere {code}")
    # Some servers call a prompt that is too long a 413 or even a 500.
    if status not in (401, 403, 404) and _TOO_LONG.search(detail):
        return Failure("too_long", f"says that the prompt is too long for the model {code}", said)
    if status in RETRIED or status >= 500:
        return Failure("retry", f"failed {code}", said)
    if status == 403 and re.search(r"moderation|flagged", detail, re.IGNORECASE):
        return Failure("request", f"flagged the text of the request {code}", said)
    if status in (401, 403):
        # What it says may repeat the key, in part or in another writing.
        return Failure("key", f"refused the key {code}")
    if status in (404, 405):
        return Failure("model", f"has no such model or path {code}", said)
    return Failure("request", f"refused the request {code}", said)


def _error_of(answer: Any) -> Mapping[str, Any]:
    """The error object of any of the shapes in use: nested, flat (vLLM), or a text (Ollama, TGI)."""
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error", answer)
    if isinstance(error, dict):
        return error
    return {"message": error, "code": answer.get("error_type")}


def _metadata(error: Mapping[str, Any]) -> str:
    return json.dumps(error["metadata"], default=str)[:2000] if "metadata" in error else ""


def _line(said: str | bytes) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def _text(content: Any) -> str:
    """The answer's text; empty where it is null, joined where it comes in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _whole(content)
    return _whole("".join(part.get("text") or "" for part in content if part.get("type", "text") == "text"))


def _whole(text: str) -> str:
    """Surrogate pairs as the characters they stand for, and halves of one as U+FFFD, so that it can be written."""
    if not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _logprobs(value: Any) -> tuple[TokenLogprob, ...] | None:
    """Rows of ``choices[0].logprobs.content``; None where any is not as the protocol says."""
    try:
        rows = tuple(
            TokenLogprob(_whole(row["token"]), finite(row["logprob"]), _likeliest(row.get("top_logprobs") or ()))
            for row in value["content"]
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None
    return rows or None


def _likeliest(alternatives: Any) -> dict[str, float]:
    top: dict[str, float] = {}
    for one in alternatives:
        token, value = _whole(one["token"]), finite(one["logprob"])
        # Different bytes may be shown as one text; the likelier stands for it.
        top[token] = max(value, top.get(token, -math.inf))
    return top


def finite(value: Any) -> float:
    """A log-probability; ValueError, TypeError or OverflowError where it is none."""
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError("a log-probability is a number")
    return number


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _cost(stated: Any, prompt: int | None, completion: int | None, settings: EndpointSettings) -> float | None:
    """What the endpoint says it cost, else by the prices; None where neither is known."""
    if isinstance(stated, int | float) and not isinstance(stated, bool) and 0 <= stated < 1e9:
        return float(stated)
    if settings.prices is None or prompt is None or completion is None:
        return None
    return settings.prices.cost_usd(prompt, completion)
