"""Which SAEs a reference and its hook points mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylens.bundle.paths import ROOT
from raylens.catalog.lookup import Catalog
from raylens.errors import HubUnreachableError, InputError, UnknownNameError
from raylens.ids import HookPoint
from raylens_jobs import hookpoints
from raylens_jobs.hookpoints import Placed, point_of, saes_at


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def sparsify(folder: Path, *hooks: str) -> Path:
    """A folder as the sparsify trainer leaves one: an SAE a hook point."""
    for hook in hooks:
        (folder / hook).mkdir(parents=True)
        (folder / hook / "cfg.json").write_text("{}")
        (folder / hook / "sae.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("word", "point"),
    [
        ("layers.16", HookPoint("resid_post", 16)),
        ("model.layers.16", HookPoint("resid_post", 16)),
        ("transformer.h.3", HookPoint("resid_post", 3)),
        ("gpt_neox.layers.5.mlp", HookPoint("mlp_out", 5)),
        ("layers.5.attention", HookPoint("attn_out", 5)),
        ("blocks.3.hook_resid_post", HookPoint("resid_post", 3)),
        ("resid_mid.2", HookPoint("resid_mid", 2)),
        ("layer_3", None),
        ("layers.", None),
        ("no such place", None),
    ],
)
def test_every_spelling_of_a_hook_point(word: str, point: HookPoint | None) -> None:
    assert point_of(word) == point


def test_a_release_of_the_bundle(catalog: Catalog) -> None:  # A1.04
    every = saes_at("raylens-pico-res", (), catalog)
    assert [one.ref for one in every] == [f"raylens-pico-res/layer_{n}" for n in (1, 3, 5)]
    chosen = saes_at("raylens-pico-res", ("layers.5", "layer_1", "blocks.3.hook_resid_post"), catalog)
    assert [one.ref.rpartition("_")[2] for one in chosen] == ["5", "1", "3"]
    assert [one.word for one in chosen] == ["layers.5", "layer_1", "blocks.3.hook_resid_post"]
    assert saes_at("raylens-pico-res/layer_3", (), catalog) == [Placed("raylens-pico-res/layer_3", "layer_3")]


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        ("raylens-pico-res", ("layers.16",), "unknown hook point of raylens-pico-res 'layers.16'"),
        ("raylens-pico-res", ("layers.3", "layer_3"), "name one and the same SAE"),
        ("raylens-pico-res/layer_3", ("layers.1",), "unknown hook point"),
        ("gemma-scope-2b-pt-res", ("layers.20",), "has [0-9]+ SAEs at layers.20.*layer_20/width_16k"),
        ("gemma-scope-2b-pt-res", (), "SAEs at resid_post.0 alone"),
        ("no-such-release", (), "unknown SAE release"),
        ("./nowhere", (), "there is no folder"),
    ],
)
def test_what_is_not_there_or_not_one(catalog: Catalog, model: str, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        saes_at(model, words, catalog)


def test_a_folder_of_saes(catalog: Catalog, tmp_path: Path) -> None:
    folder = sparsify(tmp_path / "saes", "layers.2", "layers.10", "layers.10.mlp")
    found = saes_at(str(folder), (), catalog)
    assert [one.word for one in found] == ["layers.2", "layers.10", "layers.10.mlp"]
    assert saes_at(str(folder), ("resid_post.10",), catalog)[0].ref == str(folder / "layers.10")
    assert saes_at(str(folder / "layers.2"), ("layers.2",), catalog)[0].ref == str(folder / "layers.2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no SAE"):
        saes_at(str(tmp_path / "empty"), (), catalog)


def test_a_folder_may_say_its_hook_point_inside(catalog: Catalog, tmp_path: Path) -> None:
    assert saes_at(str(ROOT / "saes"), ("layers.3",), catalog)[0].ref == str(ROOT / "saes" / "layer_3")
    folder = sparsify(tmp_path, "first")
    (folder / "first" / "cfg.json").write_text(json.dumps({"hook_name": "blocks.7.hook_resid_pre"}))
    assert saes_at(str(folder), ("resid_pre.7",), catalog)[0].ref == str(folder / "first")


def test_a_repository_of_the_hub(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``EleutherAI/sae-llama-3-8b-32x`` holds, as the hub lists it."""
    listed = [f"layers.{n}/{name}" for n in (10, 2) for name in ("cfg.json", "sae.safetensors")] + ["README.md"]

    def list_repo_files(_: Any, repo: str) -> list[str]:
        assert repo == "EleutherAI/sae-llama-3-8b-32x"
        return listed

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", list_repo_files)
    name = "EleutherAI/sae-llama-3-8b-32x"
    assert [one.ref for one in saes_at(name, (), catalog)] == [f"{name}/layers.2", f"{name}/layers.10"]
    assert saes_at(name, ("layers.10",), catalog) == [Placed(f"{name}/layers.10", "layers.10")]
    assert saes_at(f"{name}/layers.2", (), catalog)[0].ref == f"{name}/layers.2"
    with pytest.raises(UnknownNameError, match=r"'layers.3'.*layers.10"):
        saes_at(name, ("layers.3",), catalog)
    listed[:] = ["sae.pt"]
    with pytest.raises(InputError, match="holds no folder with an SAE"):
        saes_at(name, (), catalog)


def test_without_a_hub_what_is_named_may_be_cached(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str) -> None:
        raise HubUnreachableError("no hub.", hint="connect.")

    monkeypatch.setattr(hookpoints, "_in_repository", unreachable)
    assert saes_at("a/b", ("layers.10",), catalog) == [Placed("a/b/layers.10", "layers.10")]
    with pytest.raises(HubUnreachableError):
        saes_at("a/b", (), catalog)
