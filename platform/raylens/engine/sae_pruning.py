"""Leaving latents out of a trained SAE that next to never fire."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from raylens.engine.encode import encode_sparse
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError

WEIGHTS = "sae_weights.safetensors"


def firing_rates(sae: LoadedSae, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Share of tokens on which each latent is active, float64 ``[d_sae]``.

    Args:
        sae: The SAE.
        batches: Activations of its hook point, each float32 ``[tokens, d_in]``.

    Raises:
        InputError: There are no activations.
    """
    fired, n_tokens = np.zeros(sae.d_sae, np.int64), 0
    for batch in batches:
        fired += np.bincount(encode_sparse(sae, torch.from_numpy(batch)).feature, minlength=sae.d_sae)
        n_tokens += len(batch)
    if not n_tokens:
        raise InputError("there are no activations to measure firing rates on.", hint="record some text first.")
    return fired / n_tokens


def keep_latents(folder: Path, keep: NDArray[np.bool_]) -> None:
    """Rewrite an SAE folder in SAELens format with the latents of ``keep`` alone, bool ``[d_sae]``, in their order.

    What the others would have added to a reconstruction is missing afterwards; nothing else changes, for
    architectures in which a latent's activation does not depend on the others (standard, JumpReLU).

    Raises:
        InputError: The architecture chooses among latents (TopK), or no latent would be left.
    """
    config = json.loads((folder / "cfg.json").read_text())
    if config["architecture"] not in ("standard", "jumprelu"):
        raise InputError(
            f"latents of a {config['architecture']} SAE depend on one another.", hint="leave all of them in."
        )
    if not keep.any():
        raise InputError("no latent would be left.", hint="lower the firing rate that is asked for.")
    kept = torch.from_numpy(np.flatnonzero(keep))
    of_latent = {"W_enc": 1, "b_enc": 0, "threshold": 0, "W_dec": 0}
    weights = {
        name: tensor.index_select(of_latent[name], kept).contiguous() if name in of_latent else tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, folder / WEIGHTS)
    (folder / "cfg.json").write_text(json.dumps({**config, "d_sae": len(kept)}, indent=1) + "\n")
