"""Each format read from files written by hand, against what its makers' own code computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raylens.engine.encode import encode_sparse
from raylens.engine.saes import LoadedSae, describe_sae, load_sae
from raylens.errors import DamagedFileError, InputError
from raylens.ids import HookPoint

D_IN, D_SAE, K = 16, 48, 5
ACTS = torch.randn(25, D_IN, generator=torch.Generator().manual_seed(9))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.4


def dense(sae: LoadedSae) -> Tensor:
    """What RayLens encodes, as a dense matrix."""
    found = encode_sparse(sae, ACTS)
    out = torch.zeros(len(ACTS), sae.d_sae)
    out[torch.from_numpy(found.token).long(), torch.from_numpy(found.feature).long()] = torch.from_numpy(
        found.activation
    )
    return out


def top(pre: Tensor, k: int = K) -> Tensor:
    values, features = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, features, values)


def write(
    folder: Path, config_name: str, config: dict[str, Any], weights_name: str, weights: dict[str, Tensor]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    if weights_name.endswith(".npz"):
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.items()}
        np.savez(folder / weights_name, **arrays)
    else:
        save_file(weights, folder / weights_name)
    return folder


def sparsify_weights() -> dict[str, Tensor]:
    return {
        "encoder.weight": random(D_SAE, D_IN),
        "encoder.bias": random(D_SAE),
        "W_dec": random(D_SAE, D_IN),
        "b_dec": random(D_IN),
    }


SPARSIFY = {"expansion_factor": 3, "num_latents": 0, "k": K, "normalize_decoder": True, "d_in": D_IN}


def test_sparsify(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "ctx_len": 512}))
    w = sparsify_weights()
    sae = load_sae(write(tmp_path / "layers.3", "cfg.json", SPARSIFY, "sae.safetensors", w))
    # sparsify: topk(relu(encoder(x - b_dec))), whatever normalize_decoder says.
    want = top((ACTS - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    torch.testing.assert_close(dense(sae), want)
    torch.testing.assert_close(sae.sae.decode(want), want @ w["W_dec"] + w["b_dec"])
    spec = sae.spec
    assert (spec.architecture, spec.d_in, spec.d_sae, spec.hook) == ("topk", D_IN, D_SAE, HookPoint("resid_post", 3))
    assert spec.model_name == "EleutherAI/pythia-70m"
    assert str(spec.id).startswith("local/layers.3-")


@pytest.mark.parametrize(
    ("folder", "hook"),
    [("h.2", "resid_post.2"), ("layers.4.mlp", "mlp_out.4"), ("gpt_neox.layers.1.attention", "attn_out.1"),
     ("embed_tokens", "embeddings")],
)  # fmt: skip
def test_sparsify_folders_name_modules(tmp_path: Path, folder: str, hook: str) -> None:
    path = write(tmp_path / folder, "cfg.json", SPARSIFY, "sae.safetensors", sparsify_weights())
    assert str(describe_sae(path).hook) == hook


@pytest.mark.parametrize("setting", ["transcode", "skip_connection", "signed", "gram_lookup"])
def test_sparsify_coders_of_another_kind_are_refused(tmp_path: Path, setting: str) -> None:
    path = write(tmp_path / "layers.1", "cfg.json", {**SPARSIFY, setting: True}, "sae.safetensors", sparsify_weights())
    with pytest.raises(InputError, match=setting):
        load_sae(path)


def gemma_weights() -> dict[str, Tensor]:
    return {
        "W_enc": random(D_IN, D_SAE),
        "W_dec": random(D_SAE, D_IN),
        "b_enc": random(D_SAE),
        "b_dec": random(D_IN),
        "threshold": random(D_SAE).abs(),
    }


def test_gemma_scope(tmp_path: Path) -> None:
    w = gemma_weights()
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_7" / "width_16k" / "average_l0_71"
    sae = load_sae(write(folder, "notes.json", {}, "params.npz", w))
    pre = ACTS @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(dense(sae), pre.relu() * (pre > w["threshold"]))
    assert (sae.spec.hook, sae.spec.model_name) == (HookPoint("resid_post", 7), "gemma-2-2b")
    assert load_sae(folder / "params.npz").id == sae.id


def test_gemma_scope_kinds_and_files_that_do_not_say(tmp_path: Path) -> None:
    w = gemma_weights()
    hooks = {"att": "z.7", "mlp": "mlp_out_post.7"}  # Gemma 2 norms what an MLP adds
    for kind, hook in hooks.items():
        path = write(tmp_path / f"gemma-scope-9b-it-{kind}" / "layer_7", "n.json", {}, "params.npz", w)
        assert str(describe_sae(path).hook) == hook
        assert describe_sae(path).model_name == "gemma-2-9b-it"
    silent = write(tmp_path / "unnamed", "n.json", {}, "params.npz", w)
    with pytest.raises(InputError, match="does not say which tensor"):
        load_sae(silent)
    named = load_sae(silent, hook=HookPoint("resid_post", 2), model_name="google/gemma-2-2b")
    assert (named.spec.hook, named.spec.model_name) == (HookPoint("resid_post", 2), "google/gemma-2-2b")


def dictionary_case(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """Weights under that class's names, and the activations its ``encode`` gives for ``ACTS``."""
    torch.manual_seed(4)
    encoder, bias, decoder, centre = random(D_SAE, D_IN), random(D_SAE), random(D_IN, D_SAE), random(D_IN)
    linear = {"encoder.weight": encoder, "encoder.bias": bias, "decoder.weight": decoder}
    norms = decoder.norm(dim=0)
    if kind == "AutoEncoder":
        return {**linear, "bias": centre}, ((ACTS - centre) @ encoder.T + bias).relu()
    if kind == "AutoEncoderNew":
        return {**linear, "decoder.bias": centre}, (ACTS @ encoder.T + bias).relu()
    if kind == "AutoEncoderTopK":
        extra = {"b_dec": centre, "k": torch.tensor(K), "threshold": torch.tensor(0.3)}
        return {**linear, **extra}, top((ACTS - centre) @ encoder.T + bias)
    if kind == "BatchTopKSAE":
        pre = ((ACTS - centre) @ encoder.T + bias).relu()
        extra = {"b_dec": centre, "k": torch.tensor(K), "threshold": torch.tensor(0.6)}
        return {**linear, **extra}, pre * (pre > 0.6)
    if kind == "MatryoshkaBatchTopKSAE":
        pre = ((ACTS - centre) @ encoder.T + bias).relu()
        w = {"W_enc": encoder.T.contiguous(), "b_enc": bias, "W_dec": decoder.T.contiguous(), "b_dec": centre}
        return {**w, "threshold": torch.tensor(0.6), "group_sizes": torch.tensor([8, 40])}, pre * (pre > 0.6)
    if kind == "GatedAutoEncoder":
        gate, mag, r_mag = random(D_SAE), random(D_SAE), random(D_SAE)
        x = (ACTS - centre) @ encoder.T
        w = {"encoder.weight": encoder, "decoder.weight": decoder, "decoder_bias": centre}
        want = (x + gate > 0) * (r_mag.exp() * x + mag).relu() * norms
        return {**w, "r_mag": r_mag, "gate_bias": gate, "mag_bias": mag}, want
    threshold = random(D_SAE).abs()
    pre = ACTS @ encoder.T + bias
    w = {"W_enc": encoder.T.contiguous(), "b_enc": bias, "W_dec": decoder.T.contiguous(), "b_dec": centre}
    return {**w, "threshold": threshold}, (pre * (pre > threshold)).relu() * norms


