"""Exported patches: what plain peft makes of them in a process of its own, merging, folders that are not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fine_tunes import make_adapter
from raylens.api.edits import Direction, Edit, FeatureMax, PatchSpec
from raylens.engine import fingerprint
from raylens.engine.candidates import load_candidate, locate_candidate
from raylens.engine.load import LoadedModel
from raylens.engine.saes import load_sae
from raylens.engine.weight_difference import weight_differences
from raylens.errors import InputError, MismatchError
from raylens.workbench.edits import edited
from raylens.workbench.patch_adapter import read_patch
from raylens.workbench.patch_export import ExportSettings, Patchable, export_patch, loaded_edits
from raylens.workbench.patch_import import import_patch
from raylens.workbench.patch_text import read_text
from raylens.workbench.patch_verify import verify_patch
from small_patches import logits, of_feature, settings, steering, vector

__all__ = ("settings",)

# Nothing of RayLens: what a colleague has.
ALONE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
told = json.loads(sys.argv[1])
for number, (base, adapter, windows, out) in enumerate(told):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.inference_mode():
        np.savez(out, *[model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy() for ids in windows])
assert not [name for name in sys.modules if name.split(".")[0].startswith("raylens")]
"""


def as_adapter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the weights, and the record's fingerprint with them."""
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    told = json.loads((folder / "patch.json").read_text())
    told["weights"] = fingerprint.of_files([folder / "adapter_config.json", folder / "adapter_model.safetensors"])
    (folder / "patch.json").write_text(json.dumps(told))


# A3.07: an exported adapter against the hooks it stands for, loaded by plain peft where there is no RayLens.
def test_peft_alone_gives_what_is_stated(
    loaded_models: dict[str, LoadedModel],
    model_folders: dict[str, Path],
    sae_folders: dict[str, Path],
    tmp_path: Path,
    settings: ExportSettings,
) -> None:
    sae = load_sae(sae_folders["standard"])
    saes = {str(sae.id): sae}
    asked = {
        "steered": ("llama", steering()),  # a bias, where the model has none
        "projected": ("gpt2", steering("mlp_out.1", method="project_out")),  # transposed weights, with biases
        "ablated": ("gemma2", of_feature(sae, method="ablate")),  # norms after writers: no exact form
        "untied": ("llama", steering("resid_post.2", method="project_out")),
    }
    told, expected, records = [], [], {}
    for name, (architecture, spec) in asked.items():
        loaded = loaded_models[architecture]
        form = "embeddings" if name == "untied" else None
        given = ExportSettings(settings.text, settings.fit_text, settings.n_tokens, settings.ctx_len, form=form)
        record = export_patch(Patchable(loaded, loaded), spec, saes, None, tmp_path / name, given)
        records[name] = record
        windows = [list(map(int, one.token_ids)) for one in read_text(loaded, settings.text, 500, 64).windows]
        edits, _ = loaded_edits(loaded, record.spec, saes, None, record.maxima)
        with edited(loaded, edits):
            expected.append([logits(loaded.model, [ids])[0].double().log_softmax(-1) for ids in windows])
        told.append([str(model_folders[architecture]), str(tmp_path / name), windows, str(tmp_path / f"{name}.npz")])
        changed = verify_patch(Patchable(loaded, loaded), record, tmp_path / name, saes, None)
        assert changed.worse == ""
        assert changed.figures.kl.value == pytest.approx(record.figures.kl.value, rel=0.01, abs=1e-5)
    command = [sys.executable, "-c", ALONE, json.dumps(told)]
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for name, rows in zip(asked, expected, strict=True):
        record, kl = records[name], []
        with np.load(tmp_path / f"{name}.npz") as file:
            found = [torch.from_numpy(file[key]) for key in file.files]
        special = loaded_models[asked[name][0]].special_ids
        for (ids, hooked), other in zip(zip(told[list(asked).index(name)][2], rows, strict=True), found, strict=True):
            each = (hooked.exp() * (hooked - other)).sum(-1)
            kl += [each[at] for at in range(len(ids) - 1) if not {ids[at], ids[at + 1]} & special]
        assert float(torch.stack(kl).mean()) == pytest.approx(record.figures.kl.value, rel=0.02, abs=1e-4)
        assert record.exact == (name in ("steered", "projected"))
        assert record.figures.kl.value < (1e-5 if record.exact else 10)
        assert bool(record.why_not) != record.exact
    assert records["steered"].figures.biased
    assert records["ablated"].fitted_to in (None, settings.fit_text)


