"""Variants by a language model (A2.19): what it is asked, and how its answer is read; nothing is sent here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from raylens.chat import Message
from raylens.explain.prompts import load_prompts

_NAME: Final = "paraphrase"
_ANSWER: Final = re.compile(r"<rewrite>(.*?)</rewrite>", re.DOTALL)
_FENCE: Final = re.compile(r"\s*```[ \t]*\w*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
MAX_ANSWER: Final = 200_000
"""Characters of a reply that are read."""


def paraphrase_prompt(text: str, n: int = 4, prompt_dir: Path | None = None) -> tuple[Message, ...]:
    """The chat that asks for ``n`` other wordings of ``text``.

    Raises:
        InputError: A file of ``prompt_dir`` cannot be used; see :func:`raylens.explain.prompts.load_prompts`.
    """
    return load_prompts("suites", (_NAME,), prompt_dir)[_NAME].fill({"n": str(n), "text": text})


def parse_paraphrases(reply: str, text: str = "", limit: int = 20_000) -> tuple[str, ...]:
    """The wordings in a reply, in order, each once.

    Args:
        reply: What the model said; anything around the wordings is passed over.
        text: The original, which is no wording of its own. New ones end in as many line feeds as it does, so that a
            model continues both from the same place.
        limit: Characters of one; longer ones are left out.

    Returns:
        Empty where the reply holds none.
    """
    found: dict[str, None] = {}
    for match in _ANSWER.finditer(reply[:MAX_ANSWER]):
        fenced = _FENCE.fullmatch(match[1])
        body = (fenced[1] if fenced else match[1]).strip("\n")
        wording = body + text[len(text.rstrip("\n")) :]
        if body.strip() and len(wording) <= limit and body.strip() != text.strip():
            found[wording] = None
    return tuple(found)
