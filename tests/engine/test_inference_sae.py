"""``InferenceSae`` against sae-lens's own classes, read from the same folder: equal bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylens.engine.inference_sae import InferenceSae, read_inference_sae
from raylens.engine.sae_formats import open_folder
from raylens.engine.saes import load_sae
from raylens.errors import InputError

KINDS = ("standard", "topk", "jumprelu", "gated")
NORMS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")


def theirs(folder: Path, dtype: str = "float32") -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder, "cpu", dtype)


def light(folder: Path, dtype: str = "float32") -> InferenceSae:
    found = read_inference_sae(open_folder(folder), "cpu", dtype)
    assert found is not None
    return found


def inputs(rows: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed)) * 2


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS), norm=st.sampled_from(NORMS), subtract=st.booleans(), rescale=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]), rows=st.integers(1, 20), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_it_encodes_and_decodes_as_sae_lens_does(
    kind: str, norm: str, subtract: bool, rescale: bool, dtype: str, rows: int, seed: int,
    make_sae: Callable[..., Any], save_sae: Callable[[Any, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    given = {"rescale_acts_by_decoder_norm": rescale} if kind == "topk" else {}
    made = make_sae(kind, normalize_activations=norm, apply_b_dec_to_input=subtract, **given)
    folder = save_sae(made, tmp_path_factory.mktemp("sae") / kind)
    mine, oracle, x = light(folder, dtype), theirs(folder, dtype), inputs(rows, seed)
    with torch.no_grad():
        assert torch.equal(mine.process_sae_in(x), oracle.process_sae_in(x))
        encoded = mine.encode(x)
        assert torch.equal(encoded, oracle.encode(x))
        assert torch.equal(mine.decode(encoded), oracle.decode(encoded))
        assert torch.equal(mine(x), oracle(x))
    assert (mine.dtype, mine.device, mine.cfg.architecture()) == (oracle.dtype, oracle.device, kind)
    assert not any(one.requires_grad for one in mine.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_inputs_are_the_same(kind: str, sae_folders: dict[str, Path]) -> None:
    found = []
    for sae in (light(sae_folders[kind]), theirs(sae_folders[kind])):
        x = inputs().requires_grad_()
        sae(x).square().sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_is_what_sae_lens_writes(kind: str, sae_folders: dict[str, Path], tmp_path: Path) -> None:
    light(sae_folders[kind]).save_model(tmp_path / "mine")
    theirs(sae_folders[kind]).save_model(tmp_path / "theirs")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "mine" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def change(folder: Path, to: Path, **config: Any) -> Path:
    to.mkdir()
    written = json.loads((folder / "cfg.json").read_text())
    (to / "cfg.json").write_text(json.dumps({**written, **config}))
    save_file(load_file(folder / "sae_weights.safetensors"), to / "sae_weights.safetensors")
    return to


@pytest.mark.parametrize(
    "config",
    [
        {"metadata": {"sae_lens_version": "5.9.1", "hook_name": "blocks.1.hook_resid_post"}},
        {"metadata": {"sae_lens_version": "6.0.0-rc.1", "hook_name": "blocks.1.hook_resid_post"}},
        {"metadata": {"hook_name": "blocks.1.hook_resid_post"}},
        {"sae_lens_version": "5.9.1"},
        {"normalize_activations": "covariance_whitening"},
        {"architecture": "temporal"},
        {"d_sae": 127},
    ],
    ids=str,
)
def test_what_it_cannot_be_sure_of_is_left_to_sae_lens(
    config: dict[str, Any], sae_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = change(sae_folders["standard"], tmp_path / "changed", **config)
    assert read_inference_sae(open_folder(folder), "cpu", "float32") is None


def test_weights_that_do_not_fit_are_refused_in_its_words(sae_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = change(sae_folders["standard"], tmp_path / "changed", d_sae=127)
    with pytest.raises(InputError, match="do not fit its config"):
        load_sae(folder)


ENCODING = (
    "raylens_jobs.audit",
    "raylens_jobs.encoder",
    "raylens_jobs.organism_actor",
    "raylens_jobs.provenance_actor",
    "raylens_jobs.suggest",
    "raylens_jobs.weight_tables",
    "raylens_serve.served_readers",
)


def test_what_encodes_with_the_bundles_saes_needs_no_sae_lens() -> None:
    """It takes seconds to import, in every process."""
    sae = "raylens-pico-res/layer_3"
    assert isinstance(load_sae(sae).sae, InferenceSae)
    code = (
        f"import sys, {', '.join(ENCODING)}; from raylens.engine.saes import load_sae; load_sae('{sae}');"
        " print([one for one in sys.modules if one.split('.')[0] in ('sae_lens', 'transformer_lens')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
