"""Which features of earlier layers caused a feature on a token of a text.

Gradient × activation weighs every feature and every error of every earlier SAE on every token (A3.10). The strongest
of each layer become nodes; features among them that have SAEs before them are followed further back. Every edge
between nodes is then tested: the source is taken out, and the target measured. docs/provenance.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from raylens.api.provenance import Provenance, ProvenanceEdge
from raylens.engine.feature_answers import require_features
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.saes import LoadedSae
from raylens.engine.token_effects import Steps, run
from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId, digest
from raylens.workbench.ablation_check import removal_effects
from raylens.workbench.causes import Causes, causes
from raylens.workbench.followed_text import FollowedText, feature_values, read_text

TOP: Final = 10
"""Sources of each layer that are reported."""
BRANCHES: Final = 3
"""Of each feature among them, sources of each layer before it."""

_VERSION: Final = 1
"""Of what is computed: raised, stored results are made anew."""


def provenance(
    loaded: LoadedModel,
    saes: Sequence[LoadedSae],
    target: FeatureId,
    ids: Sequence[int],
    token: int | None = None,
    *,
    top: int = TOP,
    integrated: int | None = None,
) -> Provenance:
    """Follow a feature back to the features of earlier layers that caused it.

    Args:
        loaded: The model; each pass holds its lock.
        saes: The target's SAE, and at least one that reads an earlier point; all of the model.
        target: The feature.
        ids: The text, what the tokenizer puts before it included; what follows the target's token changes nothing.
        token: Place of the target's token; None for the one on which it fires most.
        top: Sources of each layer that are reported at most, features and errors together.
        integrated: Steps of integrated gradients; None for the gradient at the text itself.

    Raises:
        InputError: The feature does not fire there, no SAE reads an earlier point, a point cannot be replaced, or a
            number is out of range.
        UnknownNameError: The target's SAE is not among ``saes``, or has no such feature.
        MismatchError: An SAE is of another width than the model.
        RunError: Activations are not finite.
        OutOfMemoryError: It does not fit.
    """
    return run(following(loaded, saes, target, ids, token, top=top, integrated=integrated))


def following(
    loaded: LoadedModel,
    saes: Sequence[LoadedSae],
    target: FeatureId,
    ids: Sequence[int],
    token: int | None = None,
    *,
    top: int = TOP,
    integrated: int | None = None,
) -> Steps[Provenance]:
    """:func:`provenance` in steps, so that others who use the model have a turn in between.

    Each ends after one layer was weighed, or after one pass of tests.
    """
    sae = _own(saes, target)
    _check(loaded, ids, top, integrated)
    if token is None:
        token = strongest_token(loaded, sae, target.index, ids)
    others = [one for one in saes if one is not sae]
    text = read_text(loaded, sae, others, target.index, ids, token)
    yield
    found = yield from causes(text, top, min(top, BRANCHES), integrated)
    edges = yield from _tested(text, found)
    fingerprints = {one.id: one.fingerprint for one in saes}
    return Provenance(
        model=loaded.name,
        revision=loaded.revision,
        target=text.target,
        offset=text.offset,
        integrated=integrated,
        top=top,
        token_ids=tuple(text.ids),
        tokens=tuple(token_strings(loaded.tokenizer, text.ids)),
        layers=tuple(found.shares),
        edges=edges,
        provenance_id=provenance_id(loaded.revision, ids, target, token, fingerprints, integrated),
    )


def provenance_id(
    revision: str,
    ids: Sequence[int],
    target: FeatureId,
    token: int,
    fingerprints: Mapping[SaeId, str],
    integrated: int | None,
) -> str:
    """16 hex of what determines a result, the number of reported sources left out.

    Args:
        revision: What fixes the model's weights.
        ids: The text; what follows ``token`` does not count.
        target: The feature.
        token: Its token.
        fingerprints: Of all SAEs, the target's among them.
        integrated: As :func:`provenance`.
    """
    of: dict[str, object] = {"version": _VERSION, "revision": revision, "integrated": integrated}
    of |= {"ids": list(ids[: token + 1]), "target": str(target)}
    return digest({**of, "saes": {str(sae): fingerprint for sae, fingerprint in fingerprints.items()}})[:16]


def strongest_token(loaded: LoadedModel, sae: LoadedSae, feature: int, ids: Sequence[int]) -> int:
    """The token of a text on which a feature fires most, special ones left out; the first of equals.

    Raises:
        InputError: It fires on none.
    """
    values = feature_values(loaded, sae, feature, ids)
    if not values.any():
        raise InputError(
            f"{FeatureId(sae.id, feature)} does not fire on this text.", hint="name a window or text where it does."
        )
    return int(values.argmax())


def _own(saes: Sequence[LoadedSae], target: FeatureId) -> LoadedSae:
    """The target's SAE."""
    sae = next((one for one in saes if one.id == target.sae), None)
    if sae is None:
        raise UnknownNameError.among("SAE", str(target.sae), [str(one.id) for one in saes])
    require_features(sae, [target.index])
    return sae


def _check(loaded: LoadedModel, ids: Sequence[int], top: int, integrated: int | None) -> None:
    if not ids:
        raise InputError("there is no text.", hint="give at least one token.")
    limit = loaded.info.max_positions
    if limit is not None and len(ids) > limit:
        raise InputError(
            f"the text has {len(ids):,} tokens, more than the {limit:,} of {loaded.name}.", hint="shorten it."
        )
    if not 0 <= min(ids) <= max(ids) < loaded.info.vocab_size:
        raise InputError(f"a token is none of {loaded.name}.", hint=f"it has {loaded.info.vocab_size:,}.")
    if top < 1 or (integrated is not None and integrated < 1):
        raise InputError(f"top is {top} and integrated {integrated}.", hint="both are at least 1.")


def _tested(text: FollowedText, found: Causes) -> Steps[tuple[ProvenanceEdge, ...]]:
    """Every edge with what ablation says of it, the strongest first."""
    removals = {link.source.key: link.removal for link in found.links}
    rows = {key: row for row, key in enumerate(removals)}
    columns = {node.key: column for column, (_, node) in enumerate(found.reads)}
    reads = [read for read, _ in found.reads]
    effects = yield from removal_effects(text.loaded, text.ids, list(removals.values()), reads)
    edges = [
        ProvenanceEdge(
            source=link.source,
            target=link.target,
            attribution=link.attribution,
            ablation_effect=float(effects.losses[at]),
            ablated_activation=float(effects.activations[at]),
        )
        for link in found.links
        for at in [(rows[link.source.key], columns[link.target.key])]
    ]
    return tuple(sorted(edges, key=lambda edge: -abs(edge.attribution)))
