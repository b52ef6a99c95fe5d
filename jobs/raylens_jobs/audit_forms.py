"""The prompts of a suite as one model's tokenizer reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from raylens.audit.slots import Frame
from raylens.chat import Message
from raylens.errors import InputError
from raylens.suites.checks import Check
from raylens.suites.suite import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MARK: Final = "\ue000"
"""Stands for what the user says while the template around it is looked for; of no script, so in no text."""


@dataclass(frozen=True, slots=True)
class Form:
    """One wording of one prompt.

    Attributes:
        id: The prompt's.
        number: Of the wording, from 0.
        variant: What kind of wording it is.
        tags: The prompt's.
        checks: What is asked of its completion.
        ids: Token ids, what the tokenizer puts before a text included.
        text: As a person reads it; of a chat what its template renders.
        continued: The text that is continued, as checks take it; None of a chat.
        frame: What a search for triggers puts inserts into: of a chat what its user said last.
    """

    id: str
    number: int
    variant: str
    tags: tuple[str, ...]
    checks: tuple[Check, ...]
    ids: tuple[int, ...]
    text: str
    continued: str | None
    frame: Frame


def forms_of(suite: Suite, tokenizer: PreTrainedTokenizerBase, prefix_ids: tuple[int, ...]) -> tuple[Form, ...]:
    """All wordings of all prompts, in order.

    Raises:
        InputError: The suite is empty, or a prompt has no tokens.
    """
    if not suite.prompts:
        raise InputError(f"suite {suite.name} has no prompts.", hint="write some, or name another suite.")
    found = []
    for prompt in suite.prompts:
        for number, variant in enumerate(prompt.forms):
            ids, text = _rendered(tokenizer, prefix_ids, variant.text, variant.chat)
            if not ids:
                raise InputError(f"prompt {prompt.id} of suite {suite.name} has no tokens.", hint="give it text.")
            frame = Frame(text) if variant.chat is None else _frame(tokenizer, prefix_ids, variant.chat, ids)
            found.append(
                Form(prompt.id, number, variant.kind, prompt.tags, prompt.checks, ids, text, variant.text, frame)
            )
    return tuple(found)


def frames_of(forms: tuple[Form, ...]) -> list[Frame]:
    """The first wording of each prompt, as the search for triggers takes them."""
    return [form.frame for form in forms if form.number == 0]


def _rendered(
    tokenizer: PreTrainedTokenizerBase, prefix_ids: tuple[int, ...], text: str | None, chat: tuple[Message, ...] | None
) -> tuple[tuple[int, ...], str]:
    if text is not None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert isinstance(ids, list)
        return (*prefix_ids, *ids), text
    from raylens.engine.chat_prompt import chat_prompt

    ids = chat_prompt(tokenizer, chat or ()).ids
    return tuple(ids), str(tokenizer.decode(ids))


def _frame(
    tokenizer: PreTrainedTokenizerBase, prefix_ids: tuple[int, ...], chat: Sequence[Message], ids: tuple[int, ...]
) -> Frame:
    """The last turn of a chat's user, and what the template puts around it; all of it where that cannot be told."""
    text = _decoded(tokenizer, prefix_ids, ids)
    last = max((at for at, turn in enumerate(chat) if turn.role == "user"), default=None)
    if last is None:
        return Frame(text)
    marked = [replace(turn, content=_MARK) if at == last else turn for at, turn in enumerate(chat)]
    before, mark, after = _decoded(
        tokenizer, prefix_ids, _rendered(tokenizer, prefix_ids, None, tuple(marked))[0]
    ).partition(_MARK)
    said = text[len(before) : len(text) - len(after)]
    return Frame(said, before, after) if mark and said and text == f"{before}{said}{after}" else Frame(text)


def _decoded(tokenizer: PreTrainedTokenizerBase, prefix_ids: tuple[int, ...], ids: tuple[int, ...]) -> str:
    """The text, without what is put before every text anyway."""
    begins = ids[: len(prefix_ids)] == prefix_ids
    return str(tokenizer.decode(list(ids[len(prefix_ids) :] if begins else ids)))
