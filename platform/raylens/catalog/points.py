"""Names of hook points, without torch: which exist, how wide each is, and TransformerLens's names for them.

The vocabulary is interp-engine's; importing that package imports torch, so the names stand here as
data and a test holds them against ``interp_engine.points``. SAE directories and configs name points
as TransformerLens does. :func:`from_transformer_lens` translates only what means one tensor: a name
that TransformerLens gives to a tensor no canonical point holds (``ln2.hook_normalized`` lies between
a norm's division and its gain; the block-level ``hook_mlp_in`` before the norm) has no translation.
"""

from __future__ import annotations

import re
from typing import Final

from raylens.ids import HookPoint

RESIDUAL_WIDE: Final = frozenset(
    {
        "attn_in",
        "attn_out",
        "attn_out_post",
        "embeddings",
        "final_norm",
        "mlp_in",
        "mlp_out",
        "mlp_out_post",
        "resid_mid",
        "resid_post",
        "resid_pre",
    }
)
"""Points whose last axis is the model's width, so that an SAE's ``d_in`` can be compared with it."""

GLOBAL: Final = frozenset({"embeddings", "final_norm", "lm_head"})
"""Points that take no layer."""

KNOWN: Final = RESIDUAL_WIDE | frozenset(
    {
        "attn_gate",
        "attn_probs",
        "attn_scores",
        "attn_stream_collapse",
        "attn_stream_mix",
        "attn_stream_write",
        "expert_indices",
        "expert_weights",
        "k_norm_in",
        "k_norm_out",
        "lm_head",
        "mlp_act",
        "mlp_pre",
        "mlp_pre_linear",
        "mlp_stream_collapse",
        "mlp_stream_mix",
        "mlp_stream_write",
        "q_norm_in",
        "q_norm_out",
        "resid_streams",
        "router_logits",
        "value",
        "z",
    }
)
"""Every canonical point name; which of them a model has depends on its architecture."""

_BLOCK: Final = re.compile(r"blocks\.([0-9]+)\.(.+)")
_WHOLE_BLOCK: Final = re.compile(r"(?:\w+\.)*(?:layers|h|blocks)\.[0-9]+")
_SUFFIXES: Final = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "mlp.hook_in": "mlp_in",
    "attn.hook_in": "attn_in",
    "mlp.hook_out": "mlp_out",
    "attn.hook_out": "attn_out",
    "attn.hook_z": "z",
    "hook_z": "z",
    "mlp.hook_post": "mlp_act",
    "mlp.hook_pre": "mlp_pre",
}
# TransformerLens hooks a sublayer's *contribution*; where the block norms it first (Gemma 2 and 3,
# OLMo 2 and 3), that is another tensor than the module's output.
_CONTRIBUTIONS: Final = {"hook_mlp_out": "mlp_out", "hook_attn_out": "attn_out"}
_SANDWICH: Final = re.compile(r"(?:^|/)(?:gemma-[23]-|gemma-?[23]\b|olmo-?[23])", re.IGNORECASE)


def from_transformer_lens(hook: str, model: str | None = None) -> HookPoint | None:
    """The canonical point of a TransformerLens hook name; None where no canonical point is that tensor.

    Args:
        hook: For example ``blocks.3.hook_resid_post``.
        model: The model's name; decides what a block-level ``hook_mlp_out`` or ``hook_attn_out`` is.
            Without it those two have no translation.
    """
    match = _BLOCK.fullmatch(hook)
    if not match:
        return None
    suffix = match[2]
    name = _SUFFIXES.get(suffix)
    if name is None and suffix in _CONTRIBUTIONS and model is not None:
        name = _CONTRIBUTIONS[suffix] + ("_post" if norms_contributions(model) else "")
    return HookPoint(name, int(match[1])) if name else None


def norms_contributions(model: str) -> bool:
    """Whether the model's blocks norm a sublayer's output before adding it, told by its name."""
    return _SANDWICH.search(model) is not None


def is_residual_wide(hook: HookPoint) -> bool:
    """Whether ``hook`` is as wide as the residual stream; a module path is where it names a whole block."""
    if hook.is_module_path:
        return _WHOLE_BLOCK.fullmatch(hook.name) is not None
    return hook.name in RESIDUAL_WIDE
