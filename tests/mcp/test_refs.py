"""Names of models and SAEs that clients may send, and weights that lie on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.bundle.paths import list_saes
from raylens.catalog import Catalog
from raylens.catalog.lookup import built_in
from raylens.catalog.refs import model_ref, sae_ref
from raylens.errors import DamagedFileError, InputError
from raylens.ids import SaeId
from raylens.labels.decoders import decoder_of
from raylens.labels.proxies import nearest_explained


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refs")
    (folder / "base" / "models" / "tuned").mkdir(parents=True)
    (folder / "outside").mkdir()
    (folder / "base" / "out").symlink_to(folder / "outside")
    (folder / "base" / "in").symlink_to(folder / "base" / "models" / "tuned")
    return (folder / "base").resolve()


@pytest.mark.parametrize("text", ["models/tuned", "./models/tuned", "in", "models/../models/tuned"])
def test_a_folder_becomes_an_absolute_path(base: Path, text: str) -> None:  # A2.16
    whole = str(base / "models" / "tuned")
    assert model_ref(text, "candidate", base) == whole
    assert sae_ref(text, base) == whole
    assert model_ref(whole, "candidate", base) == whole


@pytest.mark.parametrize("text", ["raylens/pico", "google/gemma-2-2b", "gpt2", "a.b/c_d-1"])
def test_ids_of_the_hub_stay_as_they_are(base: Path, text: str) -> None:
    assert model_ref(text, "candidate", base) == text


@pytest.mark.parametrize("text", ["raylens-pico-res/layer_3", "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"])
def test_ids_of_saes_stay_as_they_are(base: Path, text: str) -> None:
    assert sae_ref(text, base) == text


@pytest.mark.parametrize(
    "text",
    ["out", "../outside", "/etc", "~", "~/x", "a/../../outside", "https://x/y", "-x/y", "a b/c", "", "a\0b", "a/b/.."],
)
def test_all_else_is_refused(base: Path, text: str) -> None:  # A2.16
    with pytest.raises(InputError):
        model_ref(text, "candidate", base)
    with pytest.raises(InputError):
        sae_ref(text, base)


def test_a_folder_whose_weights_lie_elsewhere_is_refused(base: Path) -> None:  # A2.16
    folder = base / "models" / "linked"
    folder.mkdir()
    (base.parent / "outside" / "w").touch()
    (folder / "adapter_model.safetensors").symlink_to(base.parent / "outside" / "w")
    for check in (lambda: model_ref("models/linked", "candidate", base), lambda: sae_ref("models/linked", base)):
        with pytest.raises(InputError, match=r"file .*adapter_model.safetensors.* lies outside the base directory"):
            check()
    (folder / "adapter_model.safetensors").unlink()
    (base / "blob").touch()
    (folder / "adapter_model.safetensors").symlink_to(base / "blob")
    assert model_ref("models/linked", "candidate", base) == str(folder)


@given(text=st.text(alphabet="ab./~-\\ :\0é", max_size=12))
def test_whatever_passes_leads_nowhere_else(base: Path, text: str) -> None:  # A2.16
    for check in (lambda: model_ref(text, "candidate", base), lambda: sae_ref(text, base)):
        try:
            found = check()
        except InputError:
            continue
        if found.startswith("/"):
            assert Path(found).resolve().is_relative_to(base)
        else:
            assert not {".", "..", ""} & set(found.split("/"))
            assert found[0].isalnum()


def saved(folder: Path, kind: str, data: bytes, shape: tuple[int, int]) -> None:
    """An SAE's weights by the description of the format: length, header, tensors."""
    header = {"W_dec": {"dtype": kind, "shape": list(shape), "data_offsets": [4, 4 + len(data)]}}
    text = json.dumps(header).encode()
    (folder / "sae_weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4 + data)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_decoders_are_read_from_their_files(kind: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    data = rows.astype(np.float16).tobytes() if kind == "F16" else rows.tobytes()
    if kind == "BF16":
        data = (rows.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    saved(tmp_path, kind, data, rows.shape)
    found = decoder_of(SaeId("mine", "one"), catalog_with(tmp_path))
    assert found is not None
    near, expected = (nearest_explained(one, [0], range(50), k=5)[0] for one in (found, rows))
    assert [one.cosine for one in near] == pytest.approx([one.cosine for one in expected], abs=0.02)


def test_weights_that_are_not_at_hand_are_none(tmp_path: Path) -> None:
    assert decoder_of(SaeId("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"), built_in()) is None
    assert decoder_of(SaeId("mine", "one"), catalog_with(tmp_path)) is None
    assert decoder_of(list_saes()[0].id, built_in()) is not None
    saved(tmp_path, "I8", b"\0" * 8, (1, 8))
    assert decoder_of(SaeId("mine", "one"), catalog_with(tmp_path)) is None


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{]", b"\x02\0\0\0\0\0\0\x0012"])
def test_damaged_weights_are_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "sae_weights.safetensors").write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"sae_weights\.safetensors is damaged"):
        decoder_of(SaeId("mine", "one"), catalog_with(tmp_path))


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    saved(tmp_path, "F32", b"\0" * 8, (50, 8))
    with pytest.raises(DamagedFileError):
        decoder_of(SaeId("mine", "one"), catalog_with(tmp_path))


def catalog_with(folder: Path) -> Catalog:
    """The built-in catalogue and one SAE of the user's, in ``folder``."""
    file = folder / "catalog.yaml"
    row = {"sae": "mine/one", "model": "raylens/pico", "hook": "resid_post.3", "path": str(folder)}
    file.write_text(json.dumps({"saes": [row]}))
    return Catalog.load(file)
