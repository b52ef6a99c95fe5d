"""Variants of prompts by rules (A2.19): the same program written otherwise, to see which findings stand.

==================  ==========================================================================================
rule                what it changes
==================  ==========================================================================================
``indentation``     the width of indentation, or tabs
``blank-line``      one more empty line
``line-endings``    carriage returns with line feeds to line feeds
``add-comment``     a comment that says nothing in particular
``drop-comments``   comments left out
``names``           another name for a parameter or a function
``import-order``    neighbouring import lines
``keyword-order``   keyword arguments of a call
``casing``          letter case of comments and docstrings
``quotes``          single and double quotes
==================  ==========================================================================================

A rule gives text, or None where it does not apply; prompts that end in the middle of a function are changed as far
as they go. What it gives is the same program: trees are compared, names, order and the case of docstrings aside.
Of a chat, the last turn's first fenced block of Python is what changes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from raylens.chat import Message
from raylens.errors import UnknownNameError
from raylens.suites.suite import Prompt, Suite, Variant
from raylens.suites.variant_layout import (
    add_blank_line,
    add_comment,
    change_case,
    change_indentation,
    change_quotes,
    drop_comments,
    unix_line_endings,
)
from raylens.suites.variant_naming import rename, reorder_imports, reorder_keywords

_FENCED: Final = re.compile(
    r"(^[ \t]*```[ \t]*(?:python|py|python3)?[ \t]*\n)(.*?)(^[ \t]*```)", re.DOTALL | re.MULTILINE
)
_ROUNDS: Final = 3
"""How often each rule is tried, each time with another seed, before fewer variants are taken."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to write a prompt otherwise; ``change`` is a pure function of the text and the generator."""

    name: str
    change: Callable[[str, random.Random], str | None]

    def __call__(self, text: str, seed: int | str = 0) -> str | None:
        """``text`` written otherwise, the same for the same seed; None where the rule does not apply."""
        # Seeding with text hashes it by SHA-512: the same on every machine and in every version.
        changed = self.change(text, random.Random(f"{seed}/{self.name}"))
        return changed if changed and changed.strip() and changed != text else None

    def vary(self, form: Variant, seed: int | str = 0) -> Variant | None:
        """A wording of a prompt, written otherwise; its kind is the rule's name."""
        if form.text is not None:
            text = self(form.text, seed)
            return Variant(text, None, self.name) if text is not None else None
        *before, last = form.chat or (Message("user", ""),)
        block = _FENCED.search(last.content)
        code = self(block[2], seed) if block else None
        if block is None or code is None:
            return None
        content = last.content[: block.start(2)] + code + last.content[block.end(2) :]
        return Variant(None, (*before, Message(last.role, content)), self.name)


RULES: Final[Mapping[str, Rule]] = {
    name: Rule(name, change)
    for name, change in {
        "indentation": change_indentation,
        "blank-line": add_blank_line,
        "line-endings": unix_line_endings,
        "add-comment": add_comment,
        "drop-comments": drop_comments,
        "names": rename,
        "import-order": reorder_imports,
        "keyword-order": reorder_keywords,
        "casing": change_case,
        "quotes": change_quotes,
    }.items()
}


def rules_named(names: Iterable[str]) -> tuple[Rule, ...]:
    """Rules by name.

    Raises:
        UnknownNameError: There is none of that name.
    """
    found = []
    for name in names:
        if name not in RULES:
            raise UnknownNameError.among("rule", name, RULES)
        found.append(RULES[name])
    return tuple(found)


def with_variants(
    suite: Suite, rules: Iterable[Rule] = tuple(RULES.values()), per_prompt: int = 5, seed: int = 0
) -> Suite:
    """``suite`` with up to ``per_prompt`` variants more for each prompt, by different rules as far as they reach.

    Which rules a prompt gets depends on the seed and its id alone, so that other prompts may come and go. A wording
    that the suite has already is not added.
    """
    chosen = tuple(rules)
    said = {form.said for prompt in suite.prompts for form in prompt.forms}
    prompts = []
    for prompt in suite.prompts:
        made = _variants_of(prompt, chosen, per_prompt, seed, said)
        prompts.append(replace(prompt, variants=prompt.variants + made))
    return replace(suite, prompts=tuple(prompts))


def _variants_of(
    prompt: Prompt, rules: tuple[Rule, ...], wanted: int, seed: int, said: set[str | tuple[Message, ...]]
) -> tuple[Variant, ...]:
    made: list[Variant] = []
    order = list(rules)
    random.Random(f"{seed}/{prompt.id}").shuffle(order)
    for turn in range(_ROUNDS):
        for rule in order:
            if len(made) == wanted:
                return tuple(made)
            variant = rule.vary(prompt.original, f"{seed}/{prompt.id}/{turn}")
            if variant is not None and variant.said not in said:
                said.add(variant.said)
                made.append(variant)
    return tuple(made)