@pytest.mark.parametrize(
    "kind",
    ["AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "GatedAutoEncoder",
     "JumpReluAutoEncoder"],
)  # fmt: skip
def test_dictionary_learning(tmp_path: Path, kind: str) -> None:
    weights, want = dictionary_case(kind)
    trainer = {
        "dict_class": kind,
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 8,
        "lm_name": "google/gemma-2-2b",
    }
    config = {"trainer": {**trainer, "k": K, "submodule_name": "resid_post_layer_8"}, "buffer": {"ctx_len": 128}}
    sae = load_sae(write(tmp_path / "trainer_0", "config.json", config, "ae.safetensors", weights))
    torch.testing.assert_close(dense(sae), want, atol=1e-5, rtol=1e-5)
    assert (sae.spec.hook, sae.spec.model_name) == (HookPoint("resid_post", 8), "google/gemma-2-2b")


def test_pickles_are_refused_whatever_they_hold(tmp_path: Path) -> None:
    folder = tmp_path / "trainer_0"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save({"encoder.weight": random(4, 4)}, folder / "ae.pt")
    for path in (folder, folder / "ae.pt"):
        with pytest.raises(InputError, match="pickle") as caught:
            load_sae(path)
        assert "raylens convert" in caught.value.hint
    objects = tmp_path / "objects"
    objects.mkdir()
    np.savez(objects / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="Object arrays"):
        load_sae(objects, hook=HookPoint("resid_post", 1))


def test_folders_without_an_sae_say_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_sae(tmp_path)
    assert "sae_weights.safetensors" in caught.value.hint


def test_damaged_files_are_named(tmp_path: Path, sae_folders: dict[str, Path]) -> None:
    good = sae_folders["topk"]
    for name in ("cfg.json", "sae_weights.safetensors"):
        folder = tmp_path / f"damaged-{name}"
        folder.mkdir()
        for file in good.iterdir():
            content = file.read_bytes()
            (folder / file.name).write_bytes(content[: len(content) // 2] if file.name == name else content)
        with pytest.raises(DamagedFileError, match="damaged-"):
            load_sae(folder)
    folder = tmp_path / "npz"
    folder.mkdir()
    (folder / "params.npz").write_bytes(b"PK not an archive")
    with pytest.raises((DamagedFileError, InputError), match=r"params\.npz"):
        load_sae(folder)
    config = {"trainer": {"dict_class": "AutoEncoder"}}
    with pytest.raises(InputError, match="does not say 'activation_dim'"):
        load_sae(write(tmp_path / "d", "config.json", config, "ae.safetensors", {"encoder.weight": random(2, 2)}))


def test_files_of_two_saes_do_not_fit_together(tmp_path: Path, sae_folders: dict[str, Path]) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    config = json.loads((sae_folders["topk"] / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "d_sae": 64}))
    (folder / "sae_weights.safetensors").write_bytes((sae_folders["topk"] / "sae_weights.safetensors").read_bytes())
    with pytest.raises(InputError, match="do not fit"):
        load_sae(folder)
