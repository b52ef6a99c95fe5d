"""Forms against hooks: exact ones to rounding, others by what they promise; and why there is no exact one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.tap import tap
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint
from raylens.workbench.edits import LoadedEdit, edited
from raylens.workbench.patch_factors import applied
from raylens.workbench.patch_forms import assembled, in_forward_order, on_every_token, why_not_exact, with_embedding

IDS = torch.tensor([[0, 7, 31, 88, 120, 9, 64, 200, 5, 17]])
POST = HookPoint("resid_post", 1)


def unit(seed: int = 1) -> Tensor:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def along(hook: str, method: Any, seed: int = 1, value: float = 3.0, where: Any = "all") -> LoadedEdit:
    return LoadedEdit(HookPoint.parse(hook), method, value, where, vector=unit(seed))


def logits(loaded: LoadedModel, context: Any) -> Tensor:
    network: Any = loaded.model
    with context, torch.inference_mode():
        return network(IDS).logits


def assert_exact(loaded: LoadedModel, edits: list[LoadedEdit]) -> None:
    ordered = in_forward_order(loaded, edits)
    assert [why_not_exact(loaded, edit) for edit in ordered] == [""] * len(edits)
    hooked = logits(loaded, edited(loaded, edits))
    weights = logits(loaded, applied(loaded, assembled(loaded, ordered)))
    torch.testing.assert_close(weights, hooked, atol=2e-4, rtol=1e-4)
    assert float((hooked - logits(loaded, edited(loaded, []))).abs().max()) > 0.01


@pytest.mark.parametrize("hook", ["resid_post.1", "resid_pre.1", "attn_out.0", "mlp_out.1", "resid_post.2"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_vector_added_everywhere_is_a_bias(
    loaded_models: dict[str, LoadedModel], architecture: str, hook: str
) -> None:
    assert_exact(loaded_models[architecture], [along(hook, "add")])


@pytest.mark.parametrize("hook", ["attn_out.0", "mlp_out.1"])
def test_a_direction_projected_out_of_one_sublayer_is_of_rank_1(loaded: LoadedModel, hook: str) -> None:
    """Of Gemma 2 too: these points come before the norm that follows."""
    assert_exact(loaded, [along(hook, "project_out")])
    assert_exact(loaded, [along(hook, "project_out", 1), along(hook, "project_out", 2), along(hook, "add", 3)])
    (made,) = assembled(loaded, [along(hook, "project_out", 1), along(hook, "project_out", 2)]).values()
    assert made.rank == 2


def test_edits_at_several_points_go_in_the_order_of_a_pass(llama: LoadedModel) -> None:
    edits = [along("resid_post.1", "add", 2), along("mlp_out.1", "project_out", 1), along("resid_post.0", "add", 3)]
    assert [str(one.hook) for one in in_forward_order(llama, edits)] == ["resid_post.0", "mlp_out.1", "resid_post.1"]
    assert_exact(llama, edits)
    assert_exact(llama, edits[::-1])
    path = [along("path.model.layers.1", "add", 2), along("mlp_out.1", "project_out", 1)]
    assert_exact(llama, path)


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_a_feature_added_everywhere_is_a_bias(llama: LoadedModel, sae_folders: dict[str, Path], kind: str) -> None:
    assert_exact(llama, [LoadedEdit(POST, "add", 4.0, sae=load_sae(sae_folders[kind]), feature=5)])


def test_what_blocks_write_has_nothing_along_the_direction(loaded: LoadedModel) -> None:
    """Behind the norms of Gemma 2 too; what is left is the embedding's."""
    edit = along("resid_post.1", "project_out")
    changes = assembled(loaded, [edit])
    assert sorted(changes) == sorted(name for name in changes if ".0." in name or ".1." in name)
    assert len(changes) == 4
    start = HookPoint("resid_pre", 0)
    with applied(loaded, changes):
        found = tap(loaded, [start, POST], IDS)
    torch.testing.assert_close(found[POST] @ unit(), found[start] @ unit(), atol=2e-4, rtol=1e-3)
    (near,) = {name.split(".")[2] for name in assembled(loaded, [edit], last_blocks=1)}
    assert near == "1"
    whole = with_embedding(loaded, [edit], changes)
    assert (whole is None) == (loaded.info.architecture != "LlamaForCausalLM"), "tied, or biases"
    if whole is not None:
        with applied(loaded, whole):
            assert float((tap(loaded, [POST], IDS)[POST] @ unit()).abs().max()) < 1e-4


def test_oblique_takes_off_what_the_encoder_reads(llama: LoadedModel, sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["standard"])
    edit = LoadedEdit(POST, "ablate", sae=sae, feature=3)
    encoder, decoder = sae.sae.W_enc[:, 3], sae.sae.W_dec[3]
    h = tap(llama, [HookPoint("mlp_out", 1)], IDS)[HookPoint("mlp_out", 1)]
    changes = assembled(llama, [edit], "encoder", 1)
    only = {name: made for name, made in changes.items() if name.endswith("down_proj")}
    with applied(llama, only):
        changed = tap(llama, [HookPoint("mlp_out", 1)], IDS)[HookPoint("mlp_out", 1)]
    torch.testing.assert_close(changed, h - (h @ encoder)[..., None] * decoder, atol=1e-4, rtol=1e-4)


def test_why_there_is_no_exact_form(
    loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path], make_sae: Any, save_sae: Any, tmp_path: Path
) -> None:
    llama, gemma = loaded_models["llama"], loaded_models["gemma2"]
    sae = load_sae(sae_folders["standard"])
    scaled = load_sae(save_sae(make_sae("standard", normalize_activations="layer_norm"), tmp_path / "scaled"))

    def of(method: Any, where: Any = "all", own: LoadedSae = sae) -> LoadedEdit:
        return LoadedEdit(POST, method, 1.0, where, sae=own, feature=3)

    for loaded, edit, said in (
        (llama, of("ablate"), "no linear function"),
        (llama, of("add", "firing"), "no linear function"),
        (llama, of("add", "prompt"), "on those of the prompt"),
        (llama, along("mlp_out.1", "project_out", where="generated"), "on those that are written"),
        (llama, of("add", own=scaled), "scales what it writes"),
        (llama, along("resid_post.1", "project_out"), "every block before it"),
        (gemma, along("resid_post.1", "add"), "norms what is written"),
        (gemma, along("mlp_out_post.1", "project_out"), "norms what is written"),
        (llama, along("resid_pre.0", "add"), "no single matrix"),
        (llama, along("resid_mid.1", "add"), "where the MLP reads it"),
    ):
        assert said in why_not_exact(loaded, edit)
    assert [edit.where for edit in on_every_token([of("add", "prompt"), of("add", "firing")])] == ["all", "firing"]


def test_edits_that_nothing_can_stand_for_are_refused(llama: LoadedModel) -> None:
    for hook in ("resid_pre.0", "embeddings"):
        with pytest.raises(InputError, match="no matrix of a block"):
            assembled(llama, [along(hook, "add")])
    with pytest.raises(MismatchError, match=r"is 48 wide, and .* is 32"):
        in_forward_order(llama, [LoadedEdit(HookPoint("mlp_out", 1), "add", vector=torch.ones(48))])
    with pytest.raises(MismatchError, match="is not a point of the residual stream"):
        in_forward_order(llama, [LoadedEdit(HookPoint("lm_head"), "add", vector=torch.ones(32))])
