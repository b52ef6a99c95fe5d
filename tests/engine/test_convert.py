"""Pickles become safetensors in a process of their own, and the result encodes as the pickle would have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from raylens.engine.convert import SaeFacts, convert
from raylens.engine.saes import load_sae
from raylens.engine.unpickle import unpickle
from raylens.errors import DamagedFileError, InputError, UnknownNameError

D_IN, D_SAE, K = 8, 24, 4
FACTS = SaeFacts(model="org/model", hook="resid_post.3")
Put = Callable[[str, Path, str], str]


def weights(seed: int = 0) -> dict[str, Tensor]:
    """A random SAE under the names of ``nn.Linear``: ``encoder.weight [d_sae, d_in]`` …"""
    torch.manual_seed(seed)
    return {
        "encoder.weight": torch.randn(D_SAE, D_IN),
        "encoder.bias": torch.randn(D_SAE),
        "decoder.weight": torch.randn(D_IN, D_SAE),
        "decoder.bias": torch.randn(D_IN),
    }


def save(path: Path, found: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(found, path)
    return path


ACTS = torch.randn(6, D_IN, generator=torch.Generator().manual_seed(1))


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_of_linear_layers_encodes_as_they_do(tmp_path: Path) -> None:
    w = weights()
    pickle = save(tmp_path / "in/sae.pth", {"state_dict": w, "optimizer": {"lr": 0.1}, "step": 7})
    made = convert(str(pickle), tmp_path / "new/out", FACTS)
    assert (made.kind, made.about["architecture"], made.about["hook"]) == ("sae", "standard", "resid_post.3")
    sae = load_sae(tmp_path / "new/out")
    assert (sae.spec.model_name, sae.spec.d_in, sae.spec.d_sae) == ("org/model", D_IN, D_SAE)
    torch.testing.assert_close(sae.sae.encode(ACTS), (ACTS @ w["encoder.weight"].T + w["encoder.bias"]).relu())
    want = sae.sae.encode(ACTS) @ w["decoder.weight"].T + w["decoder.bias"]
    torch.testing.assert_close(sae.sae.decode(sae.sae.encode(ACTS)), want)
    assert left_behind(tmp_path / "new") == ["out"]
    assert left_behind(tmp_path / "new/out") == ["cfg.json", "sae_weights.safetensors"]


def test_matrices_stored_output_first_and_what_a_sidecar_says(tmp_path: Path) -> None:
    w = weights(1)
    flat = {  # as Qwen Scope stores them, beside the settings file that older SAE trainers wrote
        "W_enc": w["encoder.weight"],
        "W_dec": w["decoder.weight"],
        "b_enc": w["encoder.bias"],
        "b_dec": w["decoder.bias"],
        "n_fired": torch.zeros(D_SAE),
    }
    pickle = save(tmp_path / "layer0.sae.pt", flat)
    (tmp_path / "layer0.sae_cfg.json").write_text(
        json.dumps({"act_name": "blocks.0.hook_mlp_out", "model_name": "gpt2-small", "apply_b_dec_to_input": True})
    )
    made = convert(str(pickle), tmp_path / "out", SaeFacts(k=K, subtract_bias=False))
    assert (made.skipped, made.about["architecture"]) == (("n_fired",), "topk")
    sae = load_sae(tmp_path / "out")
    assert (str(sae.spec.hook), sae.spec.model_name) == ("mlp_out.0", "gpt2-small")
    pre = ACTS @ w["encoder.weight"].T + w["encoder.bias"]
    top = pre.topk(K, dim=-1)
    want = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    got = sae.sae.encode(ACTS)
    torch.testing.assert_close(got.to_dense() if got.is_sparse else got, want)


def test_a_dictionary_learning_folder_stays_one(tmp_path: Path) -> None:
    w = weights(2)
    found = {"encoder.weight": w["encoder.weight"], "encoder.bias": w["encoder.bias"]}
    found |= {"decoder.weight": w["decoder.weight"], "bias": w["decoder.bias"]}
    save(tmp_path / "in/ae.pt", found)
    trainer = {"dict_class": "AutoEncoder", "activation_dim": D_IN, "dict_size": D_SAE, "layer": 8, "lm_name": "org/m"}
    (tmp_path / "in/config.json").write_text(json.dumps({"trainer": trainer}))
    with pytest.raises(InputError, match="says already what --hook would"):
        convert(str(tmp_path / "in"), tmp_path / "out", SaeFacts(hook="resid_post.1"))
    made = convert(str(tmp_path / "in"), tmp_path / "out")
    assert made.about["hook"] == "resid_post.8"
    pre = (ACTS - w["decoder.bias"]) @ w["encoder.weight"].T + w["encoder.bias"]
    torch.testing.assert_close(load_sae(tmp_path / "out").sae.encode(ACTS), pre.relu(), atol=1e-5, rtol=1e-5)


def test_a_release_that_sae_lens_unpickles(hub_cache: Put, tmp_path: Path) -> None:
    w = weights(3)
    save(tmp_path / "source/ae.pt", {**w, "bias": w["decoder.bias"]})
    trainer = {"dict_class": "AutoEncoder", "activation_dim": D_IN, "dict_size": D_SAE, "layer": 3, "lm_name": "org/m"}
    settings = {"trainer": {**trainer, "submodule_name": "resid_post_layer_3"}, "buffer": {"ctx_len": 64}}
    (tmp_path / "source/config.json").write_text(json.dumps(settings))
    hub_cache("andyrdt/saes-llama-3.1-8b-instruct", tmp_path / "source", "resid_post_layer_3/trainer_1")
    made = convert("llama-3.1-8b-instruct-andyrdt/resid_post_layer_3_trainer_1", tmp_path / "out")
    assert (made.about["hook"], made.about["d_sae"]) == ("resid_post.3", D_SAE)
    pre = (ACTS - w["decoder.bias"]) @ w["encoder.weight"].T + w["encoder.bias"]
    torch.testing.assert_close(load_sae(tmp_path / "out").sae.encode(ACTS), pre.relu(), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="is not published as a pickle"):
        convert("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", tmp_path / "none")
    assert left_behind(tmp_path) == ["hub", "out", "source"]


def test_a_model_folder_in_shards_gives_the_same_logits(
    model_folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLENS_TEST_PROOF", str(tmp_path / "proof"))
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    state = model.state_dict()
    folder = tmp_path / "old"
    folder.mkdir()
    for path in model_folders["llama"].iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    names = sorted(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, own in shards.items():
        save(folder / file, {name: state[name] for name in own})
    index = {"metadata": {}, "weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    save(folder / "training_args.bin", Opens())  # beside the weights, and never opened
    made = convert(str(folder), tmp_path / "new")
    assert (made.kind, made.about["d_model"]) == ("model", model.config.hidden_size)
    assert not list((tmp_path / "new").glob("*.bin"))
    assert not (tmp_path / "proof").exists()
    ids = torch.arange(5)[None]
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "new", use_safetensors=True)
    assert torch.equal(model(ids).logits, other(ids).logits)


class Opens:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (os.environ["RAYLENS_TEST_PROOF"], "w")


def test_what_would_run_code_is_refused_and_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_TEST_PROOF", str(tmp_path / "proof"))
    pickle = save(tmp_path / "evil.pt", {**weights(), "extra": Opens()})
    with pytest.raises(InputError, match="holds more than tensors"):
        convert(str(pickle), tmp_path / "out", FACTS)
    assert left_behind(tmp_path) == ["evil.pt"]
    torch.load(pickle, weights_only=False)
    assert (tmp_path / "proof").exists()  # the file does what this test claims


def test_the_child_is_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        f"import json, os; open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pickle = save(tmp_path / "w.pt", {"a": torch.ones(2), "b": {"c": torch.zeros(3)}, "note": "text"})
    assert unpickle(pickle, tmp_path / "w.safetensors") == ["note"]
    assert {name: tuple(t.shape) for name, t in load_file(tmp_path / "w.safetensors").items()} == {
        "a": (2,),
        "b.c": (3,),
    }
    environment = json.loads(seen.read_text())
    assert "secret" not in json.dumps(environment)
    assert environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", DamagedFileError, "cannot be read"),
        (b"<html>not found</html>\n" * 40, DamagedFileError, "cannot be read"),
        ({"step": 3}, InputError, "holds no tensors"),
        ({"W_enc": torch.ones(4, 4)}, InputError, "lacks W_dec, b_enc, b_dec"),
        ({**weights(), "decoder.bias": torch.ones(D_IN + 1)}, InputError, r"W_enc of .* is \[8, 24\]"),
        ({**weights(), "encoder.bias": torch.full((D_SAE,), torch.nan)}, InputError, "not all finite"),
    ],
)  # fmt: skip
def test_files_that_hold_no_sae(tmp_path: Path, content: Any, kind: type[Exception], says: str) -> None:
    pickle = tmp_path / "sae.pt"
    if isinstance(content, bytes):
        pickle.write_bytes(content)
    else:
        save(pickle, content)
    with pytest.raises(kind, match=says):
        convert(str(pickle), tmp_path / "out", FACTS)
    assert left_behind(tmp_path) == ["sae.pt"]


def test_what_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    pickle = save(tmp_path / "full/sae.pt", weights())
    refused = [
        (str(pickle), tmp_path / "full", "exists already"),
        (str(tmp_path / "nowhere.pt"), tmp_path / "out", "there is no"),
        ("no-such-release/x", tmp_path / "out", "unknown SAE"),
        (str(tmp_path), tmp_path / "out", "holds no pickle"),
    ]
    for source, out, says in refused:
        with pytest.raises((InputError, UnknownNameError), match=says):
            convert(source, out, FACTS)
    save(tmp_path / "full/other.pt", weights())
    with pytest.raises(InputError, match=r"holds 2 pickles \(other.pt, sae.pt\)"):
        convert(str(tmp_path / "full"), tmp_path / "out", FACTS)


def test_facts_that_are_missing_or_contradict(tmp_path: Path) -> None:
    pickle = str(save(tmp_path / "sae.pt", weights()))
    refused = [
        (SaeFacts(hook="resid_post.1"), "add --model,"),
        (SaeFacts(), "add --model and --hook"),
        (SaeFacts("m", "layer 3"), "is not a hook point"),
        (SaeFacts("m", "resid_post.1", "topk"), "nothing says its k"),
        (SaeFacts("m", "resid_post.1", "jumprelu"), "has no threshold"),
        (SaeFacts("m", "resid_post.1", "gated"), "cannot be converted"),
    ]
    for facts, says in refused:
        with pytest.raises(InputError) as caught:
            convert(pickle, tmp_path / "out", facts)
        assert says in str(caught.value)
    assert left_behind(tmp_path) == ["sae.pt"]
