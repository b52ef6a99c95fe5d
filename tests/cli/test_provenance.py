"""``raylens provenance`` of one text, without a cache: table, JSON, picture, rows, and what is refused (A3.10)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylens.store.sql import query
from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]
TEXT = "import heapq\n\ndef smallest(items, count):\n    heap = list(items)\n    return ["
LAST = "raylens-pico-res/layer_5"


@pytest.fixture(scope="module")
def feature() -> str:
    """The strongest feature of the last SAE on some token of the text."""
    import torch

    from fine_tunes import pico
    from raylens.engine.saes import load_sae
    from raylens.engine.tap import tap

    model, sae = pico(), load_sae(LAST)
    tokenizer: Any = model.tokenizer
    ids = torch.tensor([[*model.prefix_ids, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        codes = sae.sae.encode(tap(model, [sae.spec.hook], ids)[sae.spec.hook][0])
    return f"{LAST}/{int(codes[12].argmax())}"


def test_a_feature_of_any_text(raylens: Raylens, tmp_path: Path, feature: str) -> None:  # A3.10
    page = tmp_path / "graph.html"
    done = raylens(tmp_path / "w", "provenance", feature, "--text", TEXT, "--top", "6", "--out", str(page), "--json")
    assert done.code == 0, done.err
    found = done.document
    assert found["target"]["name"] == feature
    assert [share["layer"] for share in found["layers"]] == [1, 3]
    assert {edge["source"]["layer"] for edge in found["edges"]} == {1, 3}
    assert found["agreement"] >= 0.9
    assert found["model"] == "raylens/pico"
    assert page.read_text().startswith("<!doctype html>")

    rows = query(Workspace.open(tmp_path / "w"), "SELECT * FROM edges").table.to_pylist()
    assert len(rows) == len(found["edges"])
    assert {row["origin"] for row in rows} == {feature}
    assert {row["cache_id"] for row in rows} == {None}
    assert {row["provenance_id"] for row in rows} == {found["provenance_id"]}
    assert max(row["attribution"] for row in rows) == max(edge["attribution"] for edge in found["edges"])

    one_layer = raylens(
        tmp_path / "w", "provenance", feature, "--text", TEXT, "--sae", "raylens-pico-res/layer_1",
        "--token", str(found["target"]["token"]), "--integrated", "2", "--top", "3",
    )  # fmt: skip
    assert one_layer.code == 0, one_layer.err
    assert "raylens-pico-res/layer_3" not in one_layer.out
    assert "edges; ablation confirms the sign of" in one_layer.out
    assert one_layer.out.count("f_5_") >= 3

    done = raylens(tmp_path / "w", "provenance", feature, "--text", TEXT, "--top", "1", "--out", str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert "cannot be written" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("f_5_7", "--text", TEXT), "there is nothing to read"),
        (("f_5_7",), "there is no workspace"),
        ((f"{LAST}/999999", "--text", TEXT), "no feature 999999"),
        ((f"{LAST}/7", "--text", ""), "the text is empty"),
        ((f"{LAST}/7", "--text", "x", "--window", "3"), "--window and --text exclude one another"),
        ((f"{LAST}/7", "--windows", "3", "--token", "3"), "--token is about one text"),
        ((f"{LAST}/7", "--text", "x", "--token", "900"), "has no token 900"),
        ((f"{LAST}/7", "--text", "x", "--out", "no/such/folder/x.html"), "there is no folder"),
        (("raylens-pico-res/layer_1/7", "--text", "x"), "no SAE that reads a layer before resid_post.1"),
        (("no/such/7", "--text", "x"), "no"),
        ((f"{LAST}/7", "--text", "x", "--sae", "no/such"), "no"),
        (("raylens-pico-res/layer_3/7", "--text", "x", "--sae", LAST), "is not before resid_post.3"),
        ((f"{LAST}/7", "--text", "x", "--model", "./nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    raylens: Raylens, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:  # A3.10
    done = raylens(tmp_path / "w", "provenance", *words)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert (done.code, done.out) == (2, "")
    assert len(errors) == 1
    assert says in errors[0]
    assert " hint: " in errors[0]
