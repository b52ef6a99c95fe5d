"""A chat model on this machine: batches of requests in, replies out, by transformers' own ``generate``.

Each request of a batch keeps its own length, stop texts, temperature and seed. Batches are padded on the
left, which moves sums in the last bits: a request answered in two batches may differ where two tokens are
all but equally likely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from raylens.chat import Reply, Request, TokenLogprob
from raylens.engine.chat_prompt import chat_prompt
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.memory import memory_advice
from raylens.engine.token_losses import token_losses
from raylens.errors import OutOfMemoryError
from raylens.ids import digest
from raylens.llm.errors import ContextTooLongError, RequestRefusedError

T = TypeVar("T")
R = TypeVar("R")

_BYTES_A_CHARACTER: Final = 4


class LocalChat:
    """Answers questions, and gives the losses of texts, by a model in memory.

    Args:
        model: A causal LM; of its generation settings only the ids that end an answer are kept, so that
            temperature 0 is its likeliest answer, without a penalty for repeating itself.
        max_model_len: Tokens of prompt and answer together; by default, and at most, what the model takes.
        max_batch: Sequences in one forward.
    """

    def __init__(self, model: LoadedModel, *, max_model_len: int | None = None, max_batch: int = 16) -> None:
        self.model = model
        self.max_batch = max_batch
        known = [n for n in (max_model_len, model.info.max_positions) if n is not None]
        self.max_model_len = min(known) if known else None
        self._network: Any = model.engine.hf_model  # `generate` is declared in a mixin of each architecture
        self._ends = _end_ids(model)
        self._network.generation_config = GenerationConfig(
            eos_token_id=sorted(self._ends) or None, pad_token_id=model.pad_id, do_sample=False
        )

    def answer(self, requests: Sequence[Request]) -> list[Reply | RequestRefusedError | OutOfMemoryError]:
        """One outcome a request, in their order.

        Temperature 0 takes the likeliest token at each place. Above it, tokens are drawn from the softmax at that
        temperature by the Gumbel-max trick (Maddison, Tarlow and Minka, "A* sampling", 2014), each request by a
        generator of its own: its ``seed``, or where it has none a seed made of its content, so that it is answered
        alike in any batch. Log-probabilities are the model's own, at temperature 1. A batch that does not fit into
        memory is halved until it does.
        """
        found: dict[int, Reply | RequestRefusedError | OutOfMemoryError] = {}
        ready: list[tuple[int, _Row]] = []
        for at, request in enumerate(requests):
            try:
                ready.append((at, self._row(request)))
            except RequestRefusedError as error:
                found[at] = error
        # Alike lengths together: less of a batch is padding.
        ready.sort(key=lambda one: len(one[1].ids))
        for first in range(0, len(ready), self.max_batch):
            batch = ready[first : first + self.max_batch]
            replies = _halving(self._generate, [row for _, row in batch])
            found |= {at: reply for (at, _), reply in zip(batch, replies, strict=True)}
        return [found[at] for at in range(len(requests))]

    def losses(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[NDArray[np.float64] | RequestRefusedError | OutOfMemoryError]:
        """Nats of each token of each (context, text)'s text; see :func:`raylens.engine.token_losses.token_losses`."""

        def of(some: Sequence[tuple[str, str]]) -> list[NDArray[np.float64] | RequestRefusedError]:
            return token_losses(self.model, some, max_rows=self.max_batch, max_len=self.max_model_len)

        return _halving(of, pairs)

    def _row(self, request: Request) -> _Row:
        prompt = chat_prompt(self.model.tokenizer, request.messages)
        limit = self.max_model_len
        if limit is not None and len(prompt.ids) + request.max_tokens > limit:
            raise ContextTooLongError(
                f"the prompt has {len(prompt.ids):,} tokens, which with {request.max_tokens:,} for the answer are more "
                f"than the {limit:,} of {self.model.name}.",
                hint="give fewer or shorter examples, or a model with a longer context.",
            )
        return _Row(request, prompt.ids, tuple(stop for stop in (*request.stop, *prompt.stop) if stop))

    def _generate(self, rows: Sequence[_Row]) -> list[Reply]:
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.model.pad_id)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            row.start_over(self.model.device)
            ids[at, longest - len(row.ids) :] = torch.tensor(row.ids)
            mask[at, longest - len(row.ids) :] = 1
        watch = _Watch(rows, self.model, longest)
        with self.model.lock, torch.inference_mode(), memory_advice("answering", self.model.device):
            made = self._network.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=max(row.request.max_tokens for row in rows),
                logits_processor=LogitsProcessorList([_Choosing(watch)]),
                stopping_criteria=StoppingCriteriaList([_Stopping(watch)]),
            )
        return [
            self._reply(row, [int(token) for token in tokens])
            for row, tokens in zip(rows, made[:, longest:].cpu(), strict=True)
        ]

    def _reply(self, row: _Row, tokens: list[int]) -> Reply:
        """What one row says: up to its end token, stop text or length, whichever comes first."""
        tokens = tokens[: row.request.max_tokens]
        end = next((at for at, token in enumerate(tokens) if token in self._ends), None)
        said = tokens if end is None else tokens[:end]
        n_tokens = len(said) + (end is not None)
        text = _decoded(self.model, said)
        cut = min((at for stop in row.stop if (at := text.find(stop)) >= 0), default=None)
        if cut is not None:
            # Token by token, as pieces of a character have no text of their own.
            so_far = [_decoded(self.model, said[: n + 1]) for n in range(len(said))]
            n_tokens = 1 + next(n for n, start in enumerate(so_far) if any(stop in start for stop in row.stop))
            said = said[: sum(len(start) < cut for start in so_far[:n_tokens]) + 1] if cut else []
            text = text[:cut]
        logprobs = None
        if row.request.top_logprobs:
            logprobs = tuple(
                TokenLogprob(token, value, self._alternatives(ids, values))
                for token, (value, ids, values) in zip(
                    token_strings(self.model.tokenizer, said), row.seen, strict=False
                )
            )
        return Reply(
            text=text,
            logprobs=logprobs,
            prompt_tokens=len(row.ids),
            completion_tokens=n_tokens,
            finish_reason="length" if end is None and cut is None else "stop",
        )

    def _alternatives(self, ids: list[int], values: list[float]) -> dict[str, float]:
        top: dict[str, float] = {}
        for token, value in zip(token_strings(self.model.tokenizer, ids), values, strict=True):
            top.setdefault(token, value)  # two ids may read alike; the likelier comes first
        return top


