"""Chats read back into what they show: which of our prompts it is, and with what its places were filled.

Recognition is by the prompt files themselves: every message has to be the file's text, word for word, around what was
filled in. So a chat that was altered on its way is none of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from raylens.explain.explainers import EXPLAINERS
from raylens.explain.prompts import PLACEHOLDER, Prompt, load_prompts
from raylens.explain.reply import RETRY_PROMPT
from raylens.score.questions import score_prompts

SCORERS = ("detection", "fuzz", "simulation", "intruder", "concept")
"""Prompts of scorers that ask a chat model; recall asks with that of detection."""
Span = tuple[int, int]

_ON_ONE_LINE = ("explanation", "count", "open", "close", "text", "rate", "promoted")
_LINE = re.compile(r'(\d+)\. (".*")')
_EXAMPLE = re.compile(r"Example (\d+): (.*)")
_ACTIVATIONS = "Activations: "
_PAIR = re.compile(r'\("(.*?)" : (\d+)\)(?:, (?=\(")|$)')


class UnknownChatError(Exception):
    """A chat that is none of ours, or does not hold together."""


@dataclass(frozen=True)
class Example:
    """One example of an explainer's prompt.

    Attributes:
        line: As it stands there, tokens marked.
        pairs: Its strongest tokens with their levels; none of a silent one.
    """

    line: str
    pairs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Shown:
    """What one chat shows.

    Attributes:
        prompt: Of :data:`SCORERS`, or the file of an explainer's prompt, ``explain-default`` say.
        explanation: Empty where none is shown (intruder, explainers).
        texts: Of the last turn, as the corpus has them: marks of fuzz are taken out.
        marks: Of fuzz: for each text, which characters of it were marked.
        tokens: Of simulation.
        examples: Of an explainer: active ones.
        negatives: Likewise: silent ones.
        is_retry: An explainer asks a second time.
        reason: What it says was wrong with the first answer.
    """

    prompt: str
    explanation: str = ""
    texts: tuple[str, ...] = ()
    marks: tuple[tuple[Span, ...], ...] = ()
    tokens: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    negatives: tuple[Example, ...] = ()
    is_retry: bool = False
    reason: str = ""

    @property
    def is_explainer(self) -> bool:
        return self.prompt not in SCORERS


class Reader:
    """Reads chats.

    Args:
        override: The folder that was given as ``--prompt-dir``; its files are recognised in place of the packaged.
    """

    def __init__(self, override: Path | None = None) -> None:
        names = sorted({explainer.prompt for explainer in EXPLAINERS.values()})
        explain = load_prompts("explain", (*names, RETRY_PROMPT), override)
        score = score_prompts(override)
        self._retry = explain[RETRY_PROMPT]
        self._prompts = [*(score[name] for name in SCORERS), *(explain[name] for name in names)]

    def read(self, messages: Sequence[Mapping[str, Any]]) -> Shown:
        """What the chat shows.

        Raises:
            UnknownChatError: It is none of our prompts, or says that it shows more or fewer texts than it does.
        """
        chat = [(str(one["role"]), str(one["content"])) for one in messages]
        for prompt in self._prompts:
            if (filled := _filled(prompt, chat)) is not None:
                return _shown(prompt.name, filled)
        # What is asked again is the whole first chat, its answer unless that was empty, and why it was no use.
        retry = _filled(self._retry, chat[-1:])
        if retry is not None and len(chat) > 2:
            first = self.read(messages[:-2] if chat[-2][0] == "assistant" else messages[:-1])
            if first.is_explainer and not first.is_retry:
                return Shown(
                    first.prompt,
                    examples=first.examples,
                    negatives=first.negatives,
                    is_retry=True,
                    reason=retry["reason"],
                )
        raise UnknownChatError(f"no prompt of ours: {chat[-1][1][:80]!r}" if chat else "no messages")


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    """Matches ``text`` with anything in its places, the same in equal ones."""
    parts: list[str] = []
    last, seen = 0, set[str]()
    for found in PLACEHOLDER.finditer(text):
        name = found.group(1)
        filled = "[^\n]*?" if name in _ON_ONE_LINE else ".*?"
        parts += [re.escape(text[last : found.start()]), f"(?P={name})" if name in seen else f"(?P<{name}>{filled})"]
        last = found.end()
        seen.add(name)
    return re.compile("".join([*parts, re.escape(text[last:])]), re.DOTALL)


def _filled(prompt: Prompt, chat: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    if [role for role, _ in chat] != [turn.role for turn in prompt.turns]:
        return None
    filled: dict[str, str] = {}
    for turn, (_, content) in zip(prompt.turns, chat, strict=True):
        found = _pattern(turn.content).fullmatch(content)
        if found is None or any(filled.get(name, value) != value for name, value in found.groupdict().items()):
            return None
        filled |= found.groupdict()
    return filled


def _shown(name: str, filled: Mapping[str, str]) -> Shown:
    if name not in SCORERS:
        return Shown(
            name, examples=_examples(filled["examples"], 1), negatives=_examples(filled.get("negatives", ""), None)
        )
    if name == "simulation":
        text = _text(filled["text"])
        tokens = _numbered(filled["tokens"], filled["count"])
        if "".join(tokens) != text:
            raise UnknownChatError("the tokens of a simulation are not its text")
        return Shown(name, filled["explanation"], (text,), tokens=tokens)
    if name == "concept":  # which is about the explanation itself
        return Shown(name, filled["explanation"], (filled["explanation"],))
    texts = _numbered(filled["texts"], filled["count"])
    if name != "fuzz":
        return Shown(name, filled.get("explanation", ""), texts)
    plain, marks = zip(*(_unmarked(text, filled["open"], filled["close"]) for text in texts), strict=True)
    return Shown(name, filled["explanation"], plain, marks)


def _numbered(lines: str, count: str) -> tuple[str, ...]:
    found = [_LINE.fullmatch(line) for line in lines.split("\n")]
    texts = [_text(one[2]) for one in found if one is not None]
    numbers = [one[1] for one in found if one is not None]
    if numbers != [str(i) for i in range(1, len(found) + 1)] or count != str(len(found)):
        raise UnknownChatError(f"not texts 1 to {count}: {lines[:80]!r}")
    return tuple(texts)


def _text(literal: str) -> str:
    try:
        text = json.loads(literal)
    except ValueError as error:
        raise UnknownChatError(f"no JSON string: {literal[:80]!r}") from error
    if not isinstance(text, str):
        raise UnknownChatError(f"no JSON string: {literal[:80]!r}")
    return text


def _unmarked(text: str, left: str, right: str) -> tuple[str, tuple[Span, ...]]:
    """The text without marks, and what they were around."""
    plain, spans, rest = "", [], text
    while left in rest:
        before, _, rest = rest.partition(left)
        marked, closing, rest = rest.partition(right)
        if not closing:
            raise UnknownChatError(f"a mark is not closed: {text[:80]!r}")
        plain += before
        spans.append((len(plain), len(plain) + len(marked)))
        plain += marked
    return plain + rest, tuple(spans)


def _examples(block: str, first: int | None) -> tuple[Example, ...]:
    """Examples of a prompt, numbered on from ``first`` (None: from any)."""
    lines, found = block.split("\n") if block else [], list[Example]()
    for line in lines:
        if line.startswith(_ACTIVATIONS) and found:
            pairs = tuple((text, int(level)) for text, level in _PAIR.findall(line.removeprefix(_ACTIVATIONS)))
            found[-1] = Example(found[-1].line, pairs)
            continue
        example = _EXAMPLE.fullmatch(line)
        first = int(example[1]) if example is not None and first is None else first
        if example is None or first is None or int(example[1]) != first + len(found):
            raise UnknownChatError(f"not an example: {line[:80]!r}")
        found.append(Example(example[2]))
    return tuple(found)
