"""``raylens convert``: what a person sees of it; what it makes is tested in ``tests/engine/test_convert.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Raylens = Callable[..., Any]


def test_a_pickle_becomes_a_folder_and_the_next_command_is_told(raylens: Raylens, tmp_path: Path) -> None:
    pickle, out = tmp_path / "sae.pt", tmp_path / "out"
    torch.manual_seed(0)
    torch.save(
        {"W_enc": torch.randn(8, 24), "W_dec": torch.randn(24, 8), "b_enc": torch.randn(24), "b_dec": torch.randn(8),
         "n_fired": torch.zeros(24)},
        pickle,
    )  # fmt: skip
    told = ("--model", "org/model", "--hook", "resid_post.3", "--k", "4")
    done = raylens(tmp_path / "ws", "convert", str(pickle), "--out", str(out), *told)
    assert done.code == 0, done.err
    assert f"{out}: a topk SAE of 24 latents on resid_post.3 (8 wide) of org/model" in done.out
    assert f"raylens cache --model org/model --sae {out}" in done.out
    assert "left out: n_fired" in done.err
    assert not (tmp_path / "ws").exists()
    again = raylens(tmp_path / "ws", "convert", str(pickle), "--out", str(out), *told)
    assert (again.code, again.out) == (2, "")
    assert "exists already" in again.err
    done = raylens(tmp_path / "ws", "convert", str(pickle), "--out", str(tmp_path / "second"), *told, "--json")
    assert {key: done.document[key] for key in ("kind", "out", "skipped")} == {
        "kind": "sae",
        "out": str(tmp_path / "second"),
        "skipped": ["n_fired"],
    }
    assert done.document["about"]["d_sae"] == 24


def test_facts_that_nothing_says_are_asked_for(raylens: Raylens, tmp_path: Path) -> None:
    (tmp_path / "sae.pt").write_bytes(b"not opened")
    done = raylens(tmp_path / "ws", "convert", str(tmp_path / "sae.pt"), "--out", str(tmp_path / "out"))
    assert (done.code, done.out) == (2, "")
    assert "error: nothing beside" in done.err
    assert "hint: add --model and --hook" in done.err
    assert not (tmp_path / "out").exists()
