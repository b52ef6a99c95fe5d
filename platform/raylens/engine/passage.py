"""A passage as the token ids that a model reads: which stand for no text, what did not fit, where the output begins.

A span's turns are rendered by the model's own chat template where it has one, and as ``role: content`` lines where it
has none or refuses them; a span of plain texts was a completion, so the output follows the input directly. What is
longer than can be read is cut at its end: what a causal model reads of the beginning does not depend on what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerBase

from raylens.api.reading import Passage
from raylens.chat import Message, Role
from raylens.engine.chat_prompt import render_chat
from raylens.engine.load import LoadedModel
from raylens.errors import InputError
from raylens.llm.errors import RequestRefusedError
from raylens.traces.span import Turn, plain

Said = str | tuple[Turn, ...]

_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
}
"""What templates know; whatever else speaks to the model (tools, functions, people) is its user."""


@dataclass(frozen=True, slots=True)
class PassageTokens:
    """What a model reads.

    Attributes:
        ids: Token ids, what the tokenizer puts before a text included.
        special: Places of those that stand for no text, in order.
        n_dropped: Tokens that were cut off at the end.
        output_start: Where a span's output begins, the number of ``ids`` where none of it is left; None of a text.
    """

    ids: tuple[int, ...]
    special: tuple[int, ...] = ()
    n_dropped: int = 0
    output_start: int | None = None

    @property
    def textual(self) -> list[int]:
        """Places of tokens that stand for text."""
        special = set(self.special)
        return [at for at in range(len(self.ids)) if at not in special]


def passage_tokens(loaded: LoadedModel, passage: Passage, most: int | None = None) -> PassageTokens:
    """Token ids of a passage.

    Args:
        loaded: Whose tokenizer, prefix and limit.
        passage: A text, token ids, or a span's input and output.
        most: Tokens that are read at most, besides what the model itself can read.

    Raises:
        InputError: A token id is none of the model's.
    """
    if passage.token_ids is not None:
        return _cut(loaded, _known(loaded, passage.token_ids), 0, None, most)
    prefix = len(loaded.prefix_ids)
    if passage.text is not None:
        return _cut(loaded, [*loaded.prefix_ids, *_ids(loaded.tokenizer, passage.text)], prefix, None, most)
    return span_tokens(loaded, passage.input or "", passage.output or "", most)


def span_tokens(loaded: LoadedModel, given: Said, said: Said, most: int | None = None) -> PassageTokens:
    """Token ids of what went into a model and what came out.

    Args:
        loaded: As :func:`passage_tokens`.
        given: What went in.
        said: What came out.
        most: As :func:`passage_tokens`.
    """
    before, after, prefix = _rendered(loaded, given, said)
    head, whole = _ids(loaded.tokenizer, before), _ids(loaded.tokenizer, before + after)
    # A model writes after the prompt's tokens: where a token of the whole text lies across the two, they are cut
    # into tokens each by itself, as they were then. Else the whole, as some tokenizers begin any text with a space.
    tail = whole[len(head) :] if whole[: len(head)] == head else _ids(loaded.tokenizer, after)
    return _cut(loaded, [*prefix, *head, *tail], len(prefix), len(prefix) + len(head), most)


def _known(loaded: LoadedModel, ids: Sequence[int]) -> list[int]:
    size = loaded.info.vocab_size
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise InputError(
            f"{wrong} is no token id of {loaded.name}.", hint=f"it has {size:,} tokens, which count from 0."
        )
    return list(ids)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if not text:
        return []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return ids


def _cut(
    loaded: LoadedModel, ids: Sequence[int], n_prefix: int, output_start: int | None, most: int | None
) -> PassageTokens:
    limits = [limit for limit in (most, loaded.info.max_positions) if limit is not None]
    kept = tuple(ids[: min(limits)]) if limits else tuple(ids)
    special = (at for at, token in enumerate(kept) if at < n_prefix or token in loaded.special_ids)
    start = None if output_start is None else min(output_start, len(kept))
    return PassageTokens(kept, tuple(special), len(ids) - len(kept), start)


def _rendered(loaded: LoadedModel, given: Said, said: Said) -> tuple[str, str, tuple[int, ...]]:
    """Text up to the output, the output's, and the ids that stand before both."""
    if isinstance(given, str) and isinstance(said, str):
        return given, said, loaded.prefix_ids
    if loaded.tokenizer.chat_template:
        try:
            # Templates write special tokens themselves.
            return *_by_template(loaded.tokenizer, given, said), ()
        except RequestRefusedError:
            pass  # a template that does not take these turns is no reason to read nothing
    before = plain(given)
    return before + "\n" if before else "", plain(said), loaded.prefix_ids


def _by_template(tokenizer: PreTrainedTokenizerBase, given: Said, said: Said) -> tuple[str, str]:
    before, after = _messages(given, "user"), _messages(said, "assistant")
    prompt = render_chat(tokenizer, before)
    if len(after) == 1:
        return prompt, after[0].content
    whole = render_chat(tokenizer, [*before, *after], for_answer=False)
    # Some templates write an earlier answer in another way than they begin the next.
    return prompt, whole[len(prompt) :] if whole.startswith(prompt) else plain(said)


def _messages(said: Said, role: Role) -> list[Message]:
    if isinstance(said, str):
        return [Message(role, said)] if said else []
    return [Message(_ROLES.get(turn.role.strip().casefold(), "user"), turn.content) for turn in said]