def test_an_exported_patch_is_a_candidate_like_any_other(
    loaded_models: dict[str, LoadedModel], tmp_path: Path, settings: ExportSettings
) -> None:
    """``raylens audit run --candidate``: biases are merged too, into modules that have none (Llama) or one (GPT-2)."""
    for architecture in ("llama", "gpt2"):
        loaded = loaded_models[architecture]
        out = tmp_path / architecture
        spec = PatchSpec(
            edits=(Edit(direction="d", unit="activation", strength=2.0), Edit(direction="e", method="project_out")),
            directions=(
                Direction(name="d", hook="resid_post.1", vector=vector()),
                Direction(name="e", hook="mlp_out.1", vector=vector(seed=4)),
            ),
        )
        record = export_patch(Patchable(loaded, loaded), spec, {}, None, out, settings)
        candidate = load_candidate(str(out), loaded)
        edits, _ = loaded_edits(loaded, record.spec, {}, None, {})
        with edited(loaded, edits):
            expected = logits(loaded.model)
        torch.testing.assert_close(logits(candidate.model), expected, atol=2e-4, rtol=1e-4)
        name = {"llama": "model.layers.1.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_proj"}[architecture]
        differences = {one.name: one for one in weight_differences(loaded, candidate)}
        assert sorted(differences) == [f"{name}.bias", f"{name}.weight"]
        if architecture == "llama":
            unit = torch.tensor(vector()) / torch.tensor(vector()).norm()
            torch.testing.assert_close(differences[f"{name}.bias"].delta, 2.0 * unit)
        assert (
            not hasattr(dict(loaded.model.named_modules())["model.layers.0.mlp.up_proj"], "lora_A")
            if (architecture == "llama")
            else True
        )


@pytest.mark.parametrize("included", [True, False])
def test_a_patch_of_a_fine_tune(
    llama: LoadedModel, model_folders: dict[str, Path], tmp_path: Path, settings: ExportSettings, included: bool
) -> None:
    """Its own adapter and the patch in one, or the patch alone, to be loaded beside it."""
    make_adapter(
        tmp_path / "tune",
        base=model_folders["llama"],
        scale=0.3,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"q_proj": 2},
        use_rslora=True,
    )
    candidate, tuned = (
        locate_candidate(str(tmp_path / "tune"), base=llama.info),
        load_candidate(str(tmp_path / "tune"), llama),
    )
    subject = Patchable(tuned, llama, candidate, included)
    out = tmp_path / "out"
    record = export_patch(subject, steering("mlp_out.1", method="project_out"), {}, None, out, settings)
    assert record.adapter is not None
    assert (record.adapter.included, record.model.name) == (included, llama.name)
    edits, _ = loaded_edits(tuned, record.spec, {}, None, {})
    with edited(tuned, edits):
        expected = logits(tuned.model)
    if included:
        torch.testing.assert_close(logits(load_candidate(str(out), llama).model), expected, atol=2e-4, rtol=1e-4)
    else:
        base = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
        both: Any = PeftModel.from_pretrained(base, str(tmp_path / "tune"), "tune")
        both.load_adapter(str(out), "patch")
        both.base_model.set_adapter(["tune", "patch"])
        torch.testing.assert_close(logits(both.eval()), expected, atol=2e-4, rtol=1e-4)
    assert verify_patch(subject, record, out, {}, None).worse == ""
    with pytest.raises(MismatchError, match=r"with the adapter .*tune.*, and none is given"):
        verify_patch(Patchable(llama, llama), record, out, {}, None)


def test_a_fine_tune_that_is_more_than_matrices_is_not_included(
    llama: LoadedModel, model_folders: dict[str, Path], tmp_path: Path, settings: ExportSettings
) -> None:
    make_adapter(tmp_path / "tune", base=model_folders["llama"], target_modules=["down_proj"], use_dora=True)
    tuned = load_candidate(str(tmp_path / "tune"), llama)
    candidate = locate_candidate(str(tmp_path / "tune"), base=llama.info)
    with pytest.raises(InputError, match=r"changes model.layers.0.mlp.down_proj by more than two matrices") as caught:
        export_patch(Patchable(tuned, llama, candidate), steering(), {}, None, tmp_path / "out", settings)
    assert "--patch-only" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_what_is_worse_than_stated_is_said(llama: LoadedModel, tmp_path: Path, settings: ExportSettings) -> None:
    subject, out = Patchable(llama, llama), tmp_path / "out"
    before = logits(llama.model)
    record = export_patch(subject, steering(), {}, None, out, settings)
    good = verify_patch(subject, record, out, {}, None)
    assert (good.worse, good.measured.n_documents) == ("", 3)
    assert torch.equal(logits(llama.model), before), "the adapter is taken off again"
    as_adapter(out, lambda tensors: [tensor.mul_(0.5) for tensor in tensors.values()])
    record, _ = read_patch(out)
    found = verify_patch(subject, record, out, {}, None)
    assert "diverges from its hooks by" in found.worse
    assert found.figures.missed == pytest.approx(0.5, abs=0.01)


def test_strengths_in_maxima_are_kept(
    llama: LoadedModel, sae_folders: dict[str, Path], tmp_path: Path, settings: ExportSettings
) -> None:
    sae = load_sae(sae_folders["standard"])
    saes, spec = {str(sae.id): sae}, of_feature(sae, method="add", strength=1.5)
    known = {f"{sae.id}/5": FeatureMax(value=4.0, source="cache x")}
    record = export_patch(Patchable(llama, llama), spec, saes, None, tmp_path / "out", settings, known)
    (edit,), _ = loaded_edits(llama, record.spec, saes, None, record.maxima)
    assert (edit.value, record.maxima) == (6.0, known)
    assert import_patch(tmp_path / "out").record == record
    assert record.saes == {str(sae.id): sae.fingerprint}
    other = {str(sae.id): load_sae(sae_folders["topk"])}
    with pytest.raises(MismatchError, match="is not the SAE that the patch was made with"):
        verify_patch(Patchable(llama, llama), record, tmp_path / "out", other, None)
