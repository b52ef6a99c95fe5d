"""A3.08: streaming measures against direct, obvious computations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylens.engine.sae_metrics import CLUSTERS, Estimate, LossSums, ReconstructionSums, mean_max_cosine


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 40), offset=st.sampled_from([0.0, 1e4]))
def test_sums_equal_a_direct_computation(seed: int, chunk: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((90, 6)) + offset).float()
    x_hat = x + 0.3 * torch.from_numpy(rng.standard_normal((90, 6))).float()
    activations = torch.from_numpy(rng.standard_normal((90, 10)).clip(min=0)).float()
    activations[:, 3] = 0
    docs = rng.integers(0, 3000, 90).astype(np.int32)
    sums = ReconstructionSums(6, 10)
    for first in range(0, 90, chunk):
        part = slice(first, first + chunk)
        sums.add(docs[part], x[part], x_hat[part], activations[part])
    exact, error = x.double(), (x - x_hat).double()
    fvu = (error**2).sum() / ((exact - exact.mean(dim=0)) ** 2).sum()
    assert sums.n_tokens == 90
    assert sums.fvu().value == pytest.approx(float(fvu), rel=1e-9)
    assert sums.mse().value == pytest.approx(float((error**2).mean()), rel=1e-9)
    assert sums.l0().value == pytest.approx(float((activations > 0).sum(dim=1).double().mean()))
    assert sums.density() == pytest.approx((activations > 0).double().mean(dim=0).numpy())
    assert sums.density()[3] == 0


def test_a_perfect_reconstruction_has_fvu_0_and_the_mean_has_fvu_1() -> None:
    x, none = torch.randn(50, 4) + 7, torch.zeros(50, 3)
    for x_hat, expected in ((x, 0.0), (x.mean(dim=0).expand_as(x), 1.0)):
        sums = ReconstructionSums(4, 3)
        sums.add(np.arange(50, dtype=np.int32), x, x_hat, none)
        assert sums.fvu().value == pytest.approx(expected, abs=1e-5)


def test_losses_equal_those_of_torch() -> None:
    torch.manual_seed(0)
    clean, sae, zero = (torch.randn(300, 20) * scale for scale in (3, 2, 0.1))
    targets = torch.randint(0, 20, (300,))
    sums = LossSums()
    for first in (0, 100):
        part = slice(first, first + (100 if first == 0 else 200))
        docs = np.arange(300, dtype=np.int32)[part] // 30
        sums.add(docs, targets[part], clean[part], sae[part], zero[part])

    def ce(logits: torch.Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double(), targets))

    def kl(logits: torch.Tensor) -> float:
        p = clean.double().softmax(dim=-1)
        return float((p * (p.log() - logits.double().log_softmax(dim=-1))).sum(dim=-1).mean())

    assert sums.n_predictions == 300
    assert sums.mean("ce_clean").value == pytest.approx(ce(clean), rel=1e-5)
    assert sums.mean("kl_sae").value == pytest.approx(kl(sae), rel=1e-5)
    assert sums.ce_recovered().value == pytest.approx((ce(zero) - ce(sae)) / (ce(zero) - ce(clean)), rel=1e-4)
    assert sums.kl_recovered().value == pytest.approx(1 - kl(sae) / kl(zero), rel=1e-4)


def test_intervals_are_over_documents_and_cover() -> None:
    """Tokens of one document alike: the interval must be as wide as documents, not tokens, make it."""
    covered, width = 0, 0.0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        error = np.repeat(rng.gamma(2, 1, 40), 50)  # mean square 1: 2 · 1 / 2
        x = torch.from_numpy(rng.standard_normal((2000, 2)))
        sums = ReconstructionSums(2, 1)
        docs = np.repeat(np.arange(40, dtype=np.int32), 50)
        sums.add(docs, x, x + torch.from_numpy(np.sqrt(error / 2))[:, None], torch.zeros(2000, 1))
        mse = sums.mse()
        assert mse.low is not None
        assert mse.high is not None
        assert mse.low < mse.value < mse.high
        covered += mse.low <= 1 <= mse.high
        width += (mse.high - mse.low) / 60
    assert covered >= 50
    assert width == pytest.approx(4 * np.sqrt(2) / 2 / np.sqrt(40), rel=0.15)  # ± 2 standard errors of 40 documents


def test_one_document_gives_no_interval_and_many_share_clusters() -> None:
    one, many = ReconstructionSums(2, 1), ReconstructionSums(2, 1)
    x = torch.randn(5000, 2)
    one.add(np.zeros(5000, np.int32), x, 0 * x, torch.ones(5000, 1))
    many.add(np.arange(5000, dtype=np.int32), x, 0 * x, torch.ones(5000, 1))
    assert one.l0() == Estimate(1.0, None, None)
    assert many.fvu().low is not None
    assert (many.n > 0).sum() == CLUSTERS
    assert many.fvu().value == pytest.approx(one.fvu().value)


def test_largest_cosines_by_chunk_equal_those_at_once() -> None:
    vectors = torch.randn(70, 5)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-1)
    assert mean_max_cosine(vectors, rows=16) == pytest.approx(float(cosines.max(dim=1).values.mean()), rel=1e-5)
    assert mean_max_cosine(torch.cat([vectors, 2 * vectors])) == pytest.approx(1.0, rel=1e-5)
