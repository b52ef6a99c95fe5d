"""Texts that a model writes for whoever asks, token by token, all side by side: continuous batching.

One thread does it. Between two steps a text that waits is read and joins those under way, and those that are done
leave, so that nobody waits for a batch to end. What is said to each is the same whoever else asks: where a batch
could have changed the bits that decide between two tokens, the text so far is read again alone to decide it (not in
16 bits, where near ties are everywhere; see :mod:`raylens.engine.generation`). Greedy answers are those of
:func:`raylens.engine.generation.generate`.

Texts that together do not fit into memory wait again, and fewer are written at a time. Only one that does not fit
alone is refused.

It is a loop of its own rather than transformers' ``generate_batch``: that has one temperature and one seed for all
texts, and gives no log-probabilities of prompts or of alternatives.
"""

from __future__ import annotations

import logging
import secrets
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from raylens.engine.generation import EXACT, end_ids
from raylens.engine.growing_batch import GrowingBatch, join, read, read_scored, reread
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.sampling import Chosen, Dice, choose
from raylens.engine.text_events import End, Event, PromptRead, TextRequest, Token
from raylens.engine.text_pieces import Characters, Piece, TextPieces
from raylens.errors import InputError, OutOfMemoryError, OverloadedError, RunError, StoppedError
from raylens.llm.errors import ContextTooLongError

