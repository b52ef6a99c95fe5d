"""One name a model: hub ids for what SAE directories, TransformerLens and Neuronpedia call them.

A base model and its instruction-tuned sibling are two models. :data:`FAMILIES` says which models
share a shape and an ancestor, so that the SAEs of one can be *shown* for another, marked as trained
on another model (A0.04), and never taken for its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Final

from raylens.errors import InputError

FAMILIES: Final[tuple[tuple[str, ...], ...]] = (
    (
        "meta-llama/Meta-Llama-3-8B",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ),
    (
        "meta-llama/Meta-Llama-3-70B",
        "meta-llama/Meta-Llama-3-70B-Instruct",
        "meta-llama/Llama-3.1-70B",
        "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    ),
    ("google/gemma-2b", "google/gemma-2b-it"),
    ("google/gemma-2-2b", "google/gemma-2-2b-it"),
    ("google/gemma-2-9b", "google/gemma-2-9b-it"),
    ("google/gemma-2-27b", "google/gemma-2-27b-it"),
    ("google/gemma-3-270m", "google/gemma-3-270m-it"),
    ("google/gemma-3-1b-pt", "google/gemma-3-1b-it"),
    ("google/gemma-3-4b-pt", "google/gemma-3-4b-it"),
    ("google/gemma-3-12b-pt", "google/gemma-3-12b-it"),
    ("google/gemma-3-27b-pt", "google/gemma-3-27b-it"),
    ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2"),
    ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m-deduped"),
    ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    ("Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B"),
    ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B"),
    ("Qwen/Qwen3-4B-Base", "Qwen/Qwen3-4B"),
    ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"),
    ("Qwen/Qwen3-14B-Base", "Qwen/Qwen3-14B"),
    ("Qwen/Qwen3-30B-A3B-Base", "Qwen/Qwen3-30B-A3B"),
    ("Qwen/Qwen3.5-2B-Base", "Qwen/Qwen3.5-2B"),
    ("Qwen/Qwen3.5-9B-Base", "Qwen/Qwen3.5-9B"),
    ("Qwen/Qwen3.5-35B-A3B-Base", "Qwen/Qwen3.5-35B-A3B"),
)
"""Models of one shape and one ancestor each."""

ALONE: Final = ("raylens/pico", "openai-community/gpt2", "openai/gpt-oss-20b", "Qwen/Qwen3.5-27B")
"""Models with SAEs and no sibling listed."""

_OTHER_NAMES: Final = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    "pico": "raylens/pico",
    # Names before Meta renamed the repositories, and TransformerLens's.
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-3-8B-Instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-8b-it": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-3.1-8b-it": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.3-70b-it": "meta-llama/Llama-3.3-70B-Instruct",
    # Neuronpedia's.
    "llama3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama3-8b-it": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama3.1-8b-it": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.3-70b-it": "meta-llama/Llama-3.3-70B-Instruct",
    "qwen2.5-7b-it": "Qwen/Qwen2.5-7B-Instruct",
    "gemma-3-270m-pt": "google/gemma-3-270m",
    "gemma-3-1b": "google/gemma-3-1b-pt",
    "gemma-3-4b": "google/gemma-3-4b-pt",
    "gemma-3-12b": "google/gemma-3-12b-pt",
    "gemma-3-27b": "google/gemma-3-27b-pt",
}
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def is_folder(name: str) -> bool:
    """Whether a model reference is written as a folder: absolute, from home, or from ``.``."""
    return name.startswith(("/", "~", ".", "\\")) or PurePath(name).is_absolute() or not _HUB_ID.fullmatch(name)


class Aliases:
    """All names of all known models; immutable.

    Args:
        extra: The user's own, alias → model. They come before the built-in ones, and may name a folder:
            that is how a local copy of a hub model is declared to be that model.
        models: Further canonical names, for example those the user's entries bring.

    Raises:
        InputError: ``extra`` gives one alias two models.
    """

    def __init__(self, extra: Mapping[str, str] | None = None, models: Iterable[str] = ()) -> None:
        canonical = [name for family in FAMILIES for name in family] + [*ALONE, *models]
        table = {name.casefold(): name for name in canonical}
        last: dict[str, set[str]] = {}
        for name in canonical:
            last.setdefault(name.rpartition("/")[2].casefold(), set()).add(name)
        for short, names in last.items():
            if len(names) == 1:
                table.setdefault(short, next(iter(names)))
        table |= {alias.casefold(): name for alias, name in _OTHER_NAMES.items()}
        given: dict[str, str] = {}
        for alias, name in (extra or {}).items():
            key = _key(alias)
            target = table.get(_key(name), name)
            if given.setdefault(key, target) != target:
                raise InputError(f"alias {alias!r} names two models.", hint="keep one of them.")
        self._table = table | given

    def canonical(self, name: str) -> str:
        """The one name of a model; what is not known comes back as it was written."""
        return self._table.get(_key(name), name.strip())

    def knows(self, name: str) -> bool:
        """Whether ``name`` is a known model or an alias of one."""
        return _key(name) in self._table

    def of(self, model: str) -> tuple[str, ...]:
        """Every other name of ``model``, sorted, in lower case."""
        canonical = self.canonical(model)
        return tuple(sorted(a for a, name in self._table.items() if name == canonical and a != canonical.casefold()))

    def names(self) -> frozenset[str]:
        """Every canonical name and alias, for close matches."""
        return frozenset(self._table) | frozenset(self._table.values())

    def family(self, model: str) -> tuple[str, ...]:
        """The other models of its shape and ancestor."""
        canonical = self.canonical(model)
        return next((tuple(m for m in family if m != canonical) for family in FAMILIES if canonical in family), ())


def _key(name: str) -> str:
    name = name.strip()
    if is_folder(name):
        return str(PurePath(name))  # drops a trailing slash; folders keep their case
    return name.casefold()
