"""Where the embedded artefacts are, that they are whole, and that they fit the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylens.bundle import paths
from raylens.ids import SaeId

MAX_BYTES = 16_000_000
ROOM_FOR_ORGANISMS = 2_000_000
"""Model organisms (adapters and their measured behaviour) ship in the same package."""


def test_the_bundle_fits_with_room_left() -> None:
    assert paths.bundle_size() <= MAX_BYTES
    organisms = sum(file.stat().st_size for file in paths.bundle_files() if "organisms" in file.parts)
    assert 0 < organisms <= ROOM_FOR_ORGANISMS
    assert paths.bundle_size() - organisms <= MAX_BYTES - ROOM_FOR_ORGANISMS


def test_pico_weights_are_within_their_share() -> None:
    assert (paths.ROOT / "pico" / "model.safetensors").stat().st_size <= 7_000_000
    assert (paths.embedding_path() / "model.safetensors").stat().st_size <= 1_100_000


def test_shipped_files_have_the_hashes_they_were_shipped_with() -> None:
    assert paths.damaged_files() == []


@pytest.fixture
def a_bundle(tmp_path: Path) -> Path:
    for name in ("pico/config.json", "saes/layer_10/cfg.json", "saes/layer_2/cfg.json", "saes/notes/cfg.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"d_sae": 48}))
    paths.write_hashes(tmp_path)
    return tmp_path


def test_damage_is_seen(a_bundle: Path) -> None:
    assert paths.damaged_files(a_bundle) == []
    (a_bundle / "pico/config.json").write_text("{}")
    (a_bundle / "saes/layer_2/cfg.json").unlink()
    (a_bundle / "extra.safetensors").write_bytes(b"")
    assert paths.damaged_files(a_bundle) == ["extra.safetensors", "pico/config.json", "saes/layer_2/cfg.json"]


def test_saes_are_listed_by_layer_and_found_by_id(a_bundle: Path) -> None:
    found = paths.list_saes(a_bundle)
    assert [(str(s.id), str(s.hook), s.width, s.model) for s in found] == [
        ("raylens-pico-res/layer_2", "resid_post.2", 48, "raylens/pico"),
        ("raylens-pico-res/layer_10", "resid_post.10", 48, "raylens/pico"),
    ]
    assert paths.sae_path(found[0].id, a_bundle) == a_bundle / "saes/layer_2"
    for unknown in ("raylens-pico-res/layer_3", "raylens-pico-res/notes", "other/layer_2", "raylens-pico-res/../pico"):
        assert paths.sae_path(SaeId.parse(unknown), a_bundle) is None


def test_models_are_found_by_name() -> None:
    for name in paths.list_models():
        folder = paths.model_path(name)
        assert folder is not None
        assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert paths.model_path("raylens/unknown") is None
    assert paths.model_path("pico") is None


def test_the_bundle_is_browsed_without_the_model_stack() -> None:
    """A0.20: listing, hashing and the corpus need neither torch nor transformers; embedding needs no torch."""
    code = (
        "import sys\n"
        "from raylens.bundle import cards, corpus_manifest, embedding, embedding_recipe, pairs, paths, sae_card\n"
        "paths.list_saes(); corpus_manifest.read_manifest()\n"
        "assert not {'torch', 'transformers', 'ray', 'sae_lens', 'tokenizers'} & set(sys.modules)\n"
        "assert embedding.embed(['x = 1']).shape == (1, 128)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
