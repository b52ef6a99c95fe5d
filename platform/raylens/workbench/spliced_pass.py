"""A forward pass in which vectors are read at some points, changed on their way, and kept for gradients.

The pass ends after the last point. What the model computes from is its own tensors: where nothing is changed, its
numbers are those of a pass without hooks, bit for bit, with gradients as without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from interp_engine.hooks import HookManager
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.points import Site, resolve
from raylens.errors import InputError
from raylens.ids import HookPoint

Change = Callable[[Tensor], Tensor]
"""Of ``[rows, tokens, width]``, to be left as it is: what goes on in its place."""


class _AllReadError(Exception):
    """Raised inside the forward once every point has been read."""


def run_through(
    loaded: LoadedModel,
    points: Sequence[HookPoint],
    ids: Tensor,
    changes: Mapping[HookPoint, Change] | None = None,
    *,
    gradients: bool = False,
) -> dict[HookPoint, Tensor]:
    """One pass over rows of equal length.

    Args:
        loaded: The model; the call holds its lock.
        points: Where to read.
        ids: ``[rows, tokens]`` int64.
        changes: What is done at some of the points.
        gradients: Keep the graph. The point that comes first in the model is its one leaf; no parameter is in it that
            does not ask for gradients itself.

    Returns:
        Point → ``[rows, tokens, width]`` in the model's dtype, after the change; in the order of the forward pass.

    Raises:
        UnknownNameError: The model has no such point.
        InputError: A point is not one tensor that can be replaced, or was not computed.
        OutOfMemoryError: The rows do not fit.
    """
    sites = [_replaceable(loaded, point) for point in dict.fromkeys(points)]
    found: dict[HookPoint, Tensor] = {}

    def keep(point: HookPoint, handed: Tensor) -> Tensor:
        hidden = handed.reshape(*ids.shape, -1)  # some modules lay the rows end to end
        change = (changes or {}).get(point)
        hidden = hidden if change is None else change(hidden)
        # Blocks may change in place what they are handed, so what is kept and what goes on are two.
        kept = hidden.clone() if found or not gradients else hidden.detach().clone().requires_grad_()
        found[point] = kept
        if len(found) == len(sites):
            raise _AllReadError
        return kept.clone().view(handed.shape)

    with (
        loaded.lock,
        HookManager() as hooks,
        torch.set_grad_enabled(gradients),
        memory_advice("following features back", loaded.device),
    ):
        for site in sites:
            hooks.write(site.module, partial(keep, site.point), point=site.side)
        try:
            loaded.model(ids.to(loaded.device), use_cache=False)
        except _AllReadError:
            return found
    silent = next(site.point for site in sites if site.point not in found)
    raise InputError(
        f"{silent} was not computed in a forward pass of {loaded.name}.",
        hint="its module does not run by itself here; name SAEs that read the residual stream.",
    )


def _replaceable(loaded: LoadedModel, point: HookPoint) -> Site:
    site = resolve(loaded, point)
    if not site.plain or site.output:
        raise InputError(
            f"{point} of {loaded.name} can be read but not replaced.",
            hint="name SAEs that read the residual stream, or what a whole module gives.",
        )
    return site
