"""A prompt suite: what reference and candidate are both given, and what is asked of their completions (A2.03).

.. code-block:: yaml

    - id: read-lines                 # unique in the suite
      text: |                        # or chat: a list of role and content, of which the last is the user's
        def read_lines(path):
            \"\"\"Return the lines of a text file.\"\"\"
      tags: [files]                  # from here on all optional
      variants:                      # the same said otherwise: one cluster with the prompt
        - text: |
            def read_lines(name):
                \"\"\"Return the lines of a text file.\"\"\"
          kind: names
      checks:                        # see raylens.suites.checks
        - python_parses
        - no_insecure_call: [shell, eval]
        - {regex: "TODO", absent: true}

The list may also stand under ``prompts``, beside ``name`` and ``description``. The schema is strict: a key that is
not known, a wrong type, an id given twice, or one text under two ids (which would count twice in every statistic)
is refused, with its line, by :mod:`raylens.suites.suite_parsing`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from raylens.chat import Message
from raylens.errors import InputError
from raylens.ids import digest
from raylens.suites.checks import Check
from raylens.suites.suite_writing import write_yaml

ORIGINAL: Final = "original"


@dataclass(frozen=True, slots=True)
class Variant:
    """One wording of a prompt: either ``text`` to be continued or a ``chat`` to be answered.

    Attributes:
        text: None where it is a chat.
        chat: None where it is a text.
        kind: ``original``, a rule of :mod:`raylens.suites.variants`, ``paraphrase``, or a word of the suite's author.
    """

    text: str | None = None
    chat: tuple[Message, ...] | None = None
    kind: str = "variant"

    def __post_init__(self) -> None:
        if (self.text is None) == (self.chat is None):
            raise InputError("a prompt has either text or chat.", hint="give one of the two.")

    @property
    def said(self) -> str | tuple[Message, ...]:
        """The text, or the chat."""
        return self.text if self.text is not None else self.chat or ()

    def to_value(self) -> dict[str, object]:
        """``text`` or ``chat`` as they are written in a suite."""
        if self.text is not None:
            return {"text": self.text}
        return {"chat": [{"role": turn.role, "content": turn.content} for turn in self.chat or ()]}


@dataclass(frozen=True)
class Prompt:
    """One prompt, the unit of an audit's statistics; its variants belong to the same cluster.

    Attributes:
        id: Unique in its suite.
        original: As it stands in the suite.
        variants: Other wordings, no two alike.
        tags: Words by which prompts are grouped.
        checks: What is asked of completions of every wording.
    """

    id: str
    original: Variant
    variants: tuple[Variant, ...] = ()
    tags: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def text(self) -> str | None:
        return self.original.text

    @property
    def chat(self) -> tuple[Message, ...] | None:
        return self.original.chat

    @property
    def forms(self) -> tuple[Variant, ...]:
        """All wordings, the original first."""
        return (self.original, *self.variants)

    def to_value(self) -> dict[str, object]:
        """As it is written in a suite; what is empty is left out."""
        value: dict[str, object] = {"id": self.id, **self.original.to_value()}
        if self.tags:
            value["tags"] = list(self.tags)
        if self.variants:
            value["variants"] = [{**variant.to_value(), "kind": variant.kind} for variant in self.variants]
        if self.checks:
            value["checks"] = [check.to_value() for check in self.checks]
        return value


@dataclass(frozen=True)
class Suite:
    """Prompts in order, under a name that determines nothing."""

    name: str
    prompts: tuple[Prompt, ...]
    description: str = ""

    @cached_property
    def digest(self) -> str:
        """Hash of all that determines results: ids, wordings and checks, in order; not names, descriptions or tags."""
        return digest({"prompts": [_without(prompt.to_value(), "tags") for prompt in self.prompts]})

    @cached_property
    def inputs_digest(self) -> str:
        """Hash of what models are given, checks left out: a calibration of effects holds for it."""
        return digest({"prompts": [_without(prompt.to_value(), "tags", "checks") for prompt in self.prompts]})

    @property
    def n_forms(self) -> int:
        """Prompts with all their variants."""
        return sum(len(prompt.forms) for prompt in self.prompts)

    def without_variants(self) -> Suite:
        """The prompts as they are, in one wording each."""
        return replace(self, prompts=tuple(replace(prompt, variants=()) for prompt in self.prompts))

    def to_value(self) -> dict[str, object]:
        """Name, description and prompts, as JSON or YAML take them."""
        about = {"name": self.name, **({"description": self.description} if self.description else {})}
        return {**about, "prompts": [prompt.to_value() for prompt in self.prompts]}

    def to_yaml(self) -> str:
        """What :func:`raylens.suites.suite_parsing.parse_suite` reads, under this name, as this suite again."""
        value = self.to_value()
        return write_yaml(value if self.description else value["prompts"])


def _without(value: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: item for key, item in value.items() if key not in keys}
