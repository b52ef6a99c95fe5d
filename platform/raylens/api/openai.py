"""OpenAI's chat and text completions: what may be asked of them here; :mod:`raylens.api.openai_answers` is the rest.

What a client asks for is either granted or refused. Keys that change nothing of the answer (``user``, ``metadata`` …)
are taken; those that would change it, and that no model here knows, are taken with the value that changes nothing
(``frequency_penalty: 0``, ``tools: []``), because clients write defaults out; any other value, and any other key, is
refused with a sentence.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from raylens.api.base import Asked
from raylens.chat import Message, Role

MOST_ALTERNATIVES: Final = 20
"""Likely tokens at a place."""
MOST_CHOICES: Final = 128
"""Answers to one request."""
DEFAULT_COMPLETION_TOKENS: Final = 16
"""Of ``/v1/completions``, as OpenAI has it; a chat may take all of the context."""

_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[float, Field(ge=1, le=1)]
_Empty = Annotated[tuple[Any, ...], Field(max_length=0)]
_Nothing = Annotated[dict[str, Any], Field(max_length=0)]
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Text = Annotated[str, Field(max_length=4_000_000)]
_MaxTokens = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES)]
_Alternatives = Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)]


class StreamOptions(Asked):
    """How an answer is streamed.

    Attributes:
        include_usage: Send a last chunk with the counts.
        include_obfuscation: Taken; nothing is padded.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampled(Asked):
    """What both kinds of request have in common.

    Attributes:
        model: Which one is served under this name.
        temperature: 0 for the likeliest tokens.
        top_p: Tokens are drawn from the likeliest ones that make up this much probability.
        seed: The same one gives the same answer; ``n`` answers have this one and those after it.
        stop: Texts that end an answer.
        n: Answers.
        stream: Send the answer as it comes.
        stream_options: How.
        user: Taken; changes nothing, as ``metadata`` and those after it.
        frequency_penalty: Taken where it changes nothing, as those after it.
    """

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[tuple[_Stop, ...], Field(max_length=32)] | None = None
    n: _Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    usage: dict[str, Any] | None = None

    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    repetition_penalty: _One | None = None
    min_p: _Zero | None = None
    top_k: Annotated[int, Field(ge=-1, le=0)] | None = None
    logit_bias: _Nothing | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Sampled:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for streams: set stream, or leave them out")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def choices(self) -> int:
        """Answers a prompt."""
        return self.n or 1

    @property
    def heat(self) -> float:
        """The temperature; 1 where none is said, as OpenAI has it."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def counts_at_the_end(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class TextPart(Asked):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: _Text


class ChatMessage(Asked):
    """A turn of a chat. Keys that OpenAI's answers have, and that are empty, are taken, so that they can be sent back.

    Attributes:
        role: Who speaks; ``developer`` is another word for ``system``.
        content: What is said.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[tuple[TextPart, ...], Field(min_length=1)]
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: _Empty | None = None
    annotations: _Empty | None = None

    def message(self) -> Message:
        """As RayLens knows it."""
        role: Role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role, text)


class PlainText(Asked):
    """The form of an answer; there is one."""

    type: Literal["text"]


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``.

    Attributes:
        messages: The chat so far.
        max_tokens: Of an answer; all that fits where neither it nor ``max_completion_tokens`` is said.
        max_completion_tokens: Its newer name.
        logprobs: Whether log-probabilities are wanted.
        top_logprobs: How many likely tokens at each place.
    """

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=10_000)]
    max_tokens: _MaxTokens | None = None
    max_completion_tokens: _MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: _Alternatives | None = None

    store: Literal[False] | None = None
    parallel_tool_calls: bool | None = None
    tools: _Empty | None = None
    functions: _Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: PlainText | None = None
    modalities: Annotated[tuple[Literal["text"], ...], Field(max_length=1)] | None = None
    reasoning_effort: Literal["none", "minimal"] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are one thing: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs are for logprobs: set logprobs to true, or leave them out")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer; None for all that fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Likely tokens at a place; None where no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampled):
    """``POST /v1/completions``.

    Attributes:
        prompt: A text, its token ids, or several of either; texts are tokenised as the model's tokenizer does, BOS
            included.
        max_tokens: Written at most, 16 by default; 0 with ``echo`` to read alone.
        logprobs: Likely tokens at each place; None for no log-probabilities.
        echo: Whether the prompt is a part of the answer, with log-probabilities where these are wanted.
    """

    prompt: (
        _Text
        | Annotated[tuple[_TokenId, ...], Field(min_length=1)]
        | Annotated[tuple[_Text, ...], Field(min_length=1, max_length=MOST_CHOICES)]
        | Annotated[
            tuple[Annotated[tuple[_TokenId, ...], Field(min_length=1)], ...],
            Field(min_length=1, max_length=MOST_CHOICES),
        ]
    )
    max_tokens: _MaxTokens | None = None
    logprobs: _Alternatives | None = None
    echo: bool | None = None

    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionRequest:
        if len(self.prompts) * self.choices > MOST_CHOICES:
            raise ValueError(f"prompts times n are more than {MOST_CHOICES}: send several requests")
        return self

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One or several."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        ids = [one for one in self.prompt if isinstance(one, int)]
        if ids:
            return (tuple(ids),)
        return tuple(one for one in self.prompt if not isinstance(one, int))

    @property
    def limit(self) -> int:
        """Tokens of an answer."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
