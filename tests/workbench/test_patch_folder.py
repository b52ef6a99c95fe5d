"""Folders of patches: what is written or left alone, and what is refused of those that come from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.api.edits import Direction, Edit, PatchSpec
from raylens.engine.load import LoadedModel
from raylens.engine.saes import load_sae
from raylens.errors import DamagedFileError, InputError, MismatchError, UnknownNameError
from raylens.workbench import patch_adapter
from raylens.workbench.patch_adapter import read_patch
from raylens.workbench.patch_export import ExportSettings, Patchable, export_patch
from raylens.workbench.patch_import import import_patch
from raylens.workbench.patch_record import PatchRecord
from raylens.workbench.patch_verify import verify_patch
from small_patches import of_feature, settings, steering, vector

__all__ = ("settings",)


def test_what_cannot_be_exported_leaves_nothing(
    loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path], tmp_path: Path, settings: ExportSettings
) -> None:
    llama, out = loaded_models["llama"], tmp_path / "out"
    sae = load_sae(sae_folders["standard"])
    saes = {str(sae.id): sae}

    def export(spec: PatchSpec, **more: Any) -> PatchRecord:
        given = ExportSettings(settings.text, settings.fit_text, settings.n_tokens, settings.ctx_len, **more)
        return export_patch(Patchable(llama, llama), spec, saes, None, out, given)

    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (InputError, "no weights act on some tokens only", lambda: export(of_feature(sae, where="firing"))),
        (InputError, "those that are written", lambda: export(steering(where="generated"))),
        (InputError, "adds a vector .* times as long", lambda: export(steering(strength=9e4))),
        (InputError, "no matrix of a block", lambda: export(steering("resid_pre.0"))),
        (UnknownNameError, "resid_post.7", lambda: export(steering("resid_post.7"))),
        (UnknownNameError, "unknown form 'best'", lambda: export(steering(), form="best")),
        (
            MismatchError,
            "is 48 wide, and .* is 32",
            lambda: export(
                PatchSpec(
                    edits=(Edit(direction="d"),),
                    directions=(Direction(name="d", hook="resid_post.1", vector=vector(48)),),
                )
            ),
        ),
    ]
    for error, said, call in wrong:
        with pytest.raises(error, match=said):
            call()
        assert sorted(one.name for one in tmp_path.iterdir()) == ["fit", "held_out"]
    approximate = export(of_feature(sae, where="prompt", unit="activation"), approximate=True)
    assert (approximate.exact, approximate.figures.missed > 0.2) == (False, True)
    assert "acts on every token" in approximate.why_not


def test_only_an_earlier_patch_is_written_over(
    llama: LoadedModel, tmp_path: Path, settings: ExportSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, subject = tmp_path / "out", Patchable(llama, llama)
    first = export_patch(subject, steering(), {}, None, out, settings)
    second = export_patch(subject, steering(strength=1.0), {}, None, out, settings)
    assert first.weights != second.weights
    assert read_patch(out)[0] == second
    before = {one.name: one.read_bytes() for one in out.iterdir()}

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(patch_adapter, "save_file", fails)
        with pytest.raises(Exception, match="is full while writing the patch out"):
            export_patch(subject, steering(), {}, None, out, settings)
    assert {one.name: one.read_bytes() for one in out.iterdir()} == before
    for name, make in {
        "file": lambda path: path.write_text("mine"),
        "folder": lambda path: (path.mkdir(), (path / "notes.txt").write_text("mine")),
        "more": lambda path: (shutil.copytree(out, path), (path / "notes.txt").write_text("mine")),
        "lora": lambda path: (path.mkdir(), (path / "adapter_config.json").write_text("{}")),
        "link": lambda path: path.symlink_to(out),
    }.items():
        make(tmp_path / name)
        with pytest.raises(InputError, match="is there and is no exported patch"):
            export_patch(subject, steering(), {}, None, tmp_path / name, settings)
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    assert (tmp_path / "folder/notes.txt").read_text() == "mine"


def test_a_damaged_or_foreign_patch_is_refused(
    loaded_models: dict[str, LoadedModel], tmp_path: Path, settings: ExportSettings
) -> None:
    llama, out = loaded_models["llama"], tmp_path / "out"
    record = export_patch(Patchable(llama, llama), steering(), {}, None, out, settings)
    with pytest.raises(MismatchError, match=r"is for .*tiny-llama \(3 blocks, 32 wide.*the model is .*tiny-gpt2"):
        verify_patch(Patchable(loaded_models["gpt2"], loaded_models["gpt2"]), record, out, {}, None)
    weights = (out / "adapter_model.safetensors").read_bytes()
    told = json.loads((out / "patch.json").read_text())
    damaged: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (DamagedFileError, "cannot be read", lambda: (out / "adapter_model.safetensors").write_bytes(weights[:-40])),
        (
            DamagedFileError,
            "is not the one that its patch.json tells of",
            lambda: (out / "adapter_model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1])),
        ),
        (InputError, "holds no adapter_model.safetensors, but only the pickle", lambda: _pickle(out)),
        (DamagedFileError, "is no JSON", lambda: (out / "patch.json").write_text("{")),
        (InputError, "is of format version 2", lambda: _record(out, {**told, "version": 2})),
        (InputError, "is no record of a patch", lambda: _record(out, {"format": "x"})),
        (InputError, "has no figures of its form x", lambda: _record(out, {**told, "form": "x"})),
        (InputError, "strength is no finite number", lambda: _record(out, _with_strength(told, float("nan")))),
        (InputError, "does not name its modules", lambda: _expression(out, "target_modules", "(a+)+$")),
        (InputError, "does not name its modules", lambda: _expression(out, "rank_pattern", {"(a+)+": 1})),
        (InputError, "has no patch.json", lambda: (out / "patch.json").unlink()),
    ]
    for error, said, damage in damaged:
        shutil.rmtree(out)
        export_patch(Patchable(llama, llama), steering(), {}, None, out, settings)
        damage()
        with pytest.raises(error, match=said):
            import_patch(out)


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _expression(folder: Path, key: str, value: object) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))


def _record(folder: Path, told: dict[str, Any]) -> None:
    (folder / "patch.json").write_text(json.dumps(told))


def _with_strength(told: dict[str, Any], strength: float) -> dict[str, Any]:
    (edit,) = told["spec"]["edits"]
    return {**told, "spec": {**told["spec"], "edits": [{**edit, "strength": strength}]}}
