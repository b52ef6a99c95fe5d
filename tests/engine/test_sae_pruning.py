"""Latents that are left out take only their own part of a reconstruction with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata

from raylens.bundle.paths import PICO_SAES, sae_path
from raylens.engine.sae_pruning import firing_rates, keep_latents
from raylens.engine.saes import load_sae
from raylens.errors import InputError
from raylens.ids import SaeId

D_IN, D_SAE = 8, 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A JumpReLU SAE whose latent ``i`` needs about ``i / 4`` to fire."""
    torch.manual_seed(0)
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_post", model_name="m")
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, metadata=metadata))
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.W_dec.normal_()
        sae.b_enc.normal_(std=0.1)
        sae.b_dec.normal_()
        sae.threshold.copy_(torch.arange(D_SAE) / 4)
    sae.save_model(tmp_path / "sae")
    return tmp_path / "sae"


def activations(seed: int, n: int = 500) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D_IN)).astype(np.float32)


def test_rates_are_those_of_sae_lens(folder: Path) -> None:
    batches = [activations(1), activations(2, 300)]
    acts = JumpReLUSAE.load_from_disk(folder).encode(torch.from_numpy(np.concatenate(batches)))
    wanted = (acts > 0).double().mean(dim=0).numpy()
    found = firing_rates(load_sae(folder), batches)
    assert np.allclose(found, wanted, atol=1e-9)
    assert found.max() > 0.3
    with pytest.raises(InputError, match="no activations"):
        firing_rates(load_sae(folder), [])


def test_what_stays_is_unchanged_and_what_goes_takes_its_own_part(folder: Path) -> None:
    whole = JumpReLUSAE.load_from_disk(folder)
    keep = np.arange(D_SAE) % 3 != 1
    keep_latents(folder, keep)
    left = load_sae(folder).sae
    assert (left.cfg.d_sae, tuple(left.W_dec.shape)) == (keep.sum(), (keep.sum(), D_IN))
    x = torch.from_numpy(activations(3))
    acts = whole.encode(x)
    assert torch.allclose(left.encode(x), acts[:, keep], atol=1e-6)
    gone = acts[:, ~keep] @ whole.W_dec[~keep]
    assert torch.allclose(left.decode(left.encode(x)), whole.decode(acts) - gone, atol=1e-4)


def test_what_cannot_be_cut_is_refused_and_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    before = (folder / "sae_weights.safetensors").read_bytes()
    with pytest.raises(InputError, match="no latent would be left"):
        keep_latents(folder, np.zeros(D_SAE, np.bool_))
    assert (folder / "sae_weights.safetensors").read_bytes() == before
    bundled = sae_path(SaeId.parse(f"{PICO_SAES}/layer_1"))
    assert bundled is not None
    copy = Path(shutil.copytree(bundled, tmp_path / "topk"))
    with pytest.raises(InputError, match="latents of a topk SAE depend on one another"):
        keep_latents(copy, np.arange(load_sae(copy).d_sae) > 5)
