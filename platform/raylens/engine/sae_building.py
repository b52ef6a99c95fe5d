"""A recipe → sae-lens's trainable SAE, the metadata that goes into its ``cfg.json``, and the form that is saved."""

from __future__ import annotations

import tempfile
from typing import Any, Final

from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.saes.sae import SAEMetadata

from raylens.catalog.points import from_transformer_lens
from raylens.config import SaeRecipe
from raylens.errors import InputError
from raylens.ids import HookPoint
from raylens.store.dense import RecordInfo

L1_COEF: Final = 5.0
"""Default weight of the standard SAE's penalty; inputs are scaled to a mean norm of √d_in."""

L0_COEF: Final = 1.0
"""Default weight of JumpReLU's penalty, likewise."""


def check_recipe(recipe: SaeRecipe, d_in: int) -> None:
    """Refuse what no SAE can be built or trained from, before anything is written.

    Raises:
        InputError: More latents are to be active than there are, or a part of one, or batches are of one token.
    """
    d_sae = recipe.d_sae or 8 * d_in
    if recipe.architecture in ("topk", "batchtopk") and not 1 <= recipe.k <= d_sae:
        raise InputError(f"k is {recipe.k:g} and there are {d_sae} latents.", hint="lower --k, or raise --width.")
    if recipe.architecture == "topk" and recipe.k != int(recipe.k):
        raise InputError(f"TopK takes a whole k, not {recipe.k:g}.", hint="round it, or take batchtopk.")
    if recipe.batch_size < 2:
        raise InputError("one token has no variance to explain.", hint="raise --batch-size to 2 or more.")


def build_sae(recipe: SaeRecipe, d_in: int, metadata: SAEMetadata, device: str) -> TrainingSAE[Any]:
    """A freshly initialised SAE; draws from torch's global generator.

    Raises:
        InputError: As :func:`check_recipe`.
    """
    check_recipe(recipe, d_in)
    d_sae = recipe.d_sae or 8 * d_in
    shared: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "device": device,
        "metadata": metadata,
        "normalize_activations": "expected_average_only_in",
        "apply_b_dec_to_input": True,
    }
    warmup = round(recipe.steps * recipe.warmup_share)
    match recipe.architecture:
        case "standard":
            coef = L1_COEF if recipe.sparsity_coef is None else recipe.sparsity_coef
            return StandardTrainingSAE(
                StandardTrainingSAEConfig(**shared, l1_coefficient=coef, l1_warm_up_steps=warmup)
            )
        case "jumprelu":
            coef = L0_COEF if recipe.sparsity_coef is None else recipe.sparsity_coef
            return JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(**shared, l0_coefficient=coef, l0_warm_up_steps=warmup)
            )
        case "topk":
            return TopKTrainingSAE(
                TopKTrainingSAEConfig(**shared, k=int(recipe.k), aux_loss_coefficient=recipe.aux_coef)
            )
        case "batchtopk":
            return BatchTopKTrainingSAE(
                BatchTopKTrainingSAEConfig(**shared, k=recipe.k, aux_loss_coefficient=recipe.aux_coef)
            )


def sae_metadata(info: RecordInfo, hook: HookPoint, recipe: SaeRecipe) -> SAEMetadata:
    """What the SAE was trained on, under sae-lens's names where it has one, else under ``raylens``."""
    return SAEMetadata(
        model_name=info.model,
        hook_name=transformer_lens_name(hook) or str(hook),
        hook_head_index=None,
        prepend_bos=bool(info.prefix_ids),
        context_size=info.ctx_len,
        dataset_path=", ".join(info.texts),
        raylens={
            "hook": str(hook),
            "model_revision": info.revision,
            "texts": list(info.texts),
            "corpus": list(info.corpus),
            "special_tokens": "left out of training",
            "recipe": SaeRecipe(**{name: getattr(recipe, name) for name in SaeRecipe.model_fields}).model_dump(),
        },
    )


def transformer_lens_name(point: HookPoint) -> str | None:
    """TransformerLens's name where it means the same tensor in every model: ``blocks.3.hook_resid_post``."""
    if point.layer is None:
        return None
    name = f"blocks.{point.layer}.hook_{point.name}"
    return name if from_transformer_lens(name) == point else None


def to_inference(sae: TrainingSAE[Any]) -> SAE[Any]:
    """sae-lens's inference form of a trained SAE, on the CPU, its decoder rows of norm 1.

    The function it computes is the same; BatchTopK becomes JumpReLU, as sae-lens has it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sae.save_inference_model(temporary)
        plain = SAE.load_from_disk(temporary, device="cpu")
    plain.fold_W_dec_norm()
    if getattr(plain.cfg, "rescale_acts_by_decoder_norm", False):
        # Norms are 1 now: dividing by them again would cost time, and err where weights are rounded.
        plain.cfg.rescale_acts_by_decoder_norm = False
    return plain
