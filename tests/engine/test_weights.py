"""Tables from weights, against slow and obvious computations of the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from raylens import schema
from raylens.engine import weights
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.unembedding_weights import unembedding_of
from raylens.engine.weights import decoder_map, decoder_neighbours, encoder_neighbours, feature_logits
from raylens.ids import HookPoint


@pytest.fixture
def sae(sae_folders: dict[str, Path]) -> LoadedSae:
    return load_sae(sae_folders["topk"])


@pytest.mark.parametrize("block", [1 << 26, 700], ids=["one block", "many blocks"])
def test_logits_are_the_decoder_through_norm_and_unembedding(
    loaded: LoadedModel, sae: LoadedSae, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", block)
    table = feature_logits(unembedding_of(loaded), sae, k=5)
    assert table.schema == schema.LOGITS
    state = loaded.model.state_dict()
    decoder = sae.sae.W_dec.detach().double()
    by_hand = {
        "llama": lambda: decoder * state["model.norm.weight"],
        "gpt2": lambda: (decoder - decoder.mean(-1, keepdim=True)) * state["transformer.ln_f.weight"],
        "gemma2": lambda: decoder * (1 + state["model.norm.weight"]),
    }
    effect = by_hand[loaded.name.rpartition("-")[2]]() @ state["lm_head.weight"].double().T
    rows = table.to_pylist()
    assert [row["feature"] for row in rows] == [f for f in range(128) for _ in range(10)]
    assert [(row["sign"], row["rank"]) for row in rows[:10]] == [(s, r) for s in ("top", "bottom") for r in range(5)]
    for row in rows:
        logits = effect[row["feature"]]
        want = logits.sort(descending=row["sign"] == "top").values[row["rank"]].item()
        assert row["logit"] == pytest.approx(want, rel=1e-4, abs=1e-4)
        assert row["logit"] == pytest.approx(logits[row["token_id"]].item(), rel=1e-4, abs=1e-4)
    names = {row["token_id"]: row["token"] for row in rows}
    assert names == dict(zip(names, token_strings(loaded.tokenizer, list(names)), strict=True))


@pytest.mark.parametrize(("hook", "d_in"), [("z.1", 32), ("mlp_act.0", 48), ("resid_post.1", 48)])
def test_logits_exist_only_where_the_sae_writes_to_the_residual_stream(
    llama: LoadedModel, tmp_path: Path, make_sae: Callable[..., Any], hook: str, d_in: int
) -> None:
    make_sae("topk", d_in).save_model(tmp_path)
    table = feature_logits(unembedding_of(llama), load_sae(tmp_path, hook=HookPoint.parse(hook)))
    assert (len(table), table.schema) == (0, schema.LOGITS)


@pytest.mark.parametrize("block", [1 << 26, 700], ids=["one block", "many blocks"])
@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_neighbours_are_the_largest_cosines(
    sae: LoadedSae, side: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", block)
    table = decoder_neighbours(sae, k=4) if side == "decoder" else encoder_neighbours(sae, k=4)
    assert table.schema == schema.NEIGHBOURS
    rows = (sae.sae.W_dec if side == "decoder" else sae.sae.W_enc.T).detach().double()
    cosine = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).fill_diagonal_(-2)
    for row in table.to_pylist():
        want = cosine[row["feature"]].sort(descending=True)
        assert row["neighbour"] == want.indices[row["rank"]].item()
        assert row["cosine"] == pytest.approx(want.values[row["rank"]].item(), abs=1e-5)
    assert len(decoder_neighbours(sae, k=500)) == 128 * 127


def test_a_latent_without_direction_has_no_similar_one(sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["standard"])
    sae.sae.W_dec[5] = 0
    table = decoder_neighbours(sae, k=3).filter(pc.field("feature") == 5)
    assert table["cosine"].to_pylist() == [0.0] * 3
    assert len(decoder_map(sae)) == 128


def test_the_map_is_the_same_for_the_same_seed_and_keeps_like_with_like(
    tmp_path: Path, make_sae: Callable[..., Any]
) -> None:
    sae = make_sae("topk", d_sae=64)
    with torch.no_grad():  # two tight bundles of directions
        sae.W_dec.copy_(torch.randn(2, 32).repeat_interleave(32, 0) + 0.05 * torch.randn(64, 32))
    sae.save_model(tmp_path)
    loaded = load_sae(tmp_path)
    first, again = decoder_map(loaded, seed=1), decoder_map(loaded, seed=1)
    assert first.schema == schema.MAP
    assert first.equals(again)
    place = np.stack([first["x"].to_numpy(), first["y"].to_numpy()], axis=1)
    assert np.isfinite(place).all()
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 32 == np.arange(64) // 32).all()


def test_latents_that_are_near_stay_near() -> None:
    loaded = load_sae("raylens-pico-res/layer_1", device="cpu")
    table = decoder_map(loaded)
    place = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    rows = torch.nn.functional.normalize(loaded.sae.W_dec.detach(), dim=-1).numpy()
    near, shown = (
        NearestNeighbors(n_neighbors=11).fit(points).kneighbors(points, return_distance=False)[:, 1:]
        for points in (rows, place)
    )
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, shown, strict=True)])
    assert kept > 0.15  # by chance 0.005
    span = np.linalg.norm(place - np.median(place, axis=0), axis=1)
    assert span.max() < 4 * np.median(span)  # none is flung away, which would leave the others a dot


def test_wide_saes_get_a_map_by_principal_components(sae: LoadedSae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAP_BY_TSNE", 100)
    table = decoder_map(sae)
    rows = torch.nn.functional.normalize(sae.sae.W_dec.detach(), dim=-1).double()
    _, _, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    want = ((rows - rows.mean(0)) @ axes[:2].T).numpy()
    got = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=0.05)
