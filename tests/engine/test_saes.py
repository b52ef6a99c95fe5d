"""Finding, describing and setting up SAEs: folders, sae-lens's directory, hub folders, the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE
from safetensors.torch import save_file

from raylens.bundle.paths import BundledSae, list_saes
from raylens.engine.encode import encode_sparse
from raylens.engine.saes import describe_sae, load_sae
from raylens.errors import HubUnreachableError, InputError, UnknownNameError
from raylens.ids import HookPoint, SaeId

Put = Callable[..., str]


def test_a_folder_is_described_without_its_weights_as_it_is_loaded(sae_folder: Path) -> None:
    loaded = load_sae(sae_folder)
    assert describe_sae(sae_folder) == loaded.spec
    assert str(loaded.id) == f"local/{sae_folder.name}-{loaded.fingerprint[:8]}"
    assert (loaded.spec.hook, loaded.spec.d_in, loaded.spec.d_sae) == (HookPoint("resid_post", 1), 32, 128)
    assert (loaded.spec.model_name, loaded.spec.prepend_bos, loaded.spec.dtype) == ("tiny", True, "float32")
    assert not any(p.requires_grad for p in loaded.sae.parameters())
    torch.testing.assert_close(loaded.decoder_norms, loaded.sae.W_dec.norm(dim=-1))


def test_identity_is_content_not_place(sae_folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(sae_folders["topk"], tmp_path / "elsewhere" / sae_folders["topk"].name)
    assert describe_sae(copy) == describe_sae(str(sae_folders["topk"]))
    config = json.loads((copy / "cfg.json").read_text())
    (copy / "cfg.json").write_text(json.dumps({**config, "k": 9}))
    assert describe_sae(copy).fingerprint != describe_sae(sae_folders["topk"]).fingerprint


def test_a_checkpoint_of_batchtopk_training_runs_as_jumprelu(
    tmp_path: Path, make_sae: Callable[..., Any], save_sae: Callable[..., Path]
) -> None:
    training = make_sae("batchtopk")
    assert isinstance(training, BatchTopKTrainingSAE)
    training.save_model(tmp_path / "checkpoint")
    sae = load_sae(tmp_path / "checkpoint")
    want = SAE.load_from_disk(save_sae(training, tmp_path / "saved"))
    acts = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sae.sae.encode(acts), want.encode(acts))
    assert sae.sae.cfg.architecture() == "jumprelu"
    assert describe_sae(tmp_path / "checkpoint").architecture == "batchtopk"


def test_configs_from_before_sae_lens_6(tmp_path: Path, make_sae: Callable[..., Any]) -> None:
    make_sae("topk", k=6).save_model(tmp_path)
    old = {
        "hook_point": "blocks.2.hook_resid_pre",
        "model_name": "gpt2-small",
        "d_in": 32,
        "d_sae": 128,
        "dtype": "torch.float32",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 6},
        "apply_b_dec_to_input": True,
        "prepend_bos": False,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    sae = load_sae(tmp_path)
    assert (sae.spec.hook, sae.spec.architecture) == (HookPoint("resid_pre", 2), "topk")
    assert (sae.spec.model_name, sae.spec.prepend_bos, sae.spec.dtype) == ("gpt2-small", False, "float32")
    found = encode_sparse(sae, torch.randn(30, 32))
    assert np.bincount(found.token, minlength=30).max() <= 6


def test_heads_come_flat_from_a_tap(tmp_path: Path, make_sae: Callable[..., Any]) -> None:
    make_sae("standard", reshape_activations="none").save_model(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config |= {"reshape_activations": "hook_z"}
    config["metadata"]["hook_name"] = "blocks.1.attn.hook_z"
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    sae, theirs = load_sae(tmp_path), SAE.load_from_disk(tmp_path)
    acts = torch.randn(6, 32)
    assert sae.spec.hook == HookPoint("z", 1)
    torch.testing.assert_close(sae.sae.encode(acts), theirs.encode(acts.view(6, 4, 8)))


@pytest.mark.filterwarnings("ignore:[\\s\\S]*model_from_pretrained_kwargs")
def test_saes_of_a_centred_model_are_given_centred_activations(tmp_path: Path, make_sae: Callable[..., Any]) -> None:
    given = {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}
    sae = make_sae("standard", **given)
    sae.save_model(tmp_path)
    loaded = load_sae(tmp_path)
    acts = torch.randn(10, 32) + 5
    centred = acts - acts.mean(-1, keepdim=True)
    torch.testing.assert_close(loaded.sae.encode(acts), sae.encode(centred))
    want = sae.decode(sae.encode(centred)) + acts.mean(-1, keepdim=True)
    torch.testing.assert_close(loaded.sae(acts), want)


@pytest.mark.parametrize("architecture", ["temporal", "abstopk", "transcoder", "something_new"])
def test_architectures_that_cannot_be_encoded_with(
    tmp_path: Path, architecture: str, sae_folders: dict[str, Path]
) -> None:
    folder = shutil.copytree(sae_folders["topk"], tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "architecture": architecture}))
    with pytest.raises(InputError, match=architecture) as caught:
        load_sae(folder)
    assert "jumprelu" in caught.value.hint


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("./no/such", "there is no folder"),
        ("raylens-pico-res/layer_99", "unknown SAE"),
        ("no-such-release", "is not an SAE id"),
        ("no-such-release/layer_1", "unknown SAE"),
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_70", "average_l0_71"),
    ],
)
def test_unknown_saes_say_what_exists(hub_cache: Put, ref: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sae(ref)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "ref",
    [
        "gpt2-small-res-jb/blocks.0.hook_resid_pre",
        "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
        "gemma-scope-2-1b-it-res/layer_13_width_16k_l0_medium",  # reaches for the network whatever is set
        "EleutherAI/sae-llama-3-8b-32x/layers.10",
    ],
)
def test_no_hub_and_nothing_cached(hub_cache: Put, ref: str) -> None:
    for call in (load_sae, describe_sae):
        with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE") as caught:
            call(ref)
        assert "local folder" in caught.value.hint


@pytest.mark.parametrize(
    "ref",
    ["goodfire-llama-3.1-8b-instruct/layer_19", "qwen-scope-3-1.7b-base-w32k-l50/layer0",
     "llama-3.1-8b-instruct-andyrdt/resid_post_layer_3_trainer_1"],
)  # fmt: skip
def test_releases_that_are_pickled_are_refused_before_any_download(hub_cache: Put, ref: str) -> None:
    with pytest.raises(InputError, match="pickle") as caught:
        load_sae(ref)
    assert "raylens convert" in caught.value.hint


@pytest.mark.parametrize(
    "ref", ["mwhanna-qwen3-4b-transcoders/layer_0", "temporal-sae-gemma-2-2b/blocks.12.hook_resid_post"]
)
def test_releases_of_another_kind_are_refused(hub_cache: Put, ref: str) -> None:
    with pytest.raises(InputError, match="cannot encode with"):
        describe_sae(ref)


def test_a_release_that_was_fetched_in_part(hub_cache: Put, tmp_path: Path, sae_folders: dict[str, Path]) -> None:
    (tmp_path / "part").mkdir()
    shutil.copy(sae_folders["topk"] / "cfg.json", tmp_path / "part")
    hub_cache(
        "jbloom/Gemma-2b-Residual-Stream-SAEs", tmp_path / "part", "gemma_2b_blocks.0.hook_resid_post_16384_anthropic"
    )
    ref = "gemma-2b-res-jb/blocks.0.hook_resid_post"
    assert describe_sae(ref).architecture == "topk"
    with pytest.raises(HubUnreachableError, match="not whole"):
        load_sae(ref)


def test_a_release_from_the_cache(hub_cache: Put, tmp_path: Path, make_sae: Callable[..., Any]) -> None:
    sae = make_sae("standard")
    sae.save_model(tmp_path / "sae")
    hub_cache(
        "jbloom/Gemma-2b-Residual-Stream-SAEs", tmp_path / "sae", "gemma_2b_blocks.0.hook_resid_post_16384_anthropic"
    )
    ref = "gemma-2b-res-jb/blocks.0.hook_resid_post"
    loaded = load_sae(ref)
    acts = torch.randn(5, 32)
    torch.testing.assert_close(loaded.sae.encode(acts), sae.encode(acts))
    assert describe_sae(ref) == loaded.spec
    assert loaded.id == SaeId.parse(ref)
    assert loaded.spec.neuronpedia_id == "gemma-2b/0-res-jb"


def test_gemma_scope_2_from_the_cache_never_asks_the_network(hub_cache: Put, tmp_path: Path) -> None:
    weights = {
        "w_enc": torch.randn(8, 24),
        "w_dec": torch.randn(24, 8),
        "b_enc": torch.randn(24),
        "b_dec": torch.randn(8),
        "threshold": torch.rand(24),
    }
    save_file(weights, tmp_path / "params.safetensors")
    source = tmp_path / "source"
    source.mkdir()
    shutil.move(tmp_path / "params.safetensors", source)
    hub_cache("google/gemma-scope-2-1b-it", source, "resid_post/layer_13_width_16k_l0_medium")
    sae = load_sae("gemma-scope-2-1b-it-res/layer_13_width_16k_l0_medium")
    acts = torch.randn(4, 8)
    pre = acts @ weights["w_enc"] + weights["b_enc"]
    torch.testing.assert_close(sae.sae.encode(acts), pre.relu() * (pre > weights["threshold"]))
    assert (sae.spec.hook, sae.spec.model_name) == (HookPoint("resid_post", 13), "google/gemma-3-1b-it")
    assert describe_sae("gemma-scope-2-1b-it-res/layer_13_width_16k_l0_medium") == sae.spec


def test_a_folder_of_a_hub_repository(hub_cache: Put, sae_folders: dict[str, Path]) -> None:
    hub_cache("someone/their-saes", sae_folders["jumprelu"], "layers/1")
    sae = load_sae("someone/their-saes/layers/1")
    assert str(sae.id) == "someone/their-saes/layers/1"
    assert describe_sae("someone/their-saes/layers/1") == sae.spec
    with pytest.raises(UnknownNameError, match=r"has no layers/2"):
        load_sae("someone/their-saes/layers/2")


@pytest.mark.parametrize("entry", list_saes(), ids=lambda entry: str(entry.id))
def test_the_bundled_saes(entry: BundledSae) -> None:
    sae = load_sae(str(entry.id))
    assert (sae.id, sae.spec.hook, sae.d_sae) == (entry.id, entry.hook, entry.width)
    assert sae.spec.model_name == entry.model
    assert describe_sae(str(entry.id)) == sae.spec


def test_the_config_must_fit_the_call(sae_folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="dtype"):
        load_sae(sae_folders["topk"], dtype="int8")
    other = load_sae(sae_folders["topk"], hook=HookPoint("resid_pre", 0), model_name="mine", dtype="bfloat16")
    assert (other.spec.hook, other.spec.model_name) == (HookPoint("resid_pre", 0), "mine")
    assert other.sae.W_dec.dtype == torch.bfloat16
