"""The prompts of a suite as one model's tokenizer reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raylens.audit.slots import Frame
from raylens.chat import Message
from raylens.errors import InputError
from raylens.suites.checks import Check
from raylens.suites.suite import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    """

    id: str
    number: int
    variant: str
    tags: tuple[str, ...]
    checks: tuple[Check, ...]
    ids: tuple[int, ...]
    text: str
    continued: str | None


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
            found.append(Form(prompt.id, number, variant.kind, prompt.tags, prompt.checks, ids, text, variant.text))
    return tuple(found)


def frames_of(forms: tuple[Form, ...]) -> list[Frame]:
    """The first wording of each prompt, as the search for triggers takes them; of chats what the template renders."""
    return [Frame(form.text) for form in forms if form.number == 0]


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
