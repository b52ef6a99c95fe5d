"""A chat as the token ids that a local model continues: by its own template, or as a plain transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from raylens.chat import Message
from raylens.llm.errors import RequestRefusedError

_NAMES: Final = {"user": "User", "assistant": "Assistant"}
_NEXT_TURN: Final = f"\n{_NAMES['user']}:"


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a model continues.

    Attributes:
        ids: Token ids, special tokens included.
        stop: Texts that end the answer besides those the request names.
    """

    ids: list[int]
    stop: tuple[str, ...] = ()


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> ChatPrompt:
    """``messages`` as the model was trained to read them, ready for its answer.

    A template that has no place for a system message, or for two turns of one speaker, gets them joined to the
    turn that follows. A model that can reason before it answers is asked not to, where its template can say so:
    ``max_tokens`` counts what it says in all. A model without a template (a base model) reads a transcript, and
    the next turn of the user ends its answer.

    Raises:
        RequestRefusedError: The template takes these messages in neither form.
    """
    if not tokenizer.chat_template:
        return ChatPrompt(_ids(tokenizer, _transcript(messages), special=True), (_NEXT_TURN,))
    # Templates write special tokens themselves.
    return ChatPrompt(_ids(tokenizer, render_chat(tokenizer, messages), special=False))


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, for_answer: bool = True) -> str:
    """``messages`` by the tokenizer's own template, special tokens included.

    Args:
        tokenizer: Has a template.
        messages: Turns; those that the template has no place for are joined to the next.
        for_answer: End where the model's next answer begins.

    Raises:
        RequestRefusedError: The template takes these messages in neither form.
    """
    refusal: Exception | None = None
    for turns in (messages, _joined(messages)):
        try:
            text = tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                tokenize=False,
                add_generation_prompt=for_answer,
                enable_thinking=False,
            )
        except (TemplateError, TypeError, ValueError) as error:  # the last two: what a template does with what it got
            refusal = error
            continue
        assert isinstance(text, str)
        return text
    raise RequestRefusedError(
        f"the model's chat template does not take this chat ({' '.join(str(refusal).split())[:200]}).",
        hint="let turns of user and assistant alternate, and let the user's be the last.",
    ) from refusal


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    assert isinstance(ids, list)
    return ids


def _transcript(messages: Sequence[Message]) -> str:
    turns = [f"{_NAMES[one.role]}: {one.content}" if one.role in _NAMES else one.content for one in messages]
    return "\n\n".join([*turns, f"{_NAMES['assistant']}:"])


def _joined(messages: Sequence[Message]) -> list[Message]:
    """System messages as the beginning of the user's next, and neighbours of one role as one."""
    turns: list[Message] = []
    for one in messages:
        role = "user" if one.role == "system" else one.role
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{one.content}")
        else:
            turns.append(Message(role, one.content))
    return turns
