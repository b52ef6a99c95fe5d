"""How the weights of a candidate differ from its reference's, one at a time.

Of a merged adapter only the matrices that it changes come up; of a checkpoint whatever training moved. An adapter may
give a module a bias that its reference lacks, which counts as zeros there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.errors import InputError, MismatchError


@dataclass(frozen=True, slots=True, eq=False)
class WeightDifference:
    """One weight that differs.

    Attributes:
        name: Of the parameter, as in the model's files.
        delta: Candidate − reference, float32, in the parameter's shape and on the reference's device.
        norm: Frobenius norm of ``delta``.
        relative: That in Frobenius norms of the reference's weight; infinite where that is 0.
    """

    name: str
    delta: Tensor
    norm: float
    relative: float


def weight_differences(reference: LoadedModel, candidate: LoadedModel) -> Iterator[WeightDifference]:
    """Every weight in which the two differ, in the model's order; tied weights come once.

    Raises:
        MismatchError: The two have other weights, or weights of other shapes.
        InputError: Weights are stored in fewer bits, where a difference says nothing; or the difference is NaN.
    """
    ours = dict(reference.model.named_parameters(remove_duplicate=False))
    theirs = dict(candidate.model.named_parameters(remove_duplicate=False))
    new = [name for name in theirs if name not in ours and name.endswith(".bias")]
    if odd := sorted((ours.keys() ^ theirs.keys()) - set(new)):
        raise MismatchError(
            f"only one of {reference.name} and {candidate.name} has {odd[0]}.",
            hint="compare a candidate with the model that it was made from.",
        )
    ours |= {name: torch.zeros_like(theirs[name]) for name in new}
    seen: set[tuple[int, int]] = set()
    for name, ours_one in ours.items():
        other = theirs[name]
        pair = (id(ours_one), id(other))
        if pair in seen:
            continue
        seen.add(pair)
        if ours_one.shape != other.shape:
            raise MismatchError(
                f"{name} is {list(ours_one.shape)} in {reference.name} and {list(other.shape)} in {candidate.name}.",
                hint="compare a candidate with the model that it was made from.",
            )
        with torch.inference_mode():
            found = _difference(name, ours_one, other.to(ours_one.device))
        if found is not None:
            yield found


def _difference(name: str, reference: Tensor, candidate: Tensor) -> WeightDifference | None:
    if not reference.is_floating_point() or not candidate.is_floating_point():
        raise InputError(
            f"{name} is stored quantized, so that a difference of weights says nothing.",
            hint="load both models without quantization.",
        )
    if torch.equal(reference, candidate):
        return None
    delta = candidate.float() - reference.float()
    norm, size = float(delta.norm()), float(reference.float().norm())
    if not norm < float("inf"):
        raise InputError(f"the weights differ by NaN or infinite values in {name}.", hint="train the candidate again.")
    return WeightDifference(name, delta, norm, norm / size if size else float("inf"))
