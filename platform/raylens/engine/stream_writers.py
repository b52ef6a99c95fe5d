"""What writes to the residual stream: output projections of attention and MLP, and which of them lie before a point.

Found through interp-engine's maps of architectures. A layer may lack one: a mixture of experts has no single output
projection, and some layers mix positions by other means than attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from interp_engine import is_rms_norm, rms_norm_parts
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raylens.engine.load import LoadedModel
from raylens.errors import MismatchError
from raylens.ids import HookPoint

Kind = Literal["attention", "mlp"]
ATTENTION: Final = "attention"
MLP: Final = "mlp"

_BLOCK_PATH: Final = re.compile(r"(?:.+\.)?(?:layers|h|blocks|block)\.([0-9]+)")


@dataclass(frozen=True, slots=True, eq=False)
class Writer:
    """One output projection.

    Attributes:
        layer: Of the block that it is in.
        kind: Of which sublayer.
        module: Its output is what the sublayer gives, before a norm or a factor.
        gain: ``[d_model]``, what a norm between it and the stream multiplies by; None without one.
        factor: What its output is multiplied by on the way into the stream, after the norm.
    """

    layer: int
    kind: Kind
    module: nn.Linear | Conv1D
    gain: Tensor | None = None
    factor: float = 1.0

    @property
    def place(self) -> tuple[int, str]:
        """Where it comes in a forward pass: sublayers of a layer are in order of name, attention, then mlp."""
        return self.layer, self.kind

    @property
    def weight(self) -> Tensor:
        """``[d_model, inputs]``, in the model's dtype, whichever way the module keeps it."""
        weight = self.module.get_parameter("weight")
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """``[d_model]``, or None."""
        bias = self.module.bias
        return bias if isinstance(bias, Tensor) else None


def writers(loaded: LoadedModel, layer: int) -> Iterator[Writer]:
    """Those of a layer, attention's before the MLP's."""
    arch: Any = loaded.engine.arch
    of_attention, of_mlp = arch.quirks.residual_multipliers
    kinds: tuple[tuple[Kind, Any, Any, float], ...] = (
        (ATTENTION, lambda: arch.attn_out_proj(layer), lambda: arch.post_attn_norm(layer), of_attention),
        (MLP, lambda: arch.mlp_projection(layer, "down"), lambda: arch.post_mlp_norm(layer), of_mlp),
    )
    for kind, of, norm_of, factor in kinds:
        try:
            found, norm = of(), norm_of()
        except (AttributeError, ValueError):  # a mixture of experts, or a layer without that sublayer
            continue
        if isinstance(found, nn.Linear | Conv1D) and _width(found) == loaded.d_model:  # a factored one is narrower
            yield Writer(layer, kind, found, None if norm is None else _gain(norm, loaded.d_model), factor)


def reach(loaded: LoadedModel, hook: HookPoint) -> tuple[tuple[int, str], bool]:
    """The last sublayer before ``hook``, as :attr:`Writer.place`, and whether all before it count as well.

    Of a point of the residual stream they do; what a sublayer adds to it is of that sublayer alone.

    Raises:
        MismatchError: It is neither.
    """
    layer, name = hook.layer_index, hook.name
    if hook.is_module_path:
        name = "resid_post" if _BLOCK_PATH.fullmatch(hook.name) and hook.output in (None, 0) else ""
    if name == "embeddings":
        return (-1, MLP), True
    if layer is not None:
        match name:
            case "resid_pre":
                return (layer - 1, MLP), True
            case "resid_mid":
                return (layer, ATTENTION), True
            case "resid_post":
                return (layer, MLP), True
            case "attn_out" | "attn_out_post":
                return (layer, ATTENTION), False
            case "mlp_out" | "mlp_out_post":
                return (layer, MLP), False
    raise MismatchError(
        f"{hook} is not a point of the residual stream of {loaded.name}.",
        hint="name a point of the residual stream (resid_post.N), or of what attention or MLP add to it (mlp_out.N).",
    )


def _width(module: nn.Linear | Conv1D) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.nf


def _gain(norm: nn.Module, width: int) -> Tensor:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor):
        return torch.ones(width)
    if is_rms_norm(norm):
        return rms_norm_parts(norm, torch.zeros_like(weight)[None])[1].float().reshape(-1)
    return weight.float()
