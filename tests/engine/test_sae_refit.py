"""Thresholds and decoders that are fitted without gradient steps, against slower ways to the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata

from raylens.bundle.paths import PICO_SAES, sae_path
from raylens.engine.sae_refit import JumpRelu, _candidates, fit_thresholds, refit_decoder
from raylens.errors import InputError
from raylens.ids import SaeId

D_IN = D_SAE = 24
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).standard_normal((D_SAE, D_IN)))[0].astype(np.float32)
"""Of which activations are made, some ten times as often and some four times as strongly as others."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A JumpReLU SAE that has learnt the directions, roughly."""
    torch.manual_seed(0)
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_post", model_name="m")
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=True, metadata=metadata))
    with torch.no_grad():
        noisy = torch.from_numpy(DIRECTIONS) + 0.05 * torch.randn(D_SAE, D_IN)
        sae.W_dec.copy_(torch.nn.functional.normalize(noisy, dim=1))
        sae.W_enc.copy_(sae.W_dec.T + 0.05 * torch.randn(D_IN, D_SAE))
        sae.b_enc.normal_(std=0.1)
        sae.b_dec.normal_(std=0.1)
        sae.threshold.fill_(0.5)
    sae.save_model(tmp_path / "sae")
    return tmp_path / "sae"


def batches(seed: int = 1, n: int = 4) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    rates, scales = np.geomspace(0.02, 0.2, D_SAE), 0.25 * 4 ** np.random.default_rng(1).random(D_SAE)
    return [
        ((rng.random((500, D_SAE)) < rates) * scales * rng.gamma(4, 1, (500, D_SAE)) @ DIRECTIONS).astype(np.float32)
        for _ in range(n)
    ]


def together(some: list[NDArray[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(some))


def error(sae: JumpRelu, x: torch.Tensor) -> tuple[float, float]:
    """Mean squared error and L0."""
    acts = sae.encode(x)[1]
    return float(sae.residual(x, acts).square().sum(dim=1).mean()), float((acts > 0).sum(dim=1).float().mean())


def test_it_computes_as_sae_lens_does(folder: Path) -> None:
    x, theirs, ours = together(batches()), JumpReLUSAE.load_from_disk(folder), JumpRelu.load(folder)
    acts = theirs.encode(x)
    assert torch.allclose(ours.encode(x)[1], acts, atol=1e-5)
    assert torch.allclose(ours.residual(x, acts), x - theirs.decode(acts), atol=1e-5)


def test_worth_is_what_one_activation_takes_off_the_error(folder: Path) -> None:
    sae, (batch, *_) = JumpRelu.load(folder), batches()
    x = torch.from_numpy(batch)
    latent, strength, worth, n_tokens = _candidates(sae, [batch])
    pre, acts = sae.encode(x)
    token, expected = ((pre > 0.75 * sae.threshold) & (pre > 0)).nonzero(as_tuple=True)
    assert n_tokens == len(batch)
    assert (latent == expected.numpy()).all()
    for at in range(0, len(latent), 97):
        with_it, without = acts[token[at]].clone(), acts[token[at]].clone()
        with_it[latent[at]], without[latent[at]] = float(strength[at]), 0
        row = x[token[at]]
        saved = sae.residual(row, without).square().sum() - sae.residual(row, with_it).square().sum()
        assert float(saved) == pytest.approx(worth[at], abs=1e-3)


@pytest.mark.parametrize("l0", [1.0, 1.5])
def test_fitted_thresholds_spend_an_l0_better_than_one_for_all(folder: Path, l0: float) -> None:
    sae, some = JumpRelu.load(folder), batches()
    fitted = replace(sae, threshold=fit_thresholds(sae, some, l0))
    x = together(some)
    mse, active = error(fitted, x)
    assert active == pytest.approx(l0, abs=0.1)
    factors = np.geomspace(0.3, 4, 400)
    by_one = [error(replace(sae, threshold=sae.threshold * factor), x) for factor in factors]
    assert mse < min(theirs for theirs, n in by_one if n <= active)


def test_one_very_strong_token_does_not_coarsen_the_search(folder: Path) -> None:
    sae, some = JumpRelu.load(folder), batches()
    some[0][0] = 3000 * DIRECTIONS[0]
    for l0 in (1.0, 1.2, 1.5):
        fitted = replace(sae, threshold=fit_thresholds(sae, some, l0))
        assert error(fitted, together(some))[1] == pytest.approx(l0, abs=0.02)


def test_the_decoder_is_that_of_least_squares(folder: Path) -> None:
    sae, some = JumpRelu.load(folder), batches()
    x = together(some)
    codes = sae.encode(x)[1].double().numpy()
    wanted = np.linalg.lstsq(codes, (x - sae.b_dec).double().numpy(), rcond=None)[0]
    found = refit_decoder(sae, some, ridge=1e-9)
    assert np.allclose(found.numpy(), wanted, atol=1e-3)
    assert error(replace(sae, w_dec=found), x)[0] < error(sae, x)[0]
    stays = refit_decoder(sae, some, ridge=1e12)
    assert torch.allclose(stays, sae.w_dec, atol=1e-4)


def test_what_is_saved_reconstructs_as_what_was_fitted(folder: Path) -> None:
    sae, some = JumpRelu.load(folder), batches()
    fitted = replace(sae, threshold=fit_thresholds(sae, some, 3.0))
    fitted = replace(fitted, w_dec=refit_decoder(fitted, some))
    fitted.save(folder)
    read, x = JumpReLUSAE.load_from_disk(folder), together(batches(seed=5))
    assert torch.allclose(read.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)
    acts = read.encode(x)
    assert ((acts > 0) == (fitted.encode(x)[1] > 0)).float().mean() > 0.999
    left = fitted.residual(x, fitted.encode(x)[1])
    assert torch.quantile((x - read.decode(acts) - left).abs().max(dim=1).values, 0.99) < 1e-3


def test_what_cannot_be_fitted_is_refused(folder: Path, tmp_path: Path) -> None:
    sae = JumpRelu.load(folder)
    for fit in (lambda: fit_thresholds(sae, [], 3.0), lambda: refit_decoder(sae, [])):
        with pytest.raises(InputError, match="no activations"):
            fit()
    bundled = sae_path(SaeId.parse(f"{PICO_SAES}/layer_1"))
    assert bundled is not None
    with pytest.raises(InputError, match="no JumpReLU SAE"):
        JumpRelu.load(Path(shutil.copytree(bundled, tmp_path / "topk")))
