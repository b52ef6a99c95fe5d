"""What features really lose when a node of an earlier layer is taken out: an edge's attribution, put to the test.

Of a feature its activation times its direction is taken away on its token, of an error node the error; all else of the
vector stays, the SAE's error included, so that nothing but the source changes. Many sources go through the model
together, a row each, beside a row in which nothing is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.engine.encode import encode_sparse
from raylens.engine.feature_reading import BATCH_TOKENS, tokens_a_pass
from raylens.engine.load import LoadedModel
from raylens.engine.token_effects import Steps
from raylens.ids import HookPoint
from raylens.workbench.attribution import Read, pre_activation
from raylens.workbench.spliced_pass import run_through


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """A node that is taken out.

    Attributes:
        hook: Where.
        token: On which token.
        part: ``[d_in]`` float32: what the node is of the vector there.
    """

    hook: HookPoint
    token: int
    part: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """What removals do to features; arrays are float64 ``[removals, reads]``.

    Attributes:
        losses: Pre-activation without the removal less that with it.
        activations: What the SAE gives the feature then, 0 where it no longer fires.
    """

    losses: NDArray[np.float64]
    activations: NDArray[np.float64]


def removal_effects(
    loaded: LoadedModel,
    ids: Sequence[int],
    removals: Sequence[Removal],
    reads: Sequence[Read],
    batch_tokens: int = BATCH_TOKENS,
) -> Steps[Effects]:
    """Take each node out by itself and read features. Stops after each pass.

    Args:
        loaded: The model; each pass holds its lock.
        ids: The text.
        removals: Nodes. One that lies at a later point than a read feature does nothing to it.
        reads: Features.
        batch_tokens: Tokens of a pass.

    Raises:
        InputError: A point is not one tensor that can be replaced.
        OutOfMemoryError: A pass does not fit.
    """
    losses = np.zeros((len(removals), len(reads)))
    activations = np.zeros_like(losses)
    size = max(1, tokens_a_pass(loaded, batch_tokens) // len(ids) - 1)
    points = [*(one.hook for one in removals), *(read.sae.spec.hook for read in reads)]
    for first in range(0, len(removals), size):
        some = removals[first : first + size]
        text = torch.tensor([list(ids)]).expand(len(some) + 1, -1)
        changes = {hook: _taking_out(hook, some) for hook in {one.hook for one in some}}
        found = run_through(loaded, points, text, changes)
        for at, read in enumerate(reads):
            x = found[read.sae.spec.hook][:, read.token]
            with torch.no_grad():
                values = pre_activation(read.sae, x, read.feature).double().cpu().numpy()
            losses[first : first + len(some), at] = values[0] - values[1:]
            activations[first : first + len(some), at] = _activations(read, x[1:])
        yield
    return Effects(losses, activations)


def _taking_out(hook: HookPoint, removals: Sequence[Removal]) -> Callable[[Tensor], Tensor]:
    """A change of ``[1 + removals, tokens, width]``; the first row stays as it is."""
    own = [(row, one) for row, one in enumerate(removals, start=1) if one.hook == hook]

    def change(hidden: Tensor) -> Tensor:
        rows = torch.tensor([row for row, _ in own], device=hidden.device)
        tokens = torch.tensor([one.token for _, one in own], device=hidden.device)
        parts = torch.stack([one.part for _, one in own]).to(hidden.device)
        changed = hidden.clone()
        changed[rows, tokens] = (hidden[rows, tokens].float() - parts).to(hidden)
        return changed

    return change


def _activations(read: Read, x: Tensor) -> NDArray[np.float64]:
    codes = encode_sparse(read.sae, x)
    own = codes.feature == read.feature
    found = np.zeros(len(x))
    found[codes.token[own]] = codes.activation[own]
    return found
