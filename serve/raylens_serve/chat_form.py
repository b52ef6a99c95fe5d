"""What the engine tells, in the form of OpenAI's ``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence

from raylens.api.openai import ChatRequest
from raylens.api.openai_answers import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    LikelyToken,
    TokenLogprob,
    Usage,
)
from raylens.engine.chat_prompt import chat_prompt
from raylens.engine.load import LoadedModel
from raylens.engine.text_events import PromptRead, TextRequest, Token
from raylens.engine.text_pieces import Piece
from raylens.engine.token_texts import TokenTexts
from raylens_serve.openai_forms import Chunk, Form, Head, finite, reason_of, seed_of


class ChatForm(Form):
    """``/v1/chat/completions``.

    Args:
        request: What was asked.
        loaded: For its tokenizer, and its chat template; a model without one reads a transcript
            (:mod:`raylens.engine.chat_prompt`).
        tokens: As text.
        fingerprint: Of the model.

    Raises:
        RequestRefusedError: The chat template does not take this chat.
    """

    def __init__(self, request: ChatRequest, loaded: LoadedModel, tokens: TokenTexts, fingerprint: str) -> None:
        self._head, self._tokens, self._alternatives = Head(request.model, fingerprint), tokens, request.alternatives
        prompt = chat_prompt(loaded.tokenizer, [message.message() for message in request.messages])
        self.n_prompt = len(prompt.ids)
        self.texts = [
            TextRequest(
                tuple(prompt.ids),
                request.limit,
                (*request.stops, *prompt.stop),
                request.heat,
                1.0 if request.top_p is None else request.top_p,
                seed_of(request.seed, n),
                request.alternatives,
            )
            for n in range(request.choices)
        ]

    def begun(self, index: int, event: PromptRead) -> ChatChunk:
        """Who speaks."""
        return self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))

    def adds(self, index: int, piece: Piece[Token]) -> ChatChunk:
        """Text, with its tokens."""
        rows = None
        if self._alternatives is not None:
            rows = ChatLogprobs(content=tuple(self._row(token) for token in piece.tokens))
        return self._chunk(ChunkChoice(index=index, delta=Delta(content=piece.text), logprobs=rows))

    def done(self, index: int, reason: FinishReason) -> ChatChunk:
        """Why it ends."""
        return self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=reason))

    def counts(self, usage: Usage) -> ChatChunk:
        """Counts alone."""
        return self._chunk(usage=usage)

    def whole(self, chunks: Sequence[Chunk], usage: Usage) -> ChatCompletion:
        """As one answer."""
        parts = [part for chunk in chunks if isinstance(chunk, ChatChunk) for part in chunk.choices]
        choices = []
        for index in range(len(self.texts)):
            mine = [part for part in parts if part.index == index]
            rows = [row for part in mine if part.logprobs is not None for row in part.logprobs.content]
            choices.append(
                ChatChoice(
                    index=index,
                    message=AnswerMessage(content="".join(part.delta.content or "" for part in mine)),
                    logprobs=None if self._alternatives is None else ChatLogprobs(content=tuple(rows)),
                    finish_reason=reason_of(part.finish_reason for part in mine),
                )
            )
        head = self._head
        return ChatCompletion(
            id=f"chatcmpl-{head.token}",
            created=head.created,
            model=head.model,
            system_fingerprint=head.fingerprint,
            choices=tuple(choices),
            usage=usage,
        )

    def _chunk(self, *choices: ChunkChoice, usage: Usage | None = None) -> ChatChunk:
        head = self._head
        return ChatChunk(
            id=f"chatcmpl-{head.token}",
            created=head.created,
            model=head.model,
            system_fingerprint=head.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _row(self, token: Token) -> TokenLogprob:
        own = self._likely(token.id, token.log_prob or 0.0)
        return TokenLogprob(**own.model_dump(), top_logprobs=tuple(self._likely(*one) for one in token.top))

    def _likely(self, token: int, log_prob: float) -> LikelyToken:
        text = self._tokens[token]
        return LikelyToken(token=text.escaped, logprob=finite(log_prob), bytes=tuple(text.bytes))
