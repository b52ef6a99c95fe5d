"""One feature's activation on each token, and what one unit of it adds to what the SAE reads.

A feature alone needs one column of the encoder, where others do not decide with it. They do in a TopK SAE, whose
other features may push it out: there only tokens whose pre-activation is above zero are encoded whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raylens.engine.encode import encode_sparse
from raylens.engine.saes import LoadedSae


def activation(sae: LoadedSae, x: Tensor, feature: int) -> Tensor:
    """A feature's activation, as ``sae.encode(x)[:, feature]`` has it.

    Args:
        sae: The SAE.
        x: ``[tokens, d_in]``, any float dtype and device.
        feature: Its index.

    Returns:
        ``[tokens]`` in the SAE's dtype, on its device.
    """
    model = sae.sae
    x = x.to(sae.device, model.dtype)
    architecture = model.cfg.architecture()
    if architecture == "gated":
        return model.encode(x)[:, feature]
    before = model.process_sae_in(x) @ model.W_enc[:, feature] + model.get_parameter("b_enc")[feature]
    if architecture == "jumprelu":
        return before * (before > model.get_parameter("threshold")[feature].clamp(min=0))
    found = before.clamp(min=0)
    if architecture != "topk":
        return found
    fires = (before > 0).nonzero()[:, 0]
    found = torch.zeros_like(before)
    if len(fires):
        codes = encode_sparse(sae, x[fires])
        own = codes.feature == feature
        found[fires[torch.from_numpy(codes.token[own]).long()]] = torch.from_numpy(codes.activation[own]).to(found)
    return found


def direction(sae: LoadedSae, feature: int) -> Tensor:
    """What a unit of activation adds to the reconstruction, before the SAE scales its output; ``[d_in]``."""
    row = sae.sae.W_dec[feature]
    return row / sae.decoder_norms[feature] if getattr(sae.sae.cfg, "rescale_acts_by_decoder_norm", False) else row


def decoded_change(sae: LoadedSae, x: Tensor, feature: int, amount: Tensor) -> Tensor:
    """How much the reconstruction of ``x`` changes with a feature's activation; all else stays as it is.

    Args:
        sae: The SAE.
        x: As :func:`activation`: an SAE that normalises its inputs scales outputs by each token's own norm.
        feature: Its index.
        amount: By which its activation changes, ``[tokens]``.

    Returns:
        ``[tokens, d_in]`` in the SAE's dtype, on its device.
    """
    change = amount[:, None] * direction(sae, feature)
    if sae.sae.cfg.normalize_activations in ("none", "expected_average_only_in"):  # the latter is folded into weights
        return change
    x = x.to(sae.device, sae.sae.dtype)
    sae.sae.run_time_activation_norm_fn_in(x)  # it remembers for the output, once
    changed = sae.sae.run_time_activation_norm_fn_out(change)
    sae.sae.run_time_activation_norm_fn_in(x)
    return changed - sae.sae.run_time_activation_norm_fn_out(torch.zeros_like(change))
