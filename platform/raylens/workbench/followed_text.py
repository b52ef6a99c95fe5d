"""A text read once: the feature that is followed back, and every earlier point as its SAE has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from raylens.api.provenance import ProvenanceNode
from raylens.engine.encode import encode_sparse
from raylens.engine.feature_answers import values_of
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.saes import LoadedSae
from raylens.engine.tap import tap
from raylens.errors import InputError
from raylens.ids import FeatureId, HookPoint
from raylens.workbench.attribution import Read, slope
from raylens.workbench.decomposition import Decomposition, decompose
from raylens.workbench.spliced_pass import run_through

_LISTED: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class FollowedText:
    """What is known of a text before anything is weighed.

    Attributes:
        loaded: The model.
        ids: The text, up to the target's token.
        read: The feature that is followed back.
        target: The same as a node.
        offset: What it reads of zeros.
        sources: Earlier points, the last in the model first.
        place: Of each hook point in the forward pass.
    """

    loaded: LoadedModel
    ids: Sequence[int]
    read: Read
    target: ProvenanceNode
    offset: float
    sources: Sequence[Decomposition]
    place: Mapping[HookPoint, int]

    def is_before(self, source: Decomposition, read: Read) -> bool:
        """Whether a source's point comes before that of a feature."""
        return self.place[source.sae.spec.hook] < self.place[read.sae.spec.hook]

    def node(self, sae: LoadedSae, feature: int | None, token: int, activation: float) -> ProvenanceNode:
        """A feature on a token of this text, or an error for None."""
        return node_of(self.loaded, self.ids, sae, feature, token, activation)


def read_text(
    loaded: LoadedModel, sae: LoadedSae, others: Sequence[LoadedSae], index: int, ids: Sequence[int], token: int
) -> FollowedText:
    """Read a text up to a token, and refuse what cannot be followed back.

    Args:
        loaded: The model.
        sae: The target's.
        others: SAEs that read earlier points.
        index: The target.
        ids: The text.
        token: The target's.

    Raises:
        InputError, MismatchError, RunError, OutOfMemoryError: As :func:`raylens.workbench.provenance.provenance`.
    """
    special, hook = special_tokens(loaded, ids), sae.spec.hook
    if not 0 <= token < len(ids):
        raise InputError(f"the text has no token {token}.", hint=f"it has {len(ids):,}, counted from 0.")
    if token in special:
        raise InputError(f"token {token} stands for no text, so SAEs are not read there.", hint="name a later one.")
    if not others:
        raise InputError(f"there is no SAE before {sae.id}.", hint="name SAEs that read earlier layers.")
    text = ids[: token + 1]
    read = run_through(loaded, [hook, *(one.spec.hook for one in others)], torch.tensor([list(text)]))
    place = {point: at for at, point in enumerate(read)}
    if late := next((one for one in others if place[one.spec.hook] >= place[hook]), None):
        raise InputError(
            f"{late.id} reads {late.spec.hook}, which is not before {hook}.", hint="name SAEs of earlier layers."
        )
    target, x = Read(sae, index, token), read[hook][0, token:]
    activation = float(values_of(encode_sparse(sae, x), [index], 1)[0, 0])
    if activation <= 0:
        raise InputError(
            f"{FeatureId(sae.id, index)} does not fire on token {token} ({_text(loaded, ids[token])!r}).",
            hint=_fires_on(feature_values(loaded, sae, index, ids)),
        )
    order = sorted(others, key=lambda one: (-place[one.spec.hook], str(one.id)))
    return FollowedText(
        loaded=loaded,
        ids=text,
        read=target,
        target=node_of(loaded, ids, sae, index, token, activation),
        offset=activation - float((slope(target, x) * x.float()).sum(dtype=torch.float64)),
        sources=[decompose(one, read[one.spec.hook][0], [at for at in special if at < len(text)]) for one in order],
        place=place,
    )


def feature_values(loaded: LoadedModel, sae: LoadedSae, feature: int, ids: Sequence[int]) -> NDArray[np.float32]:
    """A feature's activation on each token ``[tokens]``; 0 on those that stand for no text."""
    hidden = tap(loaded, [sae.spec.hook], torch.tensor([list(ids)]))[sae.spec.hook][0]
    values = values_of(encode_sparse(sae, hidden), [feature], len(ids))[0]
    values[special_tokens(loaded, ids)] = 0
    return values


def special_tokens(loaded: LoadedModel, ids: Sequence[int]) -> list[int]:
    """Places of tokens that stand for no text."""
    return [at for at, token in enumerate(ids) if token in loaded.special_ids]


def node_of(
    loaded: LoadedModel, ids: Sequence[int], sae: LoadedSae, feature: int | None, token: int, activation: float
) -> ProvenanceNode:
    """A feature on a token, or an error for None."""
    return ProvenanceNode(
        sae=str(sae.id),
        layer=sae.spec.hook.layer_index,
        feature=feature,
        token=token,
        text=_text(loaded, ids[token]),
        activation=activation,
    )


def _text(loaded: LoadedModel, token: int) -> str:
    return token_strings(loaded.tokenizer, [token])[0]


def _fires_on(values: NDArray[np.float32]) -> str:
    places = np.flatnonzero(values).tolist()
    if not places:
        return "it fires on no token of this text."
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return f"it fires on {', '.join(map(str, places[:_LISTED]))}{more}."