@dataclass
class _Row:
    """One request on its way.

    Attributes:
        request: What was asked.
        ids: Its prompt.
        stop: Texts that end its answer.
        seen: A token so far: its log-probability, the likeliest ids at its place, and theirs.
        dice: What tokens are drawn with; None at temperature 0.
    """

    request: Request
    ids: list[int]
    stop: tuple[str, ...]
    seen: list[tuple[float, list[int], list[float]]] = field(default_factory=list)
    dice: torch.Generator | None = None

    def start_over(self, device: torch.device) -> None:
        self.seen.clear()
        if self.request.temperature > 0:
            seed = self.request.seed
            if seed is None:
                seed = int(digest(asdict(self.request))[:15], 16)
            self.dice = torch.Generator(device).manual_seed(seed % 2**63)


class _Watch:
    """What happens at each token of a batch: before one is taken, and after."""

    def __init__(self, rows: Sequence[_Row], model: LoadedModel, start: int) -> None:
        self._rows = rows
        self._model = model
        self._start = start
        self._most = max(row.request.top_logprobs for row in rows)
        self._logprobs = torch.empty(0)
        self._lengths = torch.tensor([row.request.max_tokens for row in rows], device=model.device)
        # A token is a byte or more: a stop text that ends with the last token began within so many.
        longest = max((len(stop) for row in rows for stop in row.stop), default=0)
        self._tail = _BYTES_A_CHARACTER * longest + 1 if longest else 0

    def before(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores whose largest is the token to take; ``logits`` are float32 ``[rows, vocabulary]``."""
        if self._most:
            self._logprobs = torch.log_softmax(logits, dim=-1)
        if all(row.dice is None for row in self._rows):
            return logits
        scores = logits.clone()
        for at, row in enumerate(self._rows):
            if row.dice is not None:
                waits = torch.empty_like(scores[at]).exponential_(generator=row.dice)
                scores[at] = scores[at] / row.request.temperature - waits.log()  # −log of an exponential: a Gumbel
        return scores

    def after(self, ids: torch.Tensor) -> torch.Tensor:
        """Which rows are done: bool ``[rows]``."""
        made = ids.shape[1] - self._start
        if self._most:
            taken = self._logprobs.gather(1, ids[:, -1:])[:, 0].tolist()
            top = self._logprobs.topk(min(self._most, self._logprobs.shape[1]))
            for row, value, values, tokens in zip(
                self._rows, taken, top.values.tolist(), top.indices.tolist(), strict=True
            ):
                if (k := row.request.top_logprobs) and made <= row.request.max_tokens:
                    row.seen.append((value, tokens[:k], values[:k]))
        stopped = [False] * len(self._rows)
        if self._tail:
            tails = ids[:, self._start :][:, -self._tail :].tolist()
            for at, (row, tail) in enumerate(zip(self._rows, tails, strict=True)):
                said = _decoded(self._model, tail) if row.stop else ""
                stopped[at] = any(stop in said for stop in row.stop)
        return (made >= self._lengths) | torch.tensor(stopped, device=ids.device)


class _Choosing(LogitsProcessor):
    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        return self._watch.before(scores.float())


class _Stopping(StoppingCriteria):
    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> Any:
        return self._watch.after(input_ids)


def _end_ids(model: LoadedModel) -> frozenset[int]:
    """Ids that end an answer: a chat model's end of turn is in its generation settings, beside its end of text."""
    network: Any = model.engine.hf_model
    found: set[int] = set()
    named: tuple[Any, Any] = (network.generation_config.eos_token_id, model.tokenizer.eos_token_id)
    for one in named:
        found.update([one] if isinstance(one, int) else one or ())
    return frozenset(found)


def _decoded(model: LoadedModel, tokens: list[int]) -> str:
    text = model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _halving(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R | OutOfMemoryError]:
    """``work(items)``, in halves where that does not fit into memory; an item that does not fit alone has its error."""
    try:
        return [*work(items)]
    except OutOfMemoryError as error:
        if len(items) < 2:
            return [error]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    return [*_halving(work, items[:middle]), *_halving(work, items[middle:])]
