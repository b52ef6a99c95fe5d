"""Edits of a running model: hooks that change what a point of it gives on, installed for as long as a pass takes.

With no edit no hook is set, so that a model whose patches are all off is the untouched model, bit for bit. Hooks are
the model's, so whoever runs an edited pass holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from interp_engine.steer import ablate_delta
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raylens.api.edits import Direction, Edit, Method, PatchSpec, Where
from raylens.engine.load import LoadedModel
from raylens.engine.points import Site, resolve
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError, MismatchError, RunError
from raylens.ids import FeatureId, HookPoint, ShortFeature
from raylens.workbench.feature_activation import activation, decoded_change

_FLOAT: Final = torch.float32


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEdit:
    """An edit with what it needs.

    Attributes:
        hook: Where.
        method: As :class:`raylens.api.edits.Edit`.
        value: Of ``add`` and ``clamp``: activation, or the length of what is added along a direction.
        where: On which tokens.
        sae: Of a feature; None of a direction.
        feature: Index in the SAE.
        vector: Of a direction, ``[d_model]`` float32 of length 1.
    """

    hook: HookPoint
    method: Method
    value: float = 0.0
    where: Where = "all"
    sae: LoadedSae | None = None
    feature: int = 0
    vector: Tensor | None = None


def load_edits(
    loaded: LoadedModel, spec: PatchSpec, saes: Mapping[str, LoadedSae], default: str | None, maxima: Maxima
) -> list[LoadedEdit]:
    """Edits of a patch, ready to apply.

    Args:
        loaded: The model that is edited.
        spec: The patch.
        saes: By id: those that the patch names.
        default: Of these, whose features ``f_3_17`` are.
        maxima: Of a feature, where strengths are in units of it.

    Raises:
        InputError: A feature is of no SAE given, or a point cannot be changed.
        MismatchError: An SAE or a direction is of another width than the model.
        UnknownNameError: The model has no such point, or the SAE no such feature.
    """
    directions = {one.name: one for one in spec.directions}
    made = [
        _of_direction(loaded, edit, directions[edit.direction])
        if edit.direction is not None
        else _of_feature(edit, *find_feature(edit, saes, default), maxima)
        for edit in spec.edits
    ]
    for one in made:
        require_editable(loaded, one)
    return made


Maxima = Callable[[LoadedSae, int], float]
"""The largest activation of a feature that is known of."""


def find_feature(edit: Edit, saes: Mapping[str, LoadedSae], default: str | None) -> tuple[LoadedSae, int]:
    """Whose feature it is, and its index.

    Raises:
        InputError: It is not written as one, or of no SAE given.
    """
    text = edit.feature or ""
    if text.startswith("f_"):
        short = ShortFeature.parse(text)
        layered = [sae for sae in saes.values() if sae.spec.hook.layer_index == short.layer]
        named = saes.get(default or "")
        chosen = named if named in layered else layered[0] if len(layered) == 1 else None
        if chosen is None:
            raise InputError(
                f"{text} is a feature of {'several SAEs' if layered else 'no SAE'} here.",
                hint="name the SAE, or write release/id/index.",
            )
        index = short.index
    else:
        feature = FeatureId.parse(text)
        chosen, index = saes.get(str(feature.sae)), feature.index
        if chosen is None:
            raise InputError(f"{text} is a feature of an SAE that is not here.", hint=f"here are {', '.join(saes)}.")
    if index >= chosen.d_sae:
        raise InputError(f"{chosen.id} has no feature {index}.", hint=f"it has {chosen.d_sae:,}, counted from 0.")
    return chosen, index


def require_editable(loaded: LoadedModel, edit: LoadedEdit) -> Site:
    """Where an edit is made.

    Raises:
        InputError: The point is no tensor that a module hands on.
        MismatchError: The edit is of another width than the model.
        UnknownNameError: The model has no such point.
    """
    site = resolve(loaded, edit.hook)
    if not site.plain:
        raise InputError(
            f"{edit.hook} of {loaded.name} is worked out from other tensors and cannot be changed.",
            hint="edit the residual stream: resid_post.N.",
        )
    width = edit.sae.spec.d_in if edit.sae is not None else len(edit.vector) if edit.vector is not None else 0
    if edit.hook.name.startswith("resid") and width != loaded.d_model:
        raise MismatchError(
            f"an edit at {edit.hook} is {width} wide, and {loaded.name} is {loaded.d_model}.",
            hint="it was made for another model.",
        )
    return site


@contextmanager
def edited(loaded: LoadedModel, edits: Sequence[LoadedEdit], n_prompt: int | None = None) -> Iterator[None]:
    """Forward passes in this block are of the edited model.

    Args:
        loaded: The model; the block holds its lock.
        edits: In order: of two at one point, the second reads what the first left.
        n_prompt: Tokens of the prompt, in each row; None for all of a pass that continues nothing. Rows that are
            padded count their padding.

    Raises:
        RunError: In a pass: what comes of an edit is not finite.
    """
    with loaded.lock, ExitStack() as hooks:
        places = _Places(n_prompt)
        if any(edit.where in ("prompt", "generated") for edit in edits):
            network: Any = loaded.model
            hooks.callback(network.register_forward_pre_hook(places.note, with_kwargs=True).remove)
        for edit in edits:
            site = require_editable(loaded, edit)
            hooks.callback(_install(site, _Change(edit, places)).remove)
        yield


class _Places:
    """Which tokens of a pass are the prompt's, from how many the pass continues."""

    def __init__(self, n_prompt: int | None) -> None:
        self._n_prompt, self._start = n_prompt, 0

    def note(self, _model: nn.Module, _args: object, kwargs: Mapping[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self._start = int(cache.get_seq_length()) if cache is not None else 0

    def mask(self, where: Where, length: int, device: torch.device) -> Tensor:
        """Of a pass over ``length`` tokens, bool ``[length]``."""
        if where == "all" or where == "firing":
            return torch.ones(length, dtype=torch.bool, device=device)
        n_prompt = self._n_prompt
        if n_prompt is None:
            n_prompt = self._start if self._start else length
        of_prompt = torch.arange(self._start, self._start + length, device=device) < n_prompt
        return of_prompt if where == "prompt" else ~of_prompt


class _Change:
    """What an edit makes of a tensor of its point."""

    def __init__(self, edit: LoadedEdit, places: _Places) -> None:
        self._edit, self._places = edit, places

    def __call__(self, hidden: Tensor) -> Tensor:
        """Of ``[rows, tokens, width]``."""
        edit = self._edit
        flat = hidden.reshape(-1, hidden.shape[-1])
        delta = self._along(flat) if edit.sae is None else self._of_feature(edit.sae, flat)
        delta = delta.to(hidden).view_as(hidden)
        if edit.where in ("prompt", "generated"):
            delta = delta * self._places.mask(edit.where, hidden.shape[1], hidden.device)[None, :, None]
        changed = hidden + delta
        if not bool(torch.isfinite(changed.sum())):
            raise RunError(f"an edit at {edit.hook} gives no finite numbers.", hint="lower its strength.")
        return changed

    def _along(self, flat: Tensor) -> Tensor:
        edit = self._edit
        assert edit.vector is not None
        vector = edit.vector.to(flat.device, _FLOAT)
        if edit.method == "add":
            return (edit.value * vector).expand_as(flat)
        return ablate_delta(flat.to(_FLOAT), vector)

    def _of_feature(self, sae: LoadedSae, flat: Tensor) -> Tensor:
        edit = self._edit
        if edit.method == "project_out" and edit.where != "firing":
            return ablate_delta(flat.to(_FLOAT), sae.sae.W_dec[edit.feature].to(flat.device, _FLOAT))
        now = activation(sae, flat, edit.feature) if edit.method != "add" or edit.where == "firing" else None
        fires = now > 0 if now is not None and edit.where == "firing" else None
        if edit.method == "project_out":
            delta = ablate_delta(flat.to(_FLOAT), sae.sae.W_dec[edit.feature].to(flat.device, _FLOAT))
            assert fires is not None
            return delta * fires[:, None].to(delta)
        if now is None:
            amount = torch.full_like(flat[:, 0], edit.value, dtype=sae.sae.dtype, device=sae.device)
        else:
            amount = {"add": torch.full_like(now, edit.value), "clamp": edit.value - now, "ablate": -now}[edit.method]
        if fires is not None:
            amount = amount * fires
        return decoded_change(sae, flat, edit.feature, amount)


def _install(site: Site, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    def on_output(_module: nn.Module, _args: object, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        parts = list(output)
        parts[site.output] = change(parts[site.output])
        return type(output)(parts) if isinstance(output, tuple) else parts

    def on_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    if site.side == "output":
        return site.module.register_forward_hook(on_output)
    return site.module.register_forward_pre_hook(on_input, with_kwargs=True)


def _of_direction(loaded: LoadedModel, edit: Edit, direction: Direction) -> LoadedEdit:
    vector = torch.tensor(direction.vector, dtype=_FLOAT)
    hook = HookPoint.parse(direction.hook)
    return LoadedEdit(hook, edit.method, edit.strength, edit.where, vector=(vector / vector.norm()).to(loaded.device))


def _of_feature(edit: Edit, sae: LoadedSae, feature: int, maxima: Maxima) -> LoadedEdit:
    value = edit.strength
    if edit.unit == "max" and edit.method in ("add", "clamp"):
        value *= maxima(sae, feature)
    return LoadedEdit(sae.spec.hook, edit.method, value, edit.where, sae=sae, feature=feature)
