"""``raylens steer``: the same numbers as the edit by itself, and what cannot be is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.api.edits import Edit, PatchSpec
from raylens.engine.load import load_model
from raylens.engine.saes import load_sae
from raylens.workbench.edited_reading import next_logits
from raylens.workbench.edits import LoadedEdit
from raylens.workbench.feature_scale import sample_scale

Raylens = Callable[..., Any]
TEXT = "def area(radius):"


def test_what_is_said_is_what_the_edit_does(raylens: Raylens, tmp_path: Path) -> None:
    pico, sae = load_model("raylens/pico", device="cpu"), load_sae("raylens-pico-res/layer_3")
    (largest,) = sample_scale(pico, sae).of([17])
    edit = LoadedEdit(sae.spec.hook, "add", 4 * largest.value, sae=sae, feature=17)
    ids = [*pico.prefix_ids, *pico.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    before, after = (next_logits(pico, ids, edits).softmax(0) for edits in ((), (edit,)))
    words = ("steer", TEXT, "-f", "f_3_17", "--strength", "4", "-n", "6")
    done = raylens(tmp_path / "ws", *words, "--json")
    assert done.code == 0, done.err
    found = done.document
    assert found["edits"] == ["add +4 × max f_3_17"]
    assert "the largest activation of raylens-pico-res/layer_3/17 is" in done.err
    for one in found["next"]:
        assert one["baseline"] == pytest.approx(float(before[one["id"]]), abs=1e-5)
        assert one["patched"] == pytest.approx(float(after[one["id"]]), abs=1e-5)
    assert found["baseline"] != found["patched"]
    shown = raylens(tmp_path / "ws", *words)
    assert "add +4 × max f_3_17" in shown.out
    assert f"--- patched\n{TEXT}" in shown.out
    assert not (tmp_path / "ws").exists()


def test_a_file_of_edits_is_read(raylens: Raylens, tmp_path: Path) -> None:
    spec = PatchSpec(edits=(Edit(feature="raylens-pico-res/layer_1/3", method="ablate"), Edit(feature="f_5_2")))
    (tmp_path / "patch.json").write_text(spec.model_dump_json())
    done = raylens(tmp_path / "ws", "steer", TEXT, "--patch", str(tmp_path / "patch.json"), "-n", "0", "--json")
    assert done.code == 0, done.err
    assert done.document["edits"] == ["ablate raylens-pico-res/layer_1/3", "add +1 × max f_5_2"]
    assert "baseline" not in done.document


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name features, or a file of edits"),
        (("-f", "f_2_1"), "no SAE of layer 2 of raylens/pico is known"),
        (("-f", "f_3_99999"), "has no feature 99999"),
        (("-f", "f_3_1", "--strength", "nan"), "no finite number"),
        (("-f", "f_3_1", "--strength", "1000"), "100 is the most"),
        (("--patch", "missing.json"), "missing.json cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(raylens: Raylens, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = raylens(tmp_path / "ws", "steer", TEXT, *words)
    assert (done.code, done.out) == (2, ""), done.err
    assert said in done.err
    assert "hint:" in done.err
