"""Weight projection against its definition: each matrix by name, each latent alone, random directions drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from torch import Tensor

from fine_tunes import changed, make_adapter, pico
from raylens.engine.candidates import load_candidate
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.weight_projection import deviations, weight_projection
from raylens.errors import MismatchError
from raylens.ids import HookPoint

# Of resid_post.1, of three layers: writers as [stream, …], readers as […, stream]; "T" where the file has it otherwise.
WRITERS = {
    "llama": [
        "model.embed_tokens.weight T",
        "model.layers.{}.self_attn.o_proj.weight",
        "model.layers.{}.mlp.down_proj.weight",
    ],
    "gpt2": [
        "transformer.wte.weight T",
        "transformer.h.{}.attn.c_proj.weight T",
        "transformer.h.{}.mlp.c_proj.weight T",
    ],
}
READERS = {
    "llama": [
        *(f"model.layers.{{}}.self_attn.{name}_proj.weight" for name in "qkv"),
        *(f"model.layers.{{}}.mlp.{name}_proj.weight" for name in ("gate", "up")),
    ],
    "gpt2": ["transformer.h.{}.attn.c_attn.weight T", "transformer.h.{}.mlp.c_fc.weight T"],
}
WRITERS["gemma2"], READERS["gemma2"] = WRITERS["llama"], READERS["llama"]


def names(patterns: list[str], layers: list[int]) -> list[str]:
    return list(dict.fromkeys(pattern.format(layer) for pattern in patterns for layer in layers))


def energies(delta: dict[str, Tensor], which: list[str], rows: Tensor, *, reads: bool, gains: Any = None) -> np.ndarray:
    """‖dᵀΔW‖² of each latent's unit direction, added up over matrices, one latent at a time."""
    found = []
    for row in rows.double():
        unit = row / row.norm()
        total = 0.0
        for name in which:
            matrix = delta[name.removesuffix(" T")].double()
            matrix = matrix.T if name.endswith(" T") else matrix
            if gains is not None and "embed" not in name:
                matrix = gains(name)[:, None].double() * matrix
            total += float((matrix @ unit if reads else unit @ matrix).square().sum())
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_energies_are_those_of_each_matrix_alone(
    architecture: str,
    loaded_models: dict[str, LoadedModel],
    model_folders: dict[str, Path],
    sae_folders: dict[str, Path],
) -> None:
    reference, sae = loaded_models[architecture], load_sae(sae_folders["jumprelu"])
    candidate = changed(model_folders[architecture])
    before, after = (dict(one.model.named_parameters()) for one in (reference, candidate))
    delta = {name: (after[name] - before[name]).detach() for name in before}

    def gains(name: str) -> Tensor:
        layer = name.split("layers.")[1][0]
        norm = "post_attention" if "o_proj" in name else "post_feedforward"
        return 1 + before[f"model.layers.{layer}.{norm}_layernorm.weight"].detach()

    found = weight_projection(reference, candidate, sae, k=10_000)
    writers, readers = names(WRITERS[architecture], [0, 1]), names(READERS[architecture], [2])
    assert (found.n_writers, found.n_readers) == (len(writers), len(readers))
    assert found.n_left_out == len(delta) - len(writers) - len(readers)
    with_gains = gains if architecture == "gemma2" else None
    for side, which, rows in (("writers", writers, sae.sae.W_dec), ("readers", readers, sae.sae.W_enc.T)):
        expected = energies(
            delta, which, rows, reads=side == "readers", gains=with_gains if side == "writers" else None
        )
        mean = energies(
            delta, which, torch.eye(32), reads=side == "readers", gains=with_gains if side == "writers" else None
        ).mean()
        mine = {one.index: one.times_random for one in found.top if one.side == side}
        np.testing.assert_allclose([mine[at] for at in sorted(mine)], (expected / mean)[sorted(mine)], rtol=1e-3)
    assert [one.deviations for one in found.top] == sorted((one.deviations for one in found.top), reverse=True)
    assert found.score == found.top[0].deviations