MOST_WAITING: Final = 1024
"""Texts that wait at a time; more are refused."""
UNBOUNDED_TOKENS: Final = 4096
"""Written at most where neither the request nor the model sets a limit."""
COLDEST: Final = 1e-5
"""Below it a temperature is 0: logits divided by it would overflow."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Text:
    """A text on its way.

    Attributes:
        request: What was asked.
        limit: Tokens written at most.
        tell: Told what happens.
        pieces: What was written, as text.
        dice: None at temperature 0.
        written: Token ids.
        begun: Whether it was told that its prompt was read.
        gone: Whether it is done, or nobody waits for it any more.
    """

    request: TextRequest
    limit: int
    tell: Callable[[Event], None]
    pieces: TextPieces[Token]
    dice: Dice | None
    written: list[int] = field(default_factory=list)
    begun: bool = False
    gone: bool = False

    def end(self, event: End | Exception) -> None:
        """Tell the last thing."""
        if not self.gone:
            self.gone = True
            self.tell(event)


@dataclass(eq=False)
class _Group:
    """Texts that are stepped together, a row each."""

    texts: list[_Text]
    batch: GrowingBatch

    def drop_gone(self) -> None:
        stay = [at for at, text in enumerate(self.texts) if not text.gone]
        self.texts = [self.texts[at] for at in stay]
        self.batch.keep(stay)


class TextStreams:
    """Writes texts by one model until it is closed.

    Args:
        loaded: A causal LM; of its generation settings only the ids that end a text are used.
        max_batch: Texts side by side.
        max_waiting: Besides these.
    """

    def __init__(self, loaded: LoadedModel, *, max_batch: int = 8, max_waiting: int = MOST_WAITING) -> None:
        self.loaded = loaded
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._ends = end_ids(loaded)
        self._exact = loaded.dtype in EXACT
        self._room, self._done_since = max_batch, 0
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._groups: list[_Group] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"texts of {loaded.name}", daemon=True)
        self._thread.start()

    def submit(self, request: TextRequest, tell: Callable[[Event], None]) -> Callable[[], None]:
        """Ask for a text.

        Args:
            request: What to write.
            tell: Called with what happens, by another thread; neither blocks nor raises.

        Returns:
            What gives it up; nothing is told after that but what was on its way.

        Raises:
            InputError: The prompt has no tokens, or some that the model does not have.
            ContextTooLongError: Prompt and text do not fit into the context.
            OverloadedError: Too many wait.
            StoppedError: It was closed.
        """
        limit, dice = self._limit(request), None
        if request.temperature > COLDEST:
            seed = secrets.randbits(62) if request.seed is None else request.seed
            dice = Dice(request.temperature, request.top_p, seed)
        pieces = TextPieces(Characters(self.loaded.tokenizer, request.prompt), request.stop)
        text = _Text(request, limit, tell, pieces, dice)
        with self._changed:
            if self._closed:
                raise self._stopped()
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(
                    f"{len(self._waiting):,} requests wait for {self.loaded.name} already.",
                    hint="ask again in a moment.",
                )
            self._waiting.append(text)
            self._changed.notify()

        def give_up() -> None:
            text.gone = True

        return give_up

    def counts(self) -> tuple[int, int]:
        """Texts under way, and texts that wait."""
        under_way = [text for group in [*self._groups] for text in group.texts]
        return sum(not text.gone for text in under_way), sum(not text.gone for text in [*self._waiting])

    def is_running(self) -> bool:
        """Whether texts are still written."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Stop after the step under way; whoever waits is told."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _limit(self, request: TextRequest) -> int:
        name, n = self.loaded.name, len(request.prompt)
        vocabulary, context = self.loaded.info.vocab_size, self.loaded.info.max_positions
        if not n:
            raise InputError(
                f"the prompt has no tokens for {name} to continue.",
                hint="send some text: its tokenizer begins no text with a token of its own.",
            )
        if min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
            raise InputError(
                f"the prompt has token ids that {name} does not have.", hint=f"they count from 0 to {vocabulary - 1:,}."
            )
        if context is None:
            return UNBOUNDED_TOKENS if request.max_tokens is None else request.max_tokens
        wanted = 1 if request.max_tokens is None else request.max_tokens
        if n + wanted > context:
            raise ContextTooLongError(
                f"the context length of {name} is {context:,} tokens; the prompt has {n:,}, and {wanted:,} are to "
                "follow.",
                hint="send less, or ask for a shorter answer.",
            )
        return context - n if request.max_tokens is None else wanted

    def _run(self) -> None:
        while True:
            with self._changed:
                self._groups = [group for group in self._groups if group.texts]
                while not (self._closed or self._waiting or self._groups):
                    self._changed.wait()
                if self._closed:
                    break
                some_room = self._waiting and self._under_way() < self._room
                # One at a time: whoever is being answered waits for one prompt at most.
                arrived = self._waiting.popleft() if some_room else None
            if arrived is not None and not arrived.gone:
                self._begin(arrived)
            self._join()
            for group in [*self._groups]:
                with self._kept_alive(group.texts):
                    group.drop_gone()
                    if group.texts:
                        self._advance(group, group.batch.step([text.written[-1] for text in group.texts]))
        for text in [*self._waiting, *(text for group in self._groups for text in group.texts)]:
            text.end(self._stopped())

    def _begin(self, text: _Text, *, exact: bool = False) -> None:
        """Read what a text has so far, and write its next token; ``exact`` as if it had been written alone."""
        with self._kept_alive([text]):
            request, known = text.request, ()
            if exact:
                batch, logits = reread(self.loaded, request.prompt, text.written)
            elif request.prompt_log_probs is not None and not text.begun:
                scored, batch, logits = read_scored(self.loaded, request.prompt, request.prompt_log_probs)
                rows = zip(request.prompt, [(None, ()), *scored], strict=True)
                known = tuple(Token(token, value, tuple(top)) for token, (value, top) in rows)
            else:
                batch, logits = read(self.loaded, [*request.prompt, *text.written])
                batch.exact = not text.written
            if not text.begun:
                text.begun = True
                text.tell(PromptRead(known))
            if not text.limit:
                text.end(End("length", 0))
                return
            group = _Group([text], batch)
            self._groups.append(group)
            self._advance(group, logits)

    def _join(self) -> None:
        """Make one group of all that can be."""
        self._groups = [group for group in self._groups if group.texts]
        some = [group for group in self._groups if group.batch.can_join]
        if len(some) < 2:
            return
        texts = [text for group in some for text in group.texts]
        self._groups = [group for group in self._groups if group not in some]
        with self._kept_alive(texts):
            self._groups.append(_Group(texts, join([group.batch for group in some])))

    def _advance(self, group: _Group, logits: Tensor) -> None:
        """Choose, say and keep the next token of each text of a group, of which these are the logits."""
        texts = group.texts
        chosen = choose(logits, [text.dice for text in texts], [len(text.written) for text in texts])
        close = [self._exact and not group.batch.exact and one for one in chosen.close]
        self._say(texts, logits, chosen, close)
        again = [text for text, one in zip(texts, close, strict=True) if one and not text.gone]
        group.texts = [text for text in texts if text not in again]
        group.batch.keep([at for at, text in enumerate(texts) if text not in again])
        group.drop_gone()
        for text in again:
            self._begin(text, exact=True)

    def _say(self, texts: Sequence[_Text], logits: Tensor, chosen: Chosen, close: Sequence[bool]) -> None:
        """Tell each text but the close ones its token."""
        if any(text.request.top_log_probs is not None for text in texts):
            logits = torch.log_softmax(logits, dim=-1)
        rows = zip(texts, chosen.tokens, chosen.finite, close, logits, strict=True)
        for text, token, finite, skip, nats in rows:
            top = text.request.top_log_probs
            if not finite:
                text.end(_not_finite(self.loaded.name))
            elif skip or text.gone:
                continue
            elif top is None:
                self._write(text, Token(token))
            else:
                likely = nats.topk(min(top, len(nats)))
                pairs = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
                self._write(text, Token(token, float(nats[token]), tuple(pairs)))

    def _write(self, text: _Text, token: Token) -> None:
        if token.id in self._ends:
            _tell(text, text.pieces.end())
            self._end(text, End("stop", len(text.written) + 1))
            return
        text.written.append(token.id)
        piece, stopped = text.pieces.add(token.id, token)
        _tell(text, piece)
        if stopped:
            self._end(text, End("stop", len(text.written)))
        elif len(text.written) >= text.limit:
            _tell(text, text.pieces.end())
            self._end(text, End("length", len(text.written)))

    def _end(self, text: _Text, event: End) -> None:
        text.end(event)
        self._done_since += 1
        if self._done_since >= 2 * self._room and self._room < self._max_batch:  # memory seems to suffice
            self._room, self._done_since = self._room + 1, 0

    @contextmanager
    def _kept_alive(self, texts: Sequence[_Text]) -> Iterator[None]:
        """Run a part of a step; what goes wrong ends the texts it is about, and no others."""
        try:
            with self.loaded.lock, torch.inference_mode(), memory_advice("writing text", self.loaded.device):
                yield
        except OutOfMemoryError as error:
            _let_go(error)
            self._leave(texts)
            self._wait_again([text for text in texts if not text.gone], error)
        except Exception as error:  # whatever it is, those who wait are told
            _log.exception("writing text by %s failed", self.loaded.name)
            self._leave(texts)
            for text in texts:
                text.end(error)

    def _leave(self, texts: Sequence[_Text]) -> None:
        """Forget groups that broke off within a step: what they keep is in no known state."""
        for group in self._groups:
            if any(text in texts for text in group.texts):
                group.texts = []
        self._groups = [group for group in self._groups if group.texts]

    def _wait_again(self, texts: Sequence[_Text], error: OutOfMemoryError) -> None:
        others = self._under_way()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(texts) == 1 and not others:
            texts[0].end(error)
            return
        self._room, self._done_since = max(1, others + len(texts) // 2), 0
        _log.warning("memory does not suffice for more than %d texts at a time", self._room)
        with self._changed:
            self._waiting.extendleft(reversed(texts))

    def _under_way(self) -> int:
        return sum(len(group.texts) for group in self._groups)

    def _stopped(self) -> StoppedError:
        return StoppedError(f"{self.loaded.name} was stopped.", hint="ask again once it is served again.")


def _let_go(error: BaseException | None) -> None:
    """Forget what the frames that an error came through hold: tensors that memory did not suffice for."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _tell(text: _Text, piece: Piece[Token]) -> None:
    if piece.text or piece.tokens:
        text.tell(piece)


def _not_finite(name: str) -> RunError:
    return RunError(
        f"the logits of {name} are not all finite numbers.",
        hint="activations overflow or weights are damaged: try another dtype, or another copy of the model.",
    )
