"""Errors in OpenAI's shape, which its clients read: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi.responses import JSONResponse

from raylens.api.openai_answers import ErrorAnswer, ErrorDetail
from raylens.errors import InputError, RaylensError, UnknownNameError
from raylens.llm.errors import ContextTooLongError, RequestRefusedError
from raylens_serve.problems import RETRY_S, status_of

_PATHS: Final = ("/v1/chat/", "/v1/completions", "/v1/models")


def is_openai(path: str) -> bool:
    """Whether OpenAI's clients ask it."""
    return path.startswith(_PATHS)


def openai_problem(status: int, message: str, hint: str = "", kind: str = "", **more: str | None) -> JSONResponse:
    """A refusal, as :func:`raylens_serve.problems.problem` but for its shape.

    Args:
        status: Of the response.
        message: What is wrong; one sentence.
        hint: What to do instead.
        kind: Taken to be like ``problem``; OpenAI's clients know no kinds of ours.
        more: ``param`` and ``code``.
    """
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else {}
    return JSONResponse(_body(status, message, hint, **more).model_dump(), status_code=status, headers=headers)


def openai_error(error: RaylensError) -> ErrorAnswer:
    """What is said of an error."""
    code = param = None
    if isinstance(error, ContextTooLongError):
        code = "context_length_exceeded"
    elif isinstance(error, UnknownNameError):
        code, param = "model_not_found", "model"
    return _body(openai_status(error), error.message, error.hint, param=param, code=code)


def openai_status(error: RaylensError) -> int:
    """The status of an error: what is wrong with a request is a 400 here."""
    if isinstance(error, UnknownNameError):
        return 404
    return 400 if isinstance(error, InputError | RequestRefusedError) else status_of(error)


def invalid(errors: Sequence[Any]) -> JSONResponse:
    """What pydantic says of a request: its first wrong key, and what is most exactly said of that.

    Args:
        errors: As ``ValidationError.errors()`` gives them; of a union there is one for each of its kinds.
    """
    key = _place(errors[0]["loc"])[:1]
    about = max((one for one in errors if _place(one["loc"])[:1] == key), key=lambda one: len(one["loc"]))
    where, said = ".".join(_place(about["loc"])), str(about["msg"]).removeprefix("Value error, ")
    if about["type"] == "json_invalid":
        return openai_problem(400, "the request is not valid JSON.")
    if about["type"] == "extra_forbidden":
        # A key without a letter in it is none that could be named.
        return openai_problem(400, f"{where or 'a key'} is not supported.", param=key[0] if key else None)
    message = f"{where or 'the request'} is not valid: {said[:1].lower()}{said[1:]}."
    return openai_problem(400, message, param=key[0] if key else None)


def _body(status: int, message: str, hint: str, *, param: str | None = None, code: str | None = None) -> ErrorAnswer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    text = f"{message} {hint[:1].upper()}{hint[1:]}".strip()
    return ErrorAnswer(error=ErrorDetail(message=text, type=kind, param=param, code=code))


def _place(location: tuple[int | str, ...]) -> list[str]:
    """Keys and indices; pydantic puts the kinds of a union between them."""
    return [str(part) for part in location if str(part).replace("_", "").isalnum() and part not in ("body", "path")]
