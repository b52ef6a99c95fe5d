"""Edits against what they mean, written down plainly: the whole SAE, dense, its error added back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from raylens.api.edits import Direction, Edit, PatchSpec
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.tap import tap
from raylens.errors import InputError, MismatchError, RaylensError, RunError, UnknownNameError
from raylens.ids import HookPoint
from raylens.workbench.edited_reading import compare, next_logits
from raylens.workbench.edited_text import write
from raylens.workbench.edits import LoadedEdit, edited, load_edits
from raylens.workbench.feature_activation import activation

POINT = HookPoint("resid_post", 1)
IDS = torch.tensor([[0, 7, 31, 88, 120, 9, 64, 200, 5, 17]])


def dense(sae: LoadedSae, h: Tensor, change: Callable[[Tensor, int], object], feature: int) -> Tensor:
    """``h`` with the codes changed and what the SAE does not reconstruct as it was: the oracle."""
    codes = sae.sae.encode(h)
    error = h - sae.sae.decode(codes)
    sae.sae.encode(h)  # SAEs that normalise remember the input until they decode
    changed = codes.clone()
    change(changed, feature)
    return sae.sae.decode(changed) + error


def read(loaded: LoadedModel, edits: list[LoadedEdit], n_prompt: int | None = None) -> Tensor:
    with edited(loaded, edits, n_prompt):
        return tap(loaded, [POINT], IDS)[POINT][0]


def strongest(sae: LoadedSae, h: Tensor) -> int:
    """A feature that fires on some tokens and not on all."""
    fires = (sae.sae.encode(h) > 0).float().mean(0)
    return int(((fires > 0) & (fires < 1)).nonzero()[0])


@pytest.mark.parametrize("normalised", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated"])
def test_what_an_edit_does_is_what_the_whole_sae_says(
    llama: LoadedModel, make_sae: Any, save_sae: Any, tmp_path: Path, kind: str, normalised: str
) -> None:
    more = {"rescale_acts_by_decoder_norm": True} if kind == "topk" else {}
    sae = load_sae(save_sae(make_sae(kind, normalize_activations=normalised, **more), tmp_path / "sae"))
    h = read(llama, [])
    feature = strongest(sae, h)
    fires = sae.sae.encode(h)[:, feature] > 0
    torch.testing.assert_close(activation(sae, h, feature), sae.sae.encode(h)[:, feature], atol=1e-5, rtol=1e-4)
    meant: dict[str, tuple[LoadedEdit, Callable[[Tensor, int], object]]] = {
        "add": (LoadedEdit(POINT, "add", 1.5, sae=sae, feature=feature), lambda z, f: z[:, f].add_(1.5)),
        "clamp": (LoadedEdit(POINT, "clamp", 2.5, sae=sae, feature=feature), lambda z, f: z[:, f].fill_(2.5)),
        "ablate": (LoadedEdit(POINT, "ablate", sae=sae, feature=feature), lambda z, f: z[:, f].zero_()),
        "firing": (
            LoadedEdit(POINT, "clamp", 2.5, "firing", sae=sae, feature=feature),
            lambda z, f: z[:, f].masked_fill_(fires, 2.5),
        ),
    }
    for edit, change in meant.values():
        torch.testing.assert_close(read(llama, [edit]), dense(sae, h, change, feature), atol=2e-5, rtol=1e-4)


def test_directional_ablation_leaves_nothing_along_the_direction(
    llama: LoadedModel, sae_folders: dict[str, Path]
) -> None:
    sae = load_sae(sae_folders["topk"])
    out = LoadedEdit(POINT, "project_out", sae=sae, feature=3)
    unit = sae.sae.W_dec[3] / sae.sae.W_dec[3].norm()
    h, changed = read(llama, []), read(llama, [out])
    assert (changed @ unit).abs().max() < 1e-5 < (h @ unit).abs().max()
    torch.testing.assert_close(changed, h - (h @ unit)[:, None] * unit)
    firing = LoadedEdit(POINT, "project_out", 0.0, "firing", sae=sae, feature=strongest(sae, h))
    fires = sae.sae.encode(h)[:, firing.feature] > 0
    moved = (read(llama, [firing]) - h).abs().amax(1) > 0
    assert moved.tolist() == fires.tolist()


def test_edits_of_one_point_apply_in_their_order(llama: LoadedModel, sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["standard"])
    clamp = LoadedEdit(POINT, "clamp", 3.0, sae=sae, feature=5)
    add = LoadedEdit(POINT, "add", 1.0, sae=sae, feature=5)
    first, then = read(llama, [clamp, add]), read(llama, [add, clamp])
    h = read(llama, [])
    own, row = activation(sae, h, 5), sae.sae.W_dec[5]
    torch.testing.assert_close(first, h + (3.0 - own)[:, None] * row + row)
    again = activation(sae, h + row, 5)
    torch.testing.assert_close(then, h + row + (3.0 - again)[:, None] * row)


@pytest.mark.parametrize(("where", "changed"), [("prompt", range(4)), ("generated", range(4, 10)), ("all", range(10))])
def test_only_the_tokens_that_are_meant(
    llama: LoadedModel, sae_folders: dict[str, Path], where: Any, changed: range
) -> None:
    edit = LoadedEdit(POINT, "add", 1.0, where, sae=load_sae(sae_folders["standard"]), feature=2)
    moved = (read(llama, [edit], n_prompt=4) - read(llama, [])).abs().amax(1) > 0
    assert moved.nonzero()[:, 0].tolist() == list(changed)


def test_text_is_written_with_what_was_generated_edited_and_the_prompt_not(loaded: LoadedModel) -> None:
    vector = torch.randn(loaded.d_model, generator=torch.Generator().manual_seed(1))
    vector /= vector.norm()
    prompt = IDS[0, :5].tolist()
    for where in ("all", "prompt", "generated"):
        edit = LoadedEdit(POINT, "add", 6.0, where, vector=vector)
        ids, n = list(prompt), len(prompt)
        for _ in range(8):  # the slow way: all of the text again for each token
            ids.append(int(next_logits(loaded, ids, [edit], n).argmax()))
        with edited(loaded, [edit]):
            (fast,) = generate(loaded, [prompt], 8, ends=frozenset())
        assert list(fast.ids) == ids[n:]
        *_, last = parts = list(write(loaded, prompt, [edit], max_new_tokens=8))
        assert last.end in ("length", "stop")
        said = "".join(part.text for part in parts)
        assert str(loaded.tokenizer.decode(ids)).startswith(f"{loaded.tokenizer.decode(prompt)}{said}".rstrip("\ufffd"))


# With every patch off the model is the untouched one, bit for bit, before, between and after.
def test_what_is_off_changes_nothing(loaded: LoadedModel, sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["jumprelu"])
    network: Any = loaded.model
    with torch.inference_mode():
        untouched = network(IDS).logits
    edit = LoadedEdit(POINT, "add", 2.0, sae=sae, feature=9)
    before = next_logits(loaded, IDS[0].tolist())
    for _ in range(2):
        assert not torch.equal(next_logits(loaded, IDS[0].tolist(), [edit]), before)
        assert torch.equal(next_logits(loaded, IDS[0].tolist()), before)
        with torch.inference_mode():
            assert torch.equal(network(IDS).logits, untouched)
    with pytest.raises(ZeroDivisionError), edited(loaded, [edit]):
        raise ZeroDivisionError
    with torch.inference_mode():
        assert torch.equal(network(IDS).logits, untouched), "also where a pass failed"


@given(data=st.data())
def test_the_likeliest_of_either_are_compared(data: st.DataObject) -> None:
    n, top = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    logits = st.lists(st.floats(-30, 30, width=32), min_size=n, max_size=n)
    before, after = torch.tensor(data.draw(logits)), torch.tensor(data.draw(logits))
    found = compare(before, after, top)
    p, q = before.double().softmax(0), after.double().softmax(0)
    assert list(found.baseline) == pytest.approx(p[list(found.ids)].tolist())
    assert list(found.patched) == pytest.approx(q[list(found.ids)].tolist())
    larger = [max(pair) for pair in zip(found.baseline, found.patched, strict=True)]
    assert larger == sorted(larger, reverse=True)
    for one in (p, q):
        assert min(one[list(found.ids)].topk(min(top, n)).values) >= one.topk(min(top, n)).values[-1]
    assert found.kl == pytest.approx(float((q * (q / p).log()).sum()), abs=1e-9)


def spec(**edit: Any) -> PatchSpec:
    return PatchSpec(edits=(Edit(**edit),), directions=(Direction(name="d", hook="resid_post.1", vector=(1.0,) * 32),))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({}, "name a feature or a direction"),
        ({"feature": "f_1_2", "direction": "d"}, "and not both"),
        ({"feature": "f_1_2", "strength": float("nan")}, "no finite number"),
        ({"feature": "f_1_2", "strength": 101.0}, "100 is the most"),
        ({"direction": "d", "method": "clamp"}, "no activation to clamp"),
        ({"direction": "e"}, "'e' is not among"),
        ({"direction": "d", "where": "firing"}, "does not fire"),
        ({"feature": "f_1_2", "sort": "add"}, "Extra inputs"),
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(edit: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**edit)


def test_an_edit_that_does_not_fit_is_refused(
    llama: LoadedModel, sae_folders: dict[str, Path], make_sae: Any, save_sae: Any, tmp_path: Path
) -> None:
    sae = load_sae(sae_folders["topk"])
    saes = {str(sae.id): sae}

    def load(one: PatchSpec, saes: dict[str, LoadedSae] = saes) -> list[LoadedEdit]:
        return load_edits(llama, one, saes, None, lambda _sae, _feature: 4.0)

    (made,) = load(spec(feature="f_1_2", strength=-2.0))
    assert (made.value, made.feature, made.hook) == (-8.0, 2, POINT)
    (made,) = load(spec(feature=f"{sae.id}/7", strength=-2.0, unit="activation"))
    assert (made.value, made.feature) == (-2.0, 7)
    wide = load_sae(save_sae(make_sae("standard", d_in=48), tmp_path / "wide"))
    wrong: list[tuple[type[RaylensError], str, Callable[[], object]]] = [
        (InputError, "f_2_2 is a feature of no SAE here", lambda: load(spec(feature="f_2_2"))),
        (InputError, "has no feature 128", lambda: load(spec(feature="f_1_128"))),
        (InputError, "an SAE that is not here", lambda: load(spec(feature="other/layer_1/3"))),
        (MismatchError, "48 wide, and .* is 32", lambda: load(spec(feature="f_1_2"), {str(wide.id): wide})),
        (
            UnknownNameError,
            "resid_post.9",
            lambda: load(
                PatchSpec(
                    edits=(Edit(direction="d"),),
                    directions=(Direction(name="d", hook="resid_post.9", vector=(1.0,) * 32),),
                )
            ),
        ),
        (
            RunError,
            "no finite numbers",
            lambda: read(
                llama,
                [
                    LoadedEdit(POINT, "add", 3e38, sae=sae, feature=1),
                    LoadedEdit(POINT, "add", 3e38, sae=sae, feature=1),
                ],
            ),
        ),
    ]
    for error, said, call in wrong:
        with pytest.raises(error, match=said):
            call()
