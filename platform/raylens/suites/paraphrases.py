"""Variants by a language model (A2.19): what it is asked, and which of what it answers is used; nothing is sent here.

The model is asked for several wordings of one prompt at once, of a chat for wordings of its last turn. A wording that
:mod:`raylens.suites.wording_faults` finds a fault with is never used; where fewer than were asked for are left, the
model is asked once more, with the faults.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raylens.chat import Message, Reply, Request
from raylens.explain.prompts import Prompts, load_prompts
from raylens.suites.suite import Prompt, Suite, Variant
from raylens.suites.wording_faults import fault_of, is_code

KIND: Final = "paraphrase"
"""Of the variants."""
PROMPT: Final = "paraphrase"
RETRY_PROMPT: Final = "paraphrase-retry"
MAX_REPLY: Final = 200_000
"""Characters of a reply that are read."""

_WORDING: Final = re.compile(r"<rewrite>(.*?)</rewrite>", re.DOTALL)
_FENCE: Final = re.compile(r"\s*```[ \t]*\w*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_BYTES_A_TOKEN: Final = 2
"""Fewer than of any tokenizer on ordinary text, so that no answer is cut off."""
_SPARE_TOKENS: Final = 256

Said = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply holds.

    Attributes:
        variants: Those that can be used, in order, no two alike.
        faults: Why others cannot, in sentences fit to be sent back.
    """

    variants: tuple[Variant, ...]
    faults: tuple[str, ...] = ()

    def shortage(self, wanted: int) -> str:
        """Why there are fewer than ``wanted``; empty where there are as many."""
        if len(self.variants) >= wanted:
            return ""
        return " ".join(self.faults[:wanted]) or f"it held {len(self.variants)} of {wanted} versions."


def paraphrase_prompts(override: Path | None = None) -> Prompts:
    """The files that requests are built from, that of a retry included.

    Raises:
        InputError: A file of ``override`` cannot be used; see :func:`raylens.explain.prompts.load_prompts`.
    """
    return load_prompts("suites", (PROMPT, RETRY_PROMPT), override)


def paraphrase_request(prompt: Prompt, wanted: int, prompts: Prompts) -> Request:
    """What asks for ``wanted`` other wordings of ``prompt``; the same arguments always give the same."""
    text = _varied_text(prompt)
    chat = prompts[PROMPT].fill({"n": str(wanted), "text": text})
    length = len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN
    return Request(chat, max_tokens=_SPARE_TOKENS + wanted * (length + 16), temperature=0.0)


def retry_request(request: Request, answer: str, why: str, wanted: int, prompts: Prompts) -> Request:
    """What asks once more, for ``wanted`` wordings: what was asked, what was answered, and why that was not enough."""
    answered = (Message("assistant", answer),) if answer.strip() else ()
    again = prompts[RETRY_PROMPT].fill({"reason": why, "n": str(wanted)})
    return replace(request, messages=(*request.messages, *answered, *again))


def read_paraphrases(reply: Reply, prompt: Prompt, taken: Collection[Said] = ()) -> Reading:
    """The wordings in a reply that can stand for ``prompt``; never raises.

    Args:
        reply: What the model said; anything around the wordings is passed over.
        prompt: The original with the wordings it has, none of which is used again.
        taken: Others that are not.
    """
    original = _varied_text(prompt)
    code = is_code(prompt, original)
    said = {*taken, *(form.said for form in prompt.forms)}
    variants: list[Variant] = []
    faults = ["it was cut off before its end; be shorter."] if reply.finish_reason == "length" else []
    bodies = _WORDING.findall(reply.text[:MAX_REPLY])
    if not bodies:
        faults.append("nothing stood between <rewrite> and </rewrite>.")
    for number, body in enumerate(bodies, start=1):
        wording = _fitted(body, original)
        variant = _variant(prompt, wording)
        fault = fault_of(wording, original, code=code, continued=prompt.text is not None)
        if not wording.strip():
            fault = "is empty"
        elif variant.said in said:
            fault = "repeats the original or another version"
        if fault is not None:
            faults.append(f"version {number} {fault}.")
            continue
        said.add(variant.said)
        variants.append(variant)
    return Reading(tuple(variants), tuple(faults))


def with_paraphrases(suite: Suite, found: Mapping[str, Sequence[Variant]]) -> Suite:
    """``suite`` with variants more, by ids of prompts; what the suite says already, anywhere, is left out."""
    said = {form.said for prompt in suite.prompts for form in prompt.forms}
    prompts: list[Prompt] = []
    for prompt in suite.prompts:
        new: list[Variant] = []
        for variant in found.get(prompt.id, ()):
            if variant.said not in said:
                said.add(variant.said)
                new.append(variant)
        prompts.append(replace(prompt, variants=(*prompt.variants, *new)))
    return replace(suite, prompts=tuple(prompts))


def paraphrased_yaml(suite: Suite, of: Suite, model: str, prompts: Prompts) -> str:
    """``suite`` as YAML, below comments that say what its paraphrases come from; no result depends on those.

    Args:
        suite: With paraphrases.
        of: Without.
        model: Who was asked.
        prompts: The files that it was asked with.
    """
    files = ", ".join(f"{name} version {prompts[name].version}" for name in (PROMPT, RETRY_PROMPT))
    about = (
        f"Paraphrases by {model}, of suite {of.name}, digest {of.digest}.",
        f"Asked with {files}; prompt hash {prompts.prompt_hash}.",
    )
    # A model's name is whatever was typed, and a comment ends with its line.
    comments = ("".join(c if c.isprintable() else "?" for c in line) for line in about)
    return "".join(f"# {line}\n" for line in comments) + suite.to_yaml()


def _varied_text(prompt: Prompt) -> str:
    """What is said in other words: the text, of a chat its last turn."""
    return prompt.text if prompt.text is not None else (prompt.chat or (Message("user", ""),))[-1].content


def _variant(prompt: Prompt, wording: str) -> Variant:
    if prompt.chat is None:
        return Variant(wording, None, KIND)
    *before, last = prompt.chat
    return Variant(None, (*before, Message(last.role, wording)), KIND)


def _fitted(body: str, original: str) -> str:
    """``body`` without what stands around it, and with the line ends and the outer white space of ``original``.

    So a model goes on from both at the same place: in a new line, after a space, or within a word.
    """
    fenced = None if _FENCE.fullmatch(original) else _FENCE.fullmatch(body)
    lines = (fenced[1] if fenced else body).replace("\r\n", "\n").strip("\n").rstrip()
    if "\r\n" in original:
        lines = lines.replace("\n", "\r\n")
    before = original[: len(original) - len(original.lstrip("\r\n"))]
    return before + lines + original[len(original.rstrip()) :]