def test_a_random_direction_lies_as_far_off_as_it_should() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(24, 5, generator=generator) * torch.tensor([4.0, 2, 1, 1, 0.5])
    gram = matrix @ matrix.T
    directions = torch.nn.functional.normalize(torch.randn(200_000, 24, generator=generator), dim=1)
    found = deviations(((directions @ gram) * directions).sum(1), gram)
    assert float(found.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.std()) == pytest.approx(1, abs=0.01)
    even = torch.eye(24) * 3
    assert (deviations(torch.full((7,), 3.0), even) == 0).all()


def test_a_model_is_no_way_from_itself() -> None:
    found = weight_projection(pico(), pico(), load_sae("raylens-pico-res/layer_3"))
    assert (found.score, found.top, found.n_writers, found.n_readers) == (0.0, (), 0, 0)


@pytest.mark.parametrize(("side", "name"), [("writers", "2.mlp.down_proj"), ("readers", "6.mlp.up_proj")])
def test_a_planted_latent_stands_out_whatever_the_size_and_the_rest(side: str, name: str, tmp_path: Path) -> None:
    sae = load_sae("raylens-pico-res/layer_3")
    make_adapter(tmp_path / "a", scale=0.01)  # the rest of the fine-tune
    scores = []
    for scale in (1.0, 1e-3):
        candidate = load_candidate(str(tmp_path / "a"), pico())
        matrix = candidate.model.get_parameter(f"model.layers.{name}.weight")
        latent = (sae.sae.W_dec if side == "writers" else sae.sae.W_enc.T)[77]
        unit, other = latent / latent.norm(), torch.randn(768, generator=torch.Generator().manual_seed(1))
        plain = weight_projection(pico(), candidate, sae)
        with torch.no_grad():
            matrix.add_(0.02 * (torch.outer(unit, other) if side == "writers" else torch.outer(other, unit)))
            for parameter, original in zip(candidate.model.parameters(), pico().model.parameters(), strict=True):
                parameter.copy_(original + scale * (parameter - original))
        found = weight_projection(pico(), candidate, sae, k=3)
        assert (found.top[0].index, found.top[0].side, len(found.top)) == (77, side, 3)
        assert found.score > 2 * plain.score
        scores.append(found.score)
    assert scores[0] == pytest.approx(scores[1], rel=0.02)


def test_only_what_comes_before_or_after_the_hook_counts(
    llama: LoadedModel, model_folders: dict[str, Path], make_sae: Callable[..., SAE[Any]]
) -> None:
    candidate = changed(model_folders["llama"])
    loaded = load_sae_at(make_sae(kind="standard"), model_folders, HookPoint("resid_post", 1))

    def counts(point: str) -> tuple[int, int]:
        found = weight_projection(llama, candidate, at(loaded, point))
        return found.n_writers, found.n_readers

    assert counts("embeddings") == counts("resid_pre.0") == (1, 15)
    assert counts("resid_mid.0") == (2, 12)
    assert counts("resid_post.0") == counts("resid_pre.1") == counts("path.model.layers.0") == (3, 10)
    assert counts("resid_post.2") == (7, 0)
    assert counts("attn_out.1") == (1, 7)
    assert counts("mlp_out.1") == (1, 5)
    for point in ("z.1", "path.model.layers.0.mlp.up_proj", "path.model.layers.1#1", "final_norm"):
        with pytest.raises(MismatchError, match="is not a point of the residual stream"):
            counts(point)


def load_sae_at(sae: SAE[Any], folders: dict[str, Path], hook: HookPoint) -> LoadedSae:
    folder = folders["llama"].parent / f"sae-{hook}"
    sae.save_model(folder)
    return load_sae(folder)


def at(sae: LoadedSae, point: str) -> LoadedSae:
    return dataclasses.replace(sae, spec=dataclasses.replace(sae.spec, hook=HookPoint.parse(point)))


def test_an_sae_of_another_width_is_refused(sae_folders: dict[str, Path]) -> None:
    with pytest.raises(MismatchError, match="reads vectors of width 32, and the stream of raylens/pico is 128 wide"):
        weight_projection(pico(), load_model("raylens/pico", device="cpu"), load_sae(sae_folders["topk"]))
