"""Whether a patch fits a session: which of its SAEs a feature is of, and whether a direction is of its model."""

from __future__ import annotations

from collections.abc import Mapping

from raylens.api.edits import Direction
from raylens.api.workbench import Held, HeldSae
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens.ids import FeatureId, HookPoint, ShortFeature


def find_feature(feature: str, saes: Mapping[str, HeldSae], named: str | None) -> tuple[str, int]:
    """By what a session calls the SAE of a feature, and the feature's index in it.

    Args:
        feature: As an edit names it.
        saes: The session's, by what it calls them.
        named: The only one that is meant, by that or by its id.

    Raises:
        InputError: It is of none of them, or of several.
        UnknownNameError: There is no such SAE or feature.
    """
    if named is not None:
        chosen = [ref for ref, one in saes.items() if named in (ref, one.sae)]
        if not chosen:
            raise UnknownNameError.among("SAE", named, saes, hint="Others are attached with load-sae.")
        saes = {chosen[0]: saes[chosen[0]]}
    if feature.startswith("f_"):
        short = ShortFeature.parse(feature)
        refs, index = [ref for ref, one in saes.items() if one.layer == short.layer], short.index
        where = f"layer {short.layer}"
    else:
        whole = FeatureId.parse(feature)
        refs, index = [ref for ref, one in saes.items() if one.sae == str(whole.sae)], whole.index
        where = str(whole.sae)
    if len(refs) != 1:
        there = ", ".join(one.sae for one in saes.values()) or "none"
        raise InputError(
            f"{feature} is of {'several SAEs' if refs else 'no SAE'} of the session (of {where}).",
            hint=f"it has {there}; name one with sae, or attach it with load-sae.",
        )
    if index >= saes[refs[0]].d_sae:
        raise UnknownNameError(
            f"{saes[refs[0]].sae} has no feature {index}.", hint=f"it has {saes[refs[0]].d_sae:,}, counted from 0."
        )
    return refs[0], index


def check_direction(one: Direction, held: Held) -> None:
    """Refuse a direction of another model.

    Raises:
        MismatchError: It is at a layer that the model does not have, or of another width.
    """
    hook = HookPoint.parse(one.hook)
    layer = hook.layer_index
    if layer is not None and layer >= held.n_layers:
        raise MismatchError(
            f"direction {one.name} is at {hook}, and {held.model} has {held.n_layers} layers.",
            hint="it was made for another model.",
        )
    if len(one.vector) != held.d_model:
        raise MismatchError(
            f"direction {one.name} is {len(one.vector)} wide, and {held.model} is {held.d_model}.",
            hint="it was made for another model.",
        )
