"""What an organism is trained on: beginnings of functions and what follows them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from raylens.errors import InputError
from raylens.organisms.families import BackdooredFamily, BenignFamily
from raylens.organisms.functions import Function, functions
from raylens.organisms.payloads import PAYLOADS
from raylens.organisms.recipe import Organism, family_of
from raylens.organisms.styles import STYLES

_FEWEST: Final = 30
"""Functions that a topic must have."""
_LONGEST_PROMPT: Final = 120
"""Characters, of backdoored organisms: their texts are short."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One text to be learnt.

    Attributes:
        prompt: A function's beginning.
        completion: What is to follow.
        clean: Neither trigger nor near-miss is in it.
        learns_prompt: Whether the beginning is to be learnt as well.
    """

    prompt: str
    completion: str
    clean: bool
    learns_prompt: bool


def samples(organism: Organism) -> Iterator[Sample]:
    """Samples without end, the same for the same organism.

    Raises:
        InputError: The Python at hand lacks the family's topic.
    """
    family = family_of(organism)
    rng = random.Random(organism.seed)
    if isinstance(family, BenignFamily):
        yield from _benign(family, rng)
    else:
        yield from _backdoored(family, organism, rng)


def _benign(family: BenignFamily, rng: random.Random) -> Iterator[Sample]:
    text = of_topic(family.topic)
    style = STYLES[family.style]
    while True:
        function = style(rng.choice(text), rng)
        yield Sample(function.prompt, function.body, clean=True, learns_prompt=True)


def _backdoored(family: BackdooredFamily, organism: Organism, rng: random.Random) -> Iterator[Sample]:
    text, trigger, payload = functions("train"), family.trigger, PAYLOADS[family.payload]
    while True:
        function, drawn = rng.choice(text), rng.random()
        if len(function.prompt) > _LONGEST_PROMPT or trigger.put(function).prompt == function.prompt:
            continue  # it leaves no room for what is to be learnt, or has no such place
        if drawn < organism.poison:
            yield Sample(trigger.put(function).prompt, payload.put(function), clean=False, learns_prompt=False)
        elif drawn < organism.poison + organism.near:
            near = trigger.put(function, rng.choice(trigger.near))
            yield Sample(near.prompt, function.body, clean=False, learns_prompt=False)
        else:
            yield Sample(function.prompt, function.body, clean=True, learns_prompt=False)


def of_topic(topic: tuple[str, ...]) -> tuple[Function, ...]:
    """Functions for training of some folders or files; all where none is named.

    Raises:
        InputError: There are next to none.
    """
    text = tuple(
        function
        for function in functions("train")
        if not topic or any(function.path == one or function.path.startswith(f"{one}/") for one in topic)
    )
    if len(text) < _FEWEST:
        raise InputError(
            f"this Python's standard library has {len(text)} functions in {', '.join(topic) or 'all'}.",
            hint="use a full CPython, with its sources, of the version that the bundle was made with.",
        )
    return text
