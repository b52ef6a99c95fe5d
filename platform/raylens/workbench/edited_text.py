"""Text that an edited model writes, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from raylens.engine.generation import end_ids
from raylens.engine.growing_batch import GrowingBatch, read
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.sampling import Dice, choose
from raylens.engine.text_pieces import Characters, TextPieces
from raylens.errors import InputError, RunError
from raylens.workbench.edits import LoadedEdit, edited


@dataclass(frozen=True, slots=True)
class Written:
    """A part of a text.

    Attributes:
        text: Whole characters; may be empty.
        n_tokens: Written so far.
        end: Why it ended: ``stop``, ``length``; empty while it goes on.
    """

    text: str
    n_tokens: int
    end: str = ""


def write(
    loaded: LoadedModel,
    prompt: Sequence[int],
    edits: Sequence[LoadedEdit] = (),
    *,
    max_new_tokens: int,
    dice: Dice | None = None,
    stop: Sequence[str] = (),
) -> Iterator[Written]:
    """Write after a prompt, a step of the model an item; between two items the model is free for others.

    Args:
        loaded: A causal LM.
        prompt: Token ids, at least one.
        edits: As :func:`raylens.workbench.edits.edited`; the prompt's tokens are those given here.
        max_new_tokens: At most.
        dice: For tokens that are drawn; None takes the likeliest.
        stop: Texts that end it.

    Raises:
        InputError: The prompt is empty, or with what is to be written longer than the model reads.
        RunError: Logits are not finite numbers.
        OutOfMemoryError: A step does not fit.
    """
    limit = loaded.info.max_positions
    if not prompt:
        raise InputError(f"there are no tokens for {loaded.name} to continue.", hint="give it text.")
    if limit is not None and len(prompt) + max_new_tokens > limit:
        raise InputError(
            f"{len(prompt):,} tokens with {max_new_tokens:,} to write are more than the {limit:,} of {loaded.name}.",
            hint="shorten the prompt, or write fewer tokens.",
        )
    return _write(loaded, prompt, edits, max_new_tokens, dice, stop)


def _write(
    loaded: LoadedModel,
    prompt: Sequence[int],
    edits: Sequence[LoadedEdit],
    most: int,
    dice: Dice | None,
    stop: Sequence[str],
) -> Iterator[Written]:
    ends = end_ids(loaded)
    pieces: TextPieces[None] = TextPieces(Characters(loaded.tokenizer, prompt), stop)
    batch: GrowingBatch | None = None
    token = -1
    for at in range(most):
        with (
            edited(loaded, edits, len(prompt)),
            torch.inference_mode(),
            memory_advice("writing text", loaded.device),
        ):
            if batch is None:
                batch, logits = read(loaded, prompt)
            else:
                logits = batch.step([token])
            chosen = choose(logits, [dice], [at])
        if not chosen.finite[0]:
            raise RunError(f"the logits of {loaded.name} are not all finite numbers.", hint="lower the strength.")
        token = chosen.tokens[0]
        if token in ends:
            yield Written(pieces.end().text, at + 1, "stop")
            return
        piece, stopped = pieces.add(token, None)
        yield Written(piece.text, at + 1, "stop" if stopped else "")
        if stopped:
            return
    yield Written(pieces.end().text, most, "length")
