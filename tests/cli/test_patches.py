"""``raylens patch``: exporting, checking and measuring again, as a person sees it; figures are tested in workbench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Raylens = Callable[..., Any]
LITTLE = ("--n-tokens", "200", "--ctx-len", "32")


@pytest.fixture
def few_words(tmp_path: Path) -> tuple[str, ...]:
    """Text to measure on and to fit to."""
    for name in ("held_out", "fit"):
        (tmp_path / f"{name}.txt").write_text(f"# {name}\n" + "def area(radius):\n    return 3 * radius**2\n" * 20)
    return ("--text", str(tmp_path / "held_out.txt"), "--fit-text", str(tmp_path / "fit.txt"), *LITTLE)


@pytest.fixture
def edits(tmp_path: Path) -> Callable[..., str]:
    def make(name: str = "edits.json", **edit: Any) -> str:
        vector = torch.randn(128, generator=torch.Generator().manual_seed(0)).tolist()
        directions = [{"name": "d", "hook": "resid_post.3", "vector": vector}] if "direction" in edit else []
        (tmp_path / name).write_text(json.dumps({"name": "mine", "edits": [edit], "directions": directions}))
        return str(tmp_path / name)

    return make


def test_a_patch_goes_out_and_comes_back(  # A3.07
    raylens: Raylens, edits: Callable[..., str], few_words: tuple[str, ...], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    steer = edits(feature="f_3_17", method="add", strength=3.0, unit="activation")
    done = raylens(tmp_path / "ws", "patch", "export", steer, "--out", out, *few_words, "--json")
    assert done.code == 0, done.err
    assert (done.document["form"], done.document["exact"], done.document["out"]) == ("exact", True, out)
    kl = {form["name"]: form["kl"]["value"] for form in done.document["measured"]["forms"]}
    assert kl["exact"] < 1e-6 < kl["nothing"]
    assert sorted(path.name for path in Path(out).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "patch.json",
    ]
    done = raylens(tmp_path / "ws", "patch", "import", out, "--model", "raylens/pico")
    assert done.code == 0, done.err
    assert "mine: 1 edit of raylens/pico" in done.out
    assert "it does what the edits do" in done.out
    assert raylens(tmp_path / "ws", "patch", "import", steer, "--json").document["record"] is None
    done = raylens(tmp_path / "ws", "patch", "verify", out, "--json")
    assert (done.code, done.document["holds"]) == (0, True)
    record = json.loads((tmp_path / "out/patch.json").read_text())
    record["spec"]["edits"][0]["strength"] = 6.0  # not what the adapter does
    (tmp_path / "out/patch.json").write_text(json.dumps(record))
    done = raylens(tmp_path / "ws", "patch", "verify", out)
    assert done.code == 1
    assert "diverges from its hooks by" in done.out
    assert not (tmp_path / "ws").exists()


def test_what_only_comes_near_is_told_with_all_that_was_tried(
    raylens: Raylens, edits: Callable[..., str], few_words: tuple[str, ...], tmp_path: Path
) -> None:
    tune = Path(__file__).parents[2] / "platform/raylens/bundle/organisms/adapters/decorator-verify-1"
    out = str(tmp_path / "out")
    asked = ("patch", "export", edits(direction="d", method="project_out"), "--out", out, "--adapter-of", str(tune))
    done = raylens(tmp_path / "ws", *asked, *few_words)
    assert done.code == 0, done.err
    assert "no weights do the same: resid_post.3 holds what the embedding" in done.out
    for name in ("nothing", "writers", "last_2", "writers+mean", "fitted", "←"):
        assert name in done.out
    assert "d (projection, root mean square): untouched" in done.out
    assert raylens(tmp_path / "ws", "patch", "verify", out).code == 0
    done = raylens(tmp_path / "ws", *asked, *few_words, "--patch-only", "--form", "last_2")
    assert done.code == 0, done.err
    assert "load it beside" in done.err
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert {name.split(".")[2] for name in config["target_modules"]} == {"2", "3"}
    assert raylens(tmp_path / "ws", "patch", "verify", out).code == 0


@pytest.mark.parametrize(
    ("edit", "more", "said"),
    [
        ({"feature": "f_3_17", "where": "firing"}, (), "no weights act on some tokens only"),
        ({"feature": "f_2_17"}, (), "no SAE of layer 2 of raylens/pico is known"),
        ({"feature": "f_3_99999"}, (), "has no feature 99999"),
        ({"feature": "f_3_17"}, ("--sae", "gpt2-small-res-jb/blocks.3.hook_resid_pre"), "gpt2"),
        ({"direction": "d"}, ("--adapter-of", "raylens/pico"), "is a whole model and no adapter"),
        ({"direction": "d"}, ("--patch-only",), "--patch-only is of a fine-tune"),
        (
            {"direction": "d"},
            ("--fit-text", "stdlib:held_out", "--text", "stdlib:held_out"),
            "is fitted to and measured",
        ),
        ({"direction": "d", "strength": 1e12}, (), "is the most"),
        ({"direction": "d"}, ("--model", "nobody-knows/this"), "nobody-knows/this"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_written(
    raylens: Raylens, edits: Callable[..., str], edit: dict[str, Any], more: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = raylens(tmp_path / "ws", "patch", "export", edits(**edit), "--out", str(tmp_path / "out"), *LITTLE, *more)
    assert done.code == (1 if "nobody" in said else 2), done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert " hint: " in line
    assert not (tmp_path / "out").exists()


def test_a_patch_for_another_model_is_not_imported(raylens: Raylens, edits: Callable[..., str], tmp_path: Path) -> None:
    path = Path(edits(direction="d"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "google/gemma-2-2b"}))
    done = raylens(tmp_path / "ws", "patch", "import", str(path), "--model", "raylens/pico")
    assert done.code == 2
    assert "the patch is for google/gemma-2-2b, and the model is raylens/pico" in done.err
    assert raylens(tmp_path / "ws", "patch", "import", str(path)).code == 0
    (tmp_path / "p.bin").write_bytes(b"never opened")
    assert "is a pickle" in raylens(tmp_path / "ws", "patch", "import", str(tmp_path / "p.bin")).err
