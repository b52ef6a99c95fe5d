"""Where a hook point lies in a loaded model: which module, which side of it, and what a model has.

Names are interp-engine's canonical points (``resid_post.4``, ``attn_out.2``, ``mlp_act.0``,
``embeddings`` …), the same on every architecture, or module paths (``path.model.layers.4#0``), which
name a module's output, ``#k`` being element ``k`` of a tuple (A2.08).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from interp_engine import Address, EagerModel, UnmappedHook, tlens_hook_to_point
from interp_engine.hooks import parse_point
from interp_engine.points import PointSpec, Scope, Width
from torch import nn

from raylens.catalog import points as vocabulary
from raylens.engine.load import LoadedModel
from raylens.errors import InputError, UnknownNameError
from raylens.ids import HookPoint

_PLAIN: Final = frozenset({"z", "mlp_act", "lm_head"})
"""Points of another width than the residual stream that are always a module's own tensor."""


@dataclass(frozen=True, slots=True)
class Site:
    """One hook point of one model.

    ``plain`` says that the tensor on that side of the module *is* the point. Where it is not (the
    value part of a fused projection, a scaled sublayer output, per-head layouts …), interp-engine's
    own capture must rework it, and :func:`raylens.engine.tap.tap` asks it to.
    """

    point: HookPoint
    module: nn.Module
    side: Literal["input", "output"]
    output: int
    plain: bool


def resolve(loaded: LoadedModel, point: HookPoint) -> Site:
    """Find ``point`` in ``loaded``.

    Raises:
        UnknownNameError: the model has no such point, layer or module; says what it has.
    """
    if point.is_module_path:
        return _resolve_path(loaded, point)
    engine = loaded.engine
    spec = next((spec for spec in engine.points() if spec.name == point.name), None)
    if spec is None:
        raise UnknownNameError.among("hook point", str(point), map(str, list_points(loaded)), hint=_path_hint(loaded))
    _check_layer(loaded, point, spec)
    address = Address(point.name, point.layer)
    if not spec.module_resolved:
        raise UnknownNameError(
            f"{point} is not one tensor a token in {loaded.name}.",
            hint="name a point of a block, such as resid_post.0.",
        )
    if reason := engine.refuses(address):
        here = [str(p) for p in list_points(loaded) if p.layer == point.layer]
        raise UnknownNameError(f"{loaded.name} has no {point}: {_sentence(reason)}", hint=f"it has {', '.join(here)}.")
    module, where = engine.resolve_point(point.name, point.layer)
    side, output = parse_point(where)
    plain = _is_plain(engine, spec, point.layer)
    return Site(point, module, "input" if side == "input" else "output", output, plain)


def list_points(loaded: LoadedModel) -> list[HookPoint]:
    """Every canonical point ``loaded`` can be tapped at, global ones first, then by layer in forward order."""
    engine = loaded.engine
    specs = [spec for spec in engine.points() if spec.module_resolved]
    found = [HookPoint(spec.name) for spec in specs if spec.scope is Scope.GLOBAL]
    layered = [spec.name for spec in specs if spec.scope is Scope.LAYER]
    found += [HookPoint(name, layer) for layer in range(loaded.n_layers) for name in layered]
    return [point for point in found if engine.serves(Address(point.name, point.layer))]


def from_transformer_lens(name: str, loaded: LoadedModel | None = None) -> HookPoint:
    """The canonical point of a TransformerLens hook name, ``blocks.3.hook_resid_post`` → ``resid_post.3``.

    ``blocks.N.hook_mlp_out`` and ``hook_attn_out`` mean another tensor where a block norms its
    sublayers' outputs (Gemma 2 and 3), so those two need the model.

    Raises:
        UnknownNameError: no canonical point is that tensor, or it takes the model to say which.
    """
    if loaded is None:
        point = vocabulary.from_transformer_lens(name)
        if point is None:
            raise UnknownNameError(f"{name!r} names no hook point.", hint="write resid_post.N, or path.<module path>.")
        return point
    try:
        address = tlens_hook_to_point(name, loaded.engine)
    except UnmappedHook as error:
        raise UnknownNameError(_sentence(str(error)), hint="write resid_post.N, or path.<module path>.") from error
    return HookPoint(address.name, address.layer)


def _resolve_path(loaded: LoadedModel, point: HookPoint) -> Site:
    try:
        module = loaded.model.get_submodule(point.name)
    except AttributeError:
        names = [name for name, _ in loaded.model.named_modules() if "." in name]
        raise UnknownNameError.among("module", point.name, names, hint="Paths start at the whole model.") from None
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        raise InputError(
            f"{point.name} is a list of modules and has no output.", hint=f"name one of them, such as {point.name}.0."
        )
    return Site(point, module, "output", point.output or 0, plain=True)


def _check_layer(loaded: LoadedModel, point: HookPoint, spec: PointSpec) -> None:
    last = loaded.n_layers - 1
    if spec.scope is Scope.GLOBAL and point.layer is not None:
        raise UnknownNameError(f"{point.name} is one tensor and has no layers.", hint=f"write {point.name}.")
    if spec.scope is Scope.LAYER and (point.layer is None or point.layer > last):
        raise UnknownNameError(
            f"{loaded.name} has no {point}: its layers are 0 to {last}.",
            hint=f"write {point.name}.0 … {point.name}.{last}.",
        )


def _is_plain(engine: EagerModel, spec: PointSpec, layer: int | None) -> bool:
    arch = engine.arch
    if spec.width is Width.D_MODEL:
        # Granite and others scale what a sublayer adds; the point is the scaled tensor.
        attn_scale, mlp_scale = arch.quirks.residual_multipliers
        return {"attn_out_post": attn_scale, "mlp_out_post": mlp_scale}.get(spec.name, 1.0) == 1.0
    if spec.name in ("mlp_pre", "mlp_pre_linear"):
        return arch.fused_gate_up(layer or 0) is None
    if spec.name == "value":
        return not arch.quirks.fused_qkv and arch.value_module(layer or 0) is None
    return spec.name in _PLAIN


def _path_hint(loaded: LoadedModel) -> str:
    return f"Any module of {loaded.name} can be named too, as path.<module path>."


def _sentence(text: str) -> str:
    first = text.split(". ")[0].strip().rstrip(".")
    return f"{first}."
