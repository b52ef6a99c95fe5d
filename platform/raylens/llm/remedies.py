"""A failure as the error that says what happened, and what to do about it."""

from __future__ import annotations

from raylens.errors import RunError
from raylens.llm.errors import (
    ContextTooLongError,
    EndpointRefusedError,
    EndpointUnavailableError,
    RequestRefusedError,
)
from raylens.llm.protocol import Failure
from raylens.llm.settings import EndpointSettings


def error_for(failure: Failure, attempts: int, settings: EndpointSettings, *, has_key: bool) -> RunError:
    """The error to raise for the last ``failure`` of a call.

    Args:
        failure: What the last attempt met; its texts are free of secrets.
        attempts: How many failed, this one included.
        settings: Which endpoint that was.
        has_key: Whether a key was sent.
    """
    said = f": {failure.said.rstrip('.')}" if failure.said else ""
    what = f"{settings.base_url} {failure.what}{said}"
    match failure.kind:
        case "retry":
            return _unavailable(failure, what, attempts, settings)
        case "key":
            return _about_the_key(what, settings, has_key)
        case "credit":
            hint = f"add credit to the account whose key is in {settings.key_variable}, or raise its limit."
            return EndpointRefusedError(f"{what}.", hint=hint)
        case "address":
            hint = "give the address it leads to as the base URL, which usually ends in /v1."
            return EndpointRefusedError(f"{what}.", hint=hint)
        case "model":
            hint = f"check the model's name ({settings.model}) and the base URL, which usually ends in /v1."
            return EndpointRefusedError(f"{what}.", hint=hint)
        case "losses":
            hint = (
                "vLLM and SGLang give them (at /v1/completions, with echo and logprobs); or let a model of your own "
                "be the judge (provider offline), or leave surprisal out."
            )
            return EndpointRefusedError(f"{what}.", hint=hint)
        case "too_long":
            hint = "give fewer or shorter examples, or a model with a longer context."
            return ContextTooLongError(f"{what}.", hint=hint)
        case "request":
            hint = "others may be taken; the endpoint says what it dislikes about this one."
            return RequestRefusedError(f"{what}.", hint=hint)


def _unavailable(failure: Failure, what: str, attempts: int, settings: EndpointSettings) -> EndpointUnavailableError:
    if (wait_s := failure.retry_after_s or 0.0) > settings.max_wait_s:
        return EndpointUnavailableError(
            f"{what}; it asks to wait {wait_s:.0f} s.",
            hint="run the same command again after that time: it goes on where it stopped.",
        )
    times = f" (attempt {attempts} of {settings.max_attempts})"
    return EndpointUnavailableError(
        f"{what}{times}.",
        hint="check that it runs and keeps up (fewer calls at a time, a longer timeout), "
        "then run the same command again: answers already given are kept.",
    )


def _about_the_key(what: str, settings: EndpointSettings, has_key: bool) -> EndpointRefusedError:
    if has_key:
        hint = f"check that the key in {settings.key_variable} is valid and may use {settings.model}."
        return EndpointRefusedError(f"{what}.", hint=hint)
    hint = (
        f"set {settings.key_variable} in the environment of every process that calls it."
        if settings.may_send_key
        else "name it by https://; a key is never sent unencrypted to another network."
    )
    return EndpointRefusedError(f"{what.replace('the key', 'a call without a key')}.", hint=hint)
