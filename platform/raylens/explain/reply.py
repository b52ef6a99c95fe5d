"""Explanations read from what a language model answered: one phrase, or why there is none.

A reply that cannot be read is never an explanation. It is asked for once more with the reason, and failing that is
stored as a failure.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from raylens.chat import Message, Reply
from raylens.explain.prompts import Prompts

MAX_CHARACTERS = 240
RETRY_PROMPT = "explain-retry"

_TAG = re.compile(r"^[\s*_#>-]*\[EXPLANATION\][*_\s]*:[*_]*", re.IGNORECASE)
_NOTHING = re.compile(
    r"(the )?(explanation )?(could not|cannot|can't) be (parsed|determined|explained)"
    r"|n/?a|none|unknown|unclear|null|no (clear )?(explanation|pattern)( found)?|<?(your )?(phrase|explanation)>?",
    re.IGNORECASE,
)

_TURNS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Change the direction in which all that follows is read."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No explanation; ``reason`` is a clause in plain words, fit to be sent back."""

    reason: str


def read_reply(reply: Reply) -> str | Unreadable:
    """As :func:`read_explanation`; an answer that was cut off has not come to its end, whatever its last line is."""
    if reply.finish_reason == "length":
        return Unreadable("it was cut off before its end; be shorter.")
    return read_explanation(reply.text)


def read_explanation(text: str) -> str | Unreadable:
    """The phrase on the last line that begins with ``[EXPLANATION]:``, spaces collapsed.

    Never raises. Emphasis around the tag, and quotation marks around the whole phrase, are passed over; all else that
    was not asked for is a reason to ask again: no tag, nothing or more lines after it, a code fence, JSON, a phrase of
    more than :data:`MAX_CHARACTERS`, or one that says that there is none.
    """
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        return Unreadable("it was empty.")
    tagged = [i for i, line in enumerate(lines) if _TAG.match(line)]
    if not tagged:
        if _is_json(text):
            return Unreadable("it was JSON; answer in plain text, with a last line that begins with [EXPLANATION]:.")
        return Unreadable("no line began with [EXPLANATION]:.")
    if any(line.lstrip().startswith("```") for line in lines[tagged[-1] + 1 :]):
        return Unreadable("the line with [EXPLANATION]: was inside a code fence, or one followed it.")
    if any(line.strip() for line in lines[tagged[-1] + 1 :]):
        return Unreadable("text followed the line with [EXPLANATION]:; say all of it on that one line.")
    phrase = " ".join(_TAG.sub("", lines[tagged[-1]]).split())
    if len(phrase) > 1 and phrase[0] == phrase[-1] and phrase[0] in "\"'" and phrase.count(phrase[0]) == 2:
        phrase = phrase[1:-1].strip()
    return _checked(phrase)


def retry_messages(asked: tuple[Message, ...], answer: str, why: Unreadable, prompts: Prompts) -> tuple[Message, ...]:
    """The chat that asks once more: what was asked, what was answered, and why that could not be used."""
    answered = (Message("assistant", answer),) if answer.strip() else ()
    return (*asked, *answered, retry_message(why.reason, prompts))


def retry_message(reason: str, prompts: Prompts) -> Message:
    """The last message of that chat."""
    return prompts[RETRY_PROMPT].fill({"reason": reason})[-1]


def _checked(phrase: str) -> str | Unreadable:
    if not phrase.strip("*_. -"):
        return Unreadable("nothing stood after [EXPLANATION]:.")
    if "```" in phrase:
        return Unreadable("the explanation was a code fence.")
    if _is_json(phrase):
        return Unreadable("the explanation was JSON; write a phrase in plain words.")
    if len(phrase) > MAX_CHARACTERS:
        return Unreadable(f"the explanation had {len(phrase)} characters; {MAX_CHARACTERS} is the most.")
    if _NOTHING.fullmatch(phrase.strip("*_. -")):
        return Unreadable("the explanation said nothing of what the examples have in common.")
    if any(unicodedata.category(c) in {"Cc", "Cs"} or c in _TURNS for c in phrase):
        return Unreadable("the explanation had characters that are no text.")
    return phrase


def _is_json(text: str) -> bool:
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return isinstance(json.loads(bare), dict | list)
    except (ValueError, RecursionError):
        return False
