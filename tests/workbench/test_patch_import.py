"""Patches that others made, as files: what is read, and what is refused with one sentence."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from raylens.errors import InputError, MismatchError, RaylensError, UnknownNameError
from raylens.specs import ModelInfo
from raylens.workbench import patch_import
from raylens.workbench.patch_import import import_patch, require_fits

EDIT = {"feature": "f_3_17", "method": "clamp", "strength": 0.5}
DIRECTION = {"name": "d", "hook": "resid_post.2", "vector": [1.0, 2.0, 0.5, -1.0]}
INFO = ModelInfo("raylens/pico", "0" * 64, d_model=4, n_layers=3, vocab_size=9, architecture="X", max_positions=8)


def test_edits_are_read_from_json_and_yaml(tmp_path: Path) -> None:  # A3.07
    told = {
        "name": "less return",
        "edits": [EDIT, {"direction": "d", "method": "project_out"}],
        "directions": [DIRECTION],
    }
    (tmp_path / "a.json").write_text(json.dumps(told))
    (tmp_path / "b.YAML").write_text(
        "name: less return\nedits:\n  - {feature: f_3_17, method: clamp, strength: 0.5}\n"
        "  - direction: d\n    method: project_out\n"
        "directions:\n  - name: d\n    hook: resid_post.2\n    vector: [1, 2.0, 0.5, -1.]\n"
    )
    one, other = import_patch(tmp_path / "a.json"), import_patch(tmp_path / "b.YAML")
    assert one.spec == other.spec
    assert (one.spec.edits[0].strength, one.spec.directions[0].vector) == (0.5, (1.0, 2.0, 0.5, -1.0))
    assert (one.record, one.adapter) == (None, None)
    require_fits(one.spec, INFO)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", {"edits": [{**EDIT, "strength": float("nan")}]}, "edits.1.strength: strength is no finite number"),
        ("a.json", {"edits": [{**EDIT, "strength": 1e9}]}, "100 is the most"),
        ("a.json", {"edits": [{**EDIT, "strength": 1e9, "unit": "activation"}]}, "is the most"),
        ("a.json", {"edits": [{**EDIT, "sort": 1}]}, "edits.1.sort: extra inputs"),
        ("a.json", {"edits": [EDIT], "run": "rm"}, "run: extra inputs"),
        ("a.json", {"edits": []}, "edits: "),
        ("a.json", {"edits": [{"direction": "d"}]}, "'d' is not among"),
        ("a.json", {"edits": [{"direction": "d"}], "directions": [{**DIRECTION, "vector": [0.0]}]}, "not all 0"),
        ("a.json", [1, 2], "holds no patch"),
        ("a.json", "{", "is no JSON"),
        ("a.json", '{"edits": [], "edits": []}', "a key is there twice"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", {"format": "raylens-patch"}, "is the record of an exported patch"),
        ("a.yaml", "edits: [&x {feature: f_3_17}, *x]", "has an anchor"),
        ("a.yaml", "edits: !!python/object/apply:os.system [ls]", "has the tag"),
        ("a.yaml", "edits: [", "is no YAML"),
        ("a.yaml", "edits:\n  - {feature: f_3_17, strength: .nan}", "no finite number"),
        ("a.txt", "edits", "is no patch"),
        ("a.json", b"\xff\xfe\x00", "is no JSON"),
    ],
)
def test_what_is_no_patch_is_refused(name: str, content: Any, said: str, tmp_path: Path) -> None:
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError) as caught:
        import_patch(tmp_path / name)
    assert said in caught.value.message
    one_sentence(caught.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    for name in ("adapter_model.bin", "patch.pt", "patch.PKL"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(InputError, match="is a pickle") as caught:
            import_patch(tmp_path / name)
        assert "save_pretrained" in caught.value.hint
        one_sentence(caught.value)
    assert not (tmp_path / "opened").exists()


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_import, "MOST_RECORD_BYTES", 2**20)
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(InputError, match="larger than the 1 MiB of a patch"):
        import_patch(tmp_path / "a.json")
    with pytest.raises(UnknownNameError, match="there is no file or folder"):
        import_patch(tmp_path / "b.json")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no exported patch: it has no patch\.json"):
        import_patch(tmp_path / "lora")


@pytest.mark.parametrize(
    ("change", "of_model", "said"),
    [
        ({"model": "google/gemma-2-2b"}, {}, "the patch is for google/gemma-2-2b, and the model is raylens/pico"),
        ({}, {"d_model": 8}, "direction d is 4 wide, and raylens/pico is 8"),
        ({}, {"n_layers": 2}, "direction d is of resid_post.2, and raylens/pico has the blocks 0 to 1"),
    ],
)
def test_a_patch_for_another_model_is_refused(
    change: dict[str, Any], of_model: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"edits": [{"direction": "d"}], "directions": [DIRECTION], **change}))
    spec = import_patch(tmp_path / "a.json").spec
    with pytest.raises(MismatchError) as caught:
        require_fits(spec, dataclasses.replace(INFO, **of_model))
    assert said in caught.value.message
    one_sentence(caught.value)
    require_fits(spec.model_copy(update={"model": "/home/someone/pico"}), INFO)  # a path says nothing about names
    require_fits(spec.model_copy(update={"model": "pico"}), INFO)


def one_sentence(error: RaylensError) -> None:
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.hint.endswith(".")
