"""Patches that may take a behaviour out of a fine-tune, from what an audit found.

================  ==================================================================================================
kind              edits
================  ==================================================================================================
``features``      the first 1, 5 and all of the features that the audit flags are ablated, at the hook of its SAE
``directions``    at each of some layers the first 1 and 2 directions along which the fine-tune differs under the
                  triggers (:mod:`raylens.workbench.contrast`) are projected out
================  ==================================================================================================

Both are tried, because nobody knows beforehand: a backdoor may write along features of its reference's SAE, and may
write along directions of its own, which are in the error that such an SAE leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raylens.api.edits import Edit, PatchSpec
from raylens.api.suggestion import Kind
from raylens.ids import HookPoint
from raylens.workbench.contrast import Contrast

MOST_LAYERS: Final = 12
"""Layers at which directions are looked for."""
DIRECTIONS: Final = (1, 2)
_FEATURES: Final = (1, 5)


@dataclass(frozen=True, slots=True)
class CandidatePatch:
    """One that is tried.

    Attributes:
        name: For people.
        kind: See the module's table.
        spec: Its edits.
    """

    name: str
    kind: Kind
    spec: PatchSpec


def hooks_tried(n_layers: int, most: int = MOST_LAYERS) -> list[HookPoint]:
    """Ends of blocks, evenly over the model, the last one among them.

    Args:
        n_layers: Blocks, at least one.
        most: Hooks, at least one.
    """
    n = min(n_layers, most)
    return [HookPoint("resid_post", (at + 1) * n_layers // n - 1) for at in range(n)]


def of_features(sae: str, features: Sequence[int]) -> list[CandidatePatch]:
    """Ablations of features, the first few and all.

    Args:
        sae: ``release/id``.
        features: Indices, those first that matter most.
    """
    numbers = list(dict.fromkeys(features))
    counts = sorted({n for n in (*_FEATURES, len(numbers)) if 0 < n <= len(numbers)})
    made = []
    for n in counts:
        shown = f"feature {numbers[0]}" if n == 1 else f"{n} features"
        edits = tuple(Edit(feature=f"{sae}/{index}", method="ablate") for index in numbers[:n])
        made.append(CandidatePatch(f"{shown} ablated", "features", PatchSpec(sae=sae, edits=edits)))
    return made


def of_directions(found: Sequence[Contrast], counts: Sequence[int] = DIRECTIONS) -> list[CandidatePatch]:
    """Directions projected out, at one layer each.

    Args:
        found: A layer each.
        counts: How many of its directions.
    """
    made = []
    for one in found:
        for n in counts:
            directions = one.named(n)
            if len(directions) == n:
                edits = tuple(Edit(direction=each.name, method="project_out") for each in directions)
                shown = "a direction" if n == 1 else f"{n} directions"
                spec = PatchSpec(edits=edits, directions=directions)
                made.append(CandidatePatch(f"{shown} at {one.hook} projected out", "directions", spec))
    return made
