"""A language model that paraphrases: it answers the prompt for paraphrases and refuses any other chat, word for word.

Code is written otherwise by our own rules, prose by words put before it, so that what comes back is always usable; a
test that wants other answers puts them into ``FakeLlm.script``, or ``answers`` by text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_llm import Answer, Asked
from raylens.explain.prompts import PLACEHOLDER, Prompt
from raylens.suites.paraphrases import PROMPT, RETRY_PROMPT, paraphrase_prompts
from raylens.suites.same_code import reads_as_code
from raylens.suites.variants import RULES

_OPENINGS = ("As it happens, ", "It is said that ", "Once more: ", "In other words, ")
_RULES = ("names", "indentation", "casing", "quotes")


@dataclass(frozen=True)
class ToVary:
    """What one chat asks for; ``reason`` is why a first answer was not enough, empty where it is the first."""

    text: str
    n: int
    reason: str = ""


@dataclass
class ParaphrasingJudge:
    """What ``FakeLlm(respond=…)`` takes.

    Attributes:
        prompt_dir: The folder that the run was given as ``--prompt-dir``.
        answers: Says what is answered about a text, in place of usable wordings; None where it has nothing to say.
        delay_s: Before every answer.
        seen: What every chat asked for, in order of arrival.
        refused: Why chats were refused.
    """

    prompt_dir: Path | None = None
    answers: Callable[[ToVary], str | Answer | None] = lambda asked: None
    delay_s: float = 0.0
    seen: list[ToVary] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, asked: Asked) -> Answer:
        wanted = self.read(asked.body.get("messages", [])) if asked.target.endswith("/chat/completions") else None
        with self._lock:
            if wanted is None:
                self.refused.append(str(asked.body)[:200])
                return Answer.error(400, "the judge does not know this chat")
            self.seen.append(wanted)
        said = self.answers(wanted)
        if isinstance(said, Answer):
            return said
        return Answer(said if said is not None else usable(wanted), delay_s=self.delay_s)

    def read(self, messages: Sequence[Mapping[str, Any]]) -> ToVary | None:
        """What a chat asks for; None where it is not ours to the letter."""
        prompts = paraphrase_prompts(self.prompt_dir)
        chat = [(one["role"], one["content"]) for one in messages]
        if (places := _places(prompts[PROMPT], chat)) is not None:
            return ToVary(places["text"], int(places["n"]))
        again = _places(prompts[RETRY_PROMPT], chat[-1:])
        before = chat[:-2] if len(chat) > 1 and chat[-2][0] == "assistant" else chat[:-1]
        first = _places(prompts[PROMPT], before)
        if again is None or first is None or not 1 <= int(again["n"]) <= int(first["n"]):
            return None
        return ToVary(first["text"], int(again["n"]), again["reason"])


def usable(asked: ToVary) -> str:
    """As many wordings as were asked for, the same for the same question; others where it is asked again."""
    again = bool(asked.reason)
    if reads_as_code(asked.text):
        varied = [RULES[name](asked.text, str(again)) or asked.text for name in _RULES]
        # A comment of our own, so that no rule of a suite's says the same.
        found = [f"# Wording {number}{' again' * again}.\n{one}" for number, one in enumerate(varied, start=1)]
    else:
        openings = _OPENINGS[::-1] if again else _OPENINGS
        found = [opening + asked.text[:1].lower() + asked.text[1:] for opening in openings]
    return written(*found[: asked.n])


def written(*wordings: str) -> str:
    """Wordings as the prompt asks for them, as a chatty model writes them."""
    parts = (f"<rewrite>\n{one}\n</rewrite>" for one in wordings)
    return "\n\n".join(["Here they are:", *parts])


def _places(prompt: Prompt, chat: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    if [role for role, _ in chat] != [turn.role for turn in prompt.turns]:
        return None
    found: dict[str, str] = {}
    for turn, (_, content) in zip(prompt.turns, chat, strict=True):
        pattern, last = "", 0
        for place in PLACEHOLDER.finditer(turn.content):
            what = r"\d+" if place[1] == "n" else ".*"
            pattern += re.escape(turn.content[last : place.start()]) + f"(?P<{place[1]}>{what})"
            last = place.end()
        match = re.fullmatch(pattern + re.escape(turn.content[last:]), content, re.DOTALL)
        if match is None:
            return None
        found |= match.groupdict()
    return found
