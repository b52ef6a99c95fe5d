"""Models that exist only behind an API: why there is no SAE for them, and what can be done instead (A0.06).

Reading a feature needs the tensors inside a forward pass, and a provider's API returns text. Models
of the same makers with open weights (``gpt2``, ``openai/gpt-oss-20b``, ``google/gemma-2-2b``) are
not among them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FALLBACK: Final = ("ablation", "counterfactuals")
"""What works with text alone: leave parts of the prompt out, or change them, and compare the answers."""

_PREFIX: Final = r"(?:[a-z0-9_.-]+/)*(?:[a-z]{2,4}\.)?"  # openai/, openrouter/anthropic/, bedrock's us.
_PROVIDERS: Final = (
    ("OpenAI", r"(?:chat)?gpt-?(?:[3-9](?![0-9]*[bm]\b)|4o)[\w.:-]*|chatgpt[\w.:-]*|o[1-9](?:-[\w.:-]+)?"),
    ("OpenAI", r"(?:text-)?(?:davinci|curie|babbage|ada)(?:-[\w.:-]+)?|codex-[\w.:-]+|text-embedding-[\w.:-]+"),
    ("Anthropic", r"(?:anthropic\.)?claude(?:[-.][\w.:@-]+)?"),
    ("Google", r"gemini(?:-[\w.:-]+)?|palm-2[\w.:-]*|(?:text|chat)-bison[\w.:-]*"),
    ("xAI", r"grok-(?:[2-9]|beta|code)[\w.:-]*"),
    ("Amazon", r"(?:amazon\.)?(?:nova|titan)-[\w.:-]+"),
    ("Mistral AI", r"mistral-medium[\w.:-]*"),
)
_PATTERNS: Final = tuple((maker, re.compile(_PREFIX + f"(?:{body})")) for maker, body in _PROVIDERS)
_OPEN: Final = re.compile(r"gpt-?(?:2|oss|neo|j|neox)\b|(?:^|/)gpt2")


@dataclass(frozen=True, slots=True)
class ApiOnly:
    """A model whose weights nobody outside its maker has."""

    name: str
    maker: str

    @property
    def reason(self) -> str:
        return (
            f"{self.name} is served by {self.maker} through an API only: its activations cannot be read, "
            "so no SAE exists for it"
        )

    @property
    def hint(self) -> str:
        return (
            f"fall back on {' and '.join(FALLBACK)} of the prompt, which need only its answers, "
            "or examine an open model: raylens catalog lists them."
        )


def api_only(name: str) -> ApiOnly | None:
    """Who serves ``name``, where it is a model without public weights; else None."""
    text = name.strip().casefold()
    if _OPEN.search(text):
        return None
    return next((ApiOnly(name.strip(), maker) for maker, pattern in _PATTERNS if pattern.fullmatch(text)), None)
