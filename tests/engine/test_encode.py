"""``encode_sparse`` against the non-zeros of sae-lens's own dense ``encode``: equal bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylens.engine import encode
from raylens.engine.encode import Sparse, encode_sparse
from raylens.engine.inference_sae import InferenceSae
from raylens.engine.saes import LoadedSae, load_sae
from raylens.errors import MismatchError, RunError
from raylens.ids import HookPoint

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"apply_b_dec_to_input": False},
    {"normalize_activations": "layer_norm"},
    {"normalize_activations": "constant_norm_rescale"},
)


def dense_oracle(sae: LoadedSae, acts: Tensor, min_activation: float = 0.0) -> Sparse:
    theirs = sae.sae.saelens() if isinstance(sae.sae, InferenceSae) else sae.sae
    dense = theirs.encode(acts).detach()
    token, feature = torch.nonzero(dense, as_tuple=True)
    keep = dense[token, feature] > min_activation
    token, feature = token[keep], feature[keep]
    return Sparse(token.int().numpy(), feature.int().numpy(), dense[token, feature].float().numpy())


def assert_same(got: Sparse, want: Sparse) -> None:
    for mine, expected in zip(got, want, strict=True):
        assert mine.dtype == expected.dtype
        np.testing.assert_array_equal(mine, expected)


@pytest.fixture(scope="session")
def saes(sae_folders: dict[str, Path]) -> dict[str, LoadedSae]:
    return {kind: load_sae(folder) for kind, folder in sae_folders.items()}


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["standard", "topk", "batchtopk", "jumprelu", "gated"]), rows=st.integers(0, 40),
       seed=st.integers(0, 2**31), minimum=st.sampled_from([0.0, 0.25, 1.0, 50.0]))  # fmt: skip
def test_equals_sae_lens(saes: dict[str, LoadedSae], kind: str, rows: int, seed: int, minimum: float) -> None:
    acts = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    got = encode_sparse(saes[kind], acts, minimum)
    assert_same(got, dense_oracle(saes[kind], acts, minimum))
    order = got.token.astype(np.int64) * 128 + got.feature
    assert (np.diff(order) > 0).all()
    assert (got.activation > minimum).all()


@pytest.mark.parametrize("given", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_setting_that_changes_encode_is_honoured(
    kind: str,
    given: dict[str, Any],
    dtype: str,
    tmp_path: Path,
    make_sae: Callable[..., Any],
    save_sae: Callable[[Any, Path], Path],
) -> None:
    sae = load_sae(save_sae(make_sae(kind, **given), tmp_path / kind), dtype=dtype)
    acts = torch.randn(33, 32, generator=torch.Generator().manual_seed(3))
    assert_same(encode_sparse(sae, acts), dense_oracle(sae, acts))


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard"])
def test_decoder_norms_scaled_or_folded(
    kind: str, tmp_path: Path, make_sae: Callable[..., Any], save_sae: Callable[[Any, Path], Path]
) -> None:
    given = {"rescale_acts_by_decoder_norm": True} if kind == "topk" else {}
    sae = load_sae(save_sae(make_sae(kind, **given), tmp_path / kind))
    acts = torch.randn(20, 32, generator=torch.Generator().manual_seed(5))
    assert_same(encode_sparse(sae, acts), dense_oracle(sae, acts))
    assert isinstance(sae.sae, InferenceSae)
    theirs = sae.sae.saelens()
    theirs.fold_W_dec_norm()
    folded = LoadedSae(theirs, sae.spec)
    assert_same(encode_sparse(folded, acts), dense_oracle(folded, acts))


def test_what_does_not_fit_at_once_is_encoded_in_turns(
    saes: dict[str, LoadedSae], monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    blocks = [dense_oracle(saes["topk"], acts[start : start + 7]) for start in range(0, 50, 7)]
    monkeypatch.setattr(encode, "_BLOCK_ELEMENTS", 128 * 7)
    got = encode_sparse(saes["topk"], acts)
    np.testing.assert_array_equal(got.activation, np.concatenate([block.activation for block in blocks]))
    np.testing.assert_array_equal(got.token, np.concatenate([b.token + 7 * i for i, b in enumerate(blocks)]))


def test_inputs_of_another_dtype_are_cast_as_sae_lens_casts_them(saes: dict[str, LoadedSae]) -> None:
    acts = torch.randn(9, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert_same(encode_sparse(saes["jumprelu"], acts), dense_oracle(saes["jumprelu"], acts))


def test_overflowed_inputs_are_an_error_not_silence(saes: dict[str, LoadedSae]) -> None:
    for bad in (torch.nan, torch.inf):
        acts = torch.zeros(4, 32)
        acts[2, 5] = bad
        with pytest.raises(RunError, match="finite"):
            encode_sparse(saes["topk"], acts)
    large = torch.full((4, 32), 3e38)  # the sum overflows, the values do not
    assert len(encode_sparse(saes["standard"], large).token)


def test_inputs_of_another_width_are_refused(saes: dict[str, LoadedSae]) -> None:
    with pytest.raises(MismatchError, match=str(HookPoint("resid_post", 1))) as caught:
        encode_sparse(saes["topk"], torch.zeros(3, 33))
    assert "width 32" in caught.value.message
