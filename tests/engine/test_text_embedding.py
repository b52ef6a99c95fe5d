"""Embedding models of other people's making: loaded as sentence-transformers does, and without their code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from raylens.bundle.embedding import embed
from raylens.bundle.paths import embedding_path
from raylens.engine.text_embedding import load_embedding, locate_embedding
from raylens.errors import InputError

TEXTS = ["def close(self):", "    Return the number of items.", "", "héllo 🙂"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(embedding_path(), tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_gives_unit_vectors_and_is_known_by_its_content(folder: Path) -> None:
    files = locate_embedding(str(folder))
    vectors = load_embedding(files)(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, embed(TEXTS), atol=1e-5)
    assert locate_embedding(str(embedding_path())).revision == files.revision, "the same content elsewhere"
    (folder / "1_Normalize" / "config.json").write_text("{}")
    assert locate_embedding(str(folder)).revision != files.revision


def test_code_of_a_model_is_not_run(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "intruder.Module"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "intruder.py").write_text("raise SystemExit('code of a model was run')")
    with pytest.raises(InputError, match="cannot be loaded as an embedding model"):
        load_embedding(locate_embedding(str(folder)))


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(InputError, match=r"only as 2_Dense/pytorch_model\.bin"):
        load_embedding(locate_embedding(str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="its weights are pickled"):
        locate_embedding(str(folder))


def test_what_is_nowhere_is_one_sentence() -> None:
    for name in ("nobody/no-such-embedding", "no-such-embedding", "/no/such/folder"):
        with pytest.raises(InputError, match="embedding model") as caught:
            locate_embedding(name)
        assert "leave it out for the bundled embedding" in caught.value.hint
