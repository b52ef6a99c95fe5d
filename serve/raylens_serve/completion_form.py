"""What the engine tells, in the form of OpenAI's older ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence

from raylens.api.openai import CompletionRequest
from raylens.api.openai_answers import Completion, CompletionChoice, CompletionLogprobs, FinishReason, Usage
from raylens.engine.load import LoadedModel
from raylens.engine.text_events import PromptRead, TextRequest, Token
from raylens.engine.text_pieces import Characters, Piece, TextPieces
from raylens.engine.token_texts import TokenTexts
from raylens_serve.openai_forms import Chunk, Form, Head, finite, reason_of, seed_of


class CompletionForm(Form):
    """``/v1/completions``.

    Args:
        request: What was asked.
        loaded: For its tokenizer.
        tokens: As text.
        fingerprint: Of the model.
    """

    def __init__(self, request: CompletionRequest, loaded: LoadedModel, tokens: TokenTexts, fingerprint: str) -> None:
        self._head, self._tokens = Head(request.model, fingerprint), tokens
        self._request, self._loaded = request, loaded
        prompts = [_ids(loaded, prompt) for prompt in request.prompts]
        self.n_prompt = sum(map(len, prompts))
        self.texts = [
            TextRequest(
                ids,
                request.limit,
                request.stops,
                request.heat,
                1.0 if request.top_p is None else request.top_p,
                seed_of(request.seed, n),
                request.logprobs,
                request.logprobs if request.echo else None,
            )
            for ids in prompts
            for n in range(request.choices)
        ]
        self._echoed = [0] * len(self.texts)
        """Characters of each choice's prompt that its text begins with."""

    def begun(self, index: int, event: PromptRead) -> Completion:
        """The prompt, where it is echoed."""
        if not self._request.echo:
            return self._chunk(CompletionChoice(index=index, text=""))
        prompt = self._request.prompts[index // self._request.choices]
        # Token by token, to know where each begins; special ones stand for no text.
        pieces: TextPieces[int] = TextPieces(Characters(self._loaded.tokenizer))
        made = [pieces.add(token, at)[0] for at, token in enumerate(self.texts[index].prompt)] + [pieces.end()]
        text = prompt if isinstance(prompt, str) else "".join(piece.text for piece in made)
        self._echoed[index] = len(text)
        rows = None
        if event.tokens:
            rows = self._rows(event.tokens, [at for piece in made for at in piece.offsets])
        return self._chunk(CompletionChoice(index=index, text=text, logprobs=rows))

    def adds(self, index: int, piece: Piece[Token]) -> Completion:
        """Text, with its tokens."""
        rows = None
        if self._request.logprobs is not None:
            rows = self._rows(piece.tokens, [self._echoed[index] + at for at in piece.offsets])
        return self._chunk(CompletionChoice(index=index, text=piece.text, logprobs=rows))

    def done(self, index: int, reason: FinishReason) -> Completion:
        """Why it ends."""
        return self._chunk(CompletionChoice(index=index, text="", finish_reason=reason))

    def counts(self, usage: Usage) -> Completion:
        """Counts alone."""
        return self._chunk(usage=usage)

    def whole(self, chunks: Sequence[Chunk], usage: Usage) -> Completion:
        """As one answer."""
        parts = [part for chunk in chunks if isinstance(chunk, Completion) for part in chunk.choices]
        choices = []
        for index in range(len(self.texts)):
            mine = [part for part in parts if part.index == index]
            rows = [part.logprobs for part in mine if part.logprobs is not None]
            choices.append(
                CompletionChoice(
                    index=index,
                    text="".join(part.text for part in mine),
                    logprobs=None if self._request.logprobs is None else _joined(rows, self._request.logprobs),
                    finish_reason=reason_of(part.finish_reason for part in mine),
                )
            )
        return self._chunk(*choices, usage=usage)

    def _chunk(self, *choices: CompletionChoice, usage: Usage | None = None) -> Completion:
        head = self._head
        return Completion(
            id=f"cmpl-{head.token}",
            created=head.created,
            model=head.model,
            system_fingerprint=head.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _rows(self, tokens: Sequence[Token], offsets: Sequence[int]) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=tuple(self._text(token.id) for token in tokens),
            token_logprobs=tuple(None if one.log_prob is None else finite(one.log_prob) for one in tokens),
            top_logprobs=tuple(self._likely(token) for token in tokens) if self._request.logprobs else None,
            text_offset=tuple(offsets),
        )

    def _likely(self, token: Token) -> dict[str, float] | None:
        if token.log_prob is None:
            return None
        found: dict[str, float] = {}
        for other, value in (*token.top, (token.id, token.log_prob)):
            found.setdefault(self._text(other), finite(value))  # two ids may read alike; the likelier comes first
        return found

    def _text(self, token: int) -> str:
        text = self._tokens[token]
        return text.escaped if text.text is not None else f"bytes:{text.escaped}"


def _joined(rows: Sequence[CompletionLogprobs], top: int) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=tuple(one for row in rows for one in row.tokens),
        token_logprobs=tuple(one for row in rows for one in row.token_logprobs),
        top_logprobs=tuple(one for row in rows for one in row.top_logprobs or ()) if top else None,
        text_offset=tuple(one for row in rows for one in row.text_offset),
    )


def _ids(loaded: LoadedModel, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        return prompt
    ids = loaded.tokenizer(prompt)["input_ids"]
    assert isinstance(ids, list)
    return tuple(ids)
