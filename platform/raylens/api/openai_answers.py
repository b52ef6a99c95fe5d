"""OpenAI's chat and text completions: what is answered, whole and in parts, and errors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from raylens.api.base import Answer

FinishReason = Literal["stop", "length"]


class Usage(Answer):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LikelyToken(Answer):
    r"""A token that could stand at a place.

    Attributes:
        token: Its text; of a part of a character its bytes, as ``\xe2\x82``.
        logprob: Nats.
        bytes: Its UTF-8.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(LikelyToken):
    """A token of an answer.

    Attributes:
        top_logprobs: The likeliest ones in its place.
    """

    top_logprobs: tuple[LikelyToken, ...] = ()


class ChatLogprobs(Answer):
    """Log-probabilities of an answer, or of a part of it."""

    content: tuple[TokenLogprob, ...]
    refusal: None = None


class AnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """Answers to a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChatChoice, ...]
    usage: Usage


class Delta(Answer):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _said(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}


class ChunkChoice(Answer):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Answer):
    """A part of a streamed chat; of the last one, the counts alone where these were asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    r"""Log-probabilities of a text, in the older form.

    Attributes:
        tokens: Of the text; of a part of a character its bytes, as ``bytes:\xe2\x82``.
        token_logprobs: Nats; None for a first token, which nothing is before.
        top_logprobs: The likeliest in each place, and the one that stands there; None where they were not asked for.
        text_offset: Where in the text each begins, in characters.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...] | None
    text_offset: tuple[int, ...]


class CompletionChoice(Answer):
    """One text; of a chunk, what it adds."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Answer):
    """Texts that follow prompts; also a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage | None = None


class Model(Answer):
    """A model that can be asked.

    Attributes:
        max_model_len: Tokens of prompt and answer together; None where it has no limit.
        revision: Of its files: the hub's commit, or the content hash of a folder.
        dtype: What it computes in.
        quantization: Of its weights.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "raylens"
    max_model_len: int | None = None
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None


class Models(Answer):
    """Models that can be asked."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


class ErrorDetail(BaseModel):
    """Why a request was refused, or failed, as OpenAI says it.

    Attributes:
        message: What is wrong, and what to do.
        type: ``invalid_request_error``, or ``server_error``.
        param: The key that it is about.
        code: For programs.
    """

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(frozen=True)

    error: ErrorDetail
