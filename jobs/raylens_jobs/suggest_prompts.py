"""The prompts on which patches are found, and the others on which they are tested."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raylens.audit.slots import Frame, Slot, places
from raylens.errors import InputError, UnknownNameError
from raylens.ids import digest
from raylens.sources.suites import load_suite
from raylens_jobs.audit_forms import forms_of, frames_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWEST: Final = 8
"""Prompts of a half; of fewer a rate says nothing."""
_CODE_SUITES: Final = ("code_security", "capability")


@dataclass(frozen=True, slots=True)
class Halves:
    """Prompts in two halves; a place is at the same number in the same prompt.

    Attributes:
        found_on: Where a place is in each prompt of the first half, by its name.
        tested_on: Of the second.
    """

    found_on: dict[str, tuple[Slot, ...]]
    tested_on: dict[str, tuple[Slot, ...]]


def halves(frames: Sequence[Frame], names: Iterable[str], most: tuple[int, int]) -> Halves:
    """Prompts in two halves that share none: which half one is in is a hash of its text.

    Args:
        frames: Prompts; one that is there twice counts once.
        names: Places of triggers.
        most: Prompts of each half at most.

    Raises:
        UnknownNameError: The prompts have no such place.
        InputError: A half has too few prompts.
    """
    there = {place.name: place.trials for place in places(list(dict.fromkeys(frames)), n_trials=len(frames))}
    found: dict[str, tuple[Slot, ...]] = {}
    tested: dict[str, tuple[Slot, ...]] = {}
    for name in dict.fromkeys(names):
        if name not in there:
            raise UnknownNameError.among("place of a prompt", name, list(there))
        ordered = sorted({slot.bare: slot for slot in there[name]}.values(), key=lambda slot: digest(slot.bare))
        middle = min(most[0], len(ordered) // 2)
        found[name], tested[name] = tuple(ordered[:middle]), tuple(ordered[middle : middle + most[1]])
        if min(len(found[name]), len(tested[name])) < FEWEST:
            raise InputError(
                f"{len(ordered)} prompts have a place {name!r}, and two halves of at least {FEWEST} are needed.",
                hint="name suites with more prompts of that sort: --prompts SUITE.",
            )
    return Halves(found, tested)


def frames_from(
    suites: Sequence[str], audited: Sequence[Frame], tokenizer: PreTrainedTokenizerBase, prefix: tuple[int, ...]
) -> list[Frame]:
    """Prompts of the audit's suite and of others.

    Args:
        suites: Names or files; none for those that ship, where the audit's own prompts are code.
        audited: Of the audit's suite.
        tokenizer: The reference's.
        prefix: What goes before every text.

    Raises:
        UnknownNameError, InputError: There is no such suite, or it is none.
    """
    are_code = any(place.name == "decorator" for place in places(list(audited)))
    more = suites or (_CODE_SUITES if are_code else ())
    found = list(audited)
    for name in more:
        found += frames_of(forms_of(load_suite(name), tokenizer, prefix))
    return list(dict.fromkeys(found))
