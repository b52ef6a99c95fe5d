"""From a followed text to its strongest causes: every feature and error of every earlier layer weighed, a few kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from raylens.api.provenance import LayerShare, ProvenanceNode
from raylens.engine.token_effects import Steps
from raylens.workbench.ablation_check import Removal
from raylens.workbench.attribution import Read, gradients
from raylens.workbench.decomposition import Decomposition, Weights
from raylens.workbench.followed_text import FollowedText


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """An edge before it is tested.

    Attributes:
        source: The cause.
        removal: What takes it out.
        target: What it leads to, as a node.
        attribution: Of the target's activation.
    """

    source: ProvenanceNode
    removal: Removal
    target: ProvenanceNode
    attribution: float


@dataclass(frozen=True, slots=True, eq=False)
class Causes:
    """What was found.

    Attributes:
        reads: Every feature that an edge leads to, with its node.
        links: Edges.
        shares: What each layer does for the target, the first in the model first.
    """

    reads: Sequence[tuple[Read, ProvenanceNode]]
    links: Sequence[Link]
    shares: Sequence[LayerShare]


def causes(text: FollowedText, top: int, branches: int, steps: int | None) -> Steps[Causes]:
    """Weigh layer by layer from the target back, so that nodes are known before what caused them is asked.

    Stops after each layer.

    Args:
        text: What was read.
        top: Sources of each layer that are kept of the target.
        branches: Likewise of each feature that is such a source.
        steps: Of integrated gradients; None for the gradient at the text itself.

    Raises:
        InputError, OutOfMemoryError: As :func:`raylens.workbench.attribution.gradients`.
    """
    reads: list[tuple[Read, ProvenanceNode]] = [(text.read, text.target)]
    links: list[Link] = []
    shares: list[LayerShare] = []
    for source in text.sources:
        later = [one for one in reads if text.is_before(source, one[0])]
        found = gradients(text.loaded, text.ids, source, [read for read, _ in later], steps)
        for (read, node), gradient in zip(later, found, strict=True):
            weights, is_target = source.weigh(gradient), node is text.target
            own = _strongest(text, source, weights, read, node, top if is_target else branches)
            links += own
            if is_target:
                shares.append(_share(text, source, weights, steps))
                reads += [
                    (Read(source.sae, one.source.feature, one.source.token), one.source)
                    for one in own
                    if one.source.feature is not None
                ]
        yield
    ends = {link.target.key for link in links}
    return Causes([one for one in reads if one[1].key in ends], links, shares[::-1])


def _strongest(
    text: FollowedText, source: Decomposition, weights: Weights, read: Read, node: ProvenanceNode, most: int
) -> list[Link]:
    """The strongest sources of one layer, features and errors together; none that does nothing."""
    upto = read.token + 1  # a causal model: what rounding leaves on later tokens is no cause
    every = torch.cat([weights.features * (source.token < upto), weights.errors[:upto]])
    links: list[Link] = []
    for at in every.abs().topk(min(most, len(every))).indices.tolist():
        attribution = float(every[at])
        if attribution == 0:
            continue
        if at < len(source.token):
            token, activation = int(source.token[at]), float(source.activation[at])
            part = activation * source.directions(torch.tensor([at], device=source.token.device))[0]
            cause = text.node(source.sae, int(source.feature[at]), token, activation)
        else:
            token = at - len(source.token)
            part = source.error[token]
            cause = text.node(source.sae, None, token, float(part.norm()))
        links.append(Link(cause, Removal(source.sae.spec.hook, token, part), node, attribution))
    return links


def _share(text: FollowedText, source: Decomposition, weights: Weights, steps: int | None) -> LayerShare:
    features, errors = (float(part.sum(dtype=torch.float64)) for part in (weights.features, weights.errors))
    # On the way from the baseline the bias and special tokens stay as they are: what they do is part of the rest.
    special, bias = (weights.special, weights.bias) if steps is None else (0.0, 0.0)
    return LayerShare(
        sae=str(source.sae.id),
        layer=source.sae.spec.hook.layer_index,
        features=features,
        errors=errors,
        special=special,
        bias=bias,
        rest=text.target.activation - text.offset - features - errors - special - bias,
        n_sources=len(source.token),
    )
