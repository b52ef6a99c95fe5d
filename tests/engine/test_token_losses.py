"""Token losses against one sequence at a time, read whole, without a batch or a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raylens.engine.load import LoadedModel
from raylens.engine.token_losses import token_losses
from raylens.llm.errors import ContextTooLongError


def one_at_a_time(model: LoadedModel, context: str, text: str) -> NDArray[np.float64]:
    """The definition: −log softmax at each token of the text, in float64."""
    tokenizer: Any = model.tokenizer
    before = [*model.prefix_ids, *tokenizer(context, add_special_tokens=False)["input_ids"]]
    said = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not said:
        return np.zeros(0)
    with torch.inference_mode():
        logprobs = torch.log_softmax(model.model(torch.tensor([[*before, *said]])).logits[0].double(), dim=-1)
    places = range(len(before), len(before) + len(said))
    return np.array([-float(logprobs[at - 1, [*before, *said][at]]) if at else np.nan for at in places])


def check(model: LoadedModel, pairs: list[tuple[str, str]], **more: Any) -> None:
    found = token_losses(model, pairs, **more)
    for (context, text), row in zip(pairs, found, strict=True):
        assert not isinstance(row, Exception)
        assert row.dtype == np.float64
        np.testing.assert_allclose(row, one_at_a_time(model, context, text), atol=2e-4, equal_nan=True)


def test_texts_after_one_context_read_it_once(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than gemma2's window of 16 tokens, so that its cache has already dropped some.
    context = "for name, value in sorted(table.items()):\n    print(name, value)\n" * 2
    texts = ["def area(radius):", "π", "x", "import math\n" * 3, "return math.pi * radius**2"]
    network: Any = loaded.model
    lengths: list[tuple[int, int]] = []
    original = network.forward

    def forward(input_ids: torch.Tensor, **more: Any) -> Any:
        lengths.append((input_ids.shape[0], input_ids.shape[1]))
        return original(input_ids, **more)

    forward.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    monkeypatch.setattr(network, "forward", forward)
    pairs = [(context, text) for text in texts]
    token_losses(loaded, pairs, max_rows=3)
    tokenizer: Any = loaded.tokenizer
    n = len(loaded.prefix_ids) + len(tokenizer(context, add_special_tokens=False)["input_ids"])
    assert [rows for rows, length in lengths if length == n] == [1]
    assert all(length < n for _, length in lengths[1:])
    monkeypatch.undo()
    check(loaded, pairs, max_rows=3)


@settings(max_examples=15)
@given(
    picks=st.lists(
        st.tuples(st.sampled_from(["", "a\n", "for x in y:\n", "def f():\n" * 4]), st.integers(0, 6)), max_size=9
    ),
    rows=st.integers(1, 4),
)
def test_any_mix_of_contexts_and_texts_gives_each_its_own(
    loaded_models: dict[str, LoadedModel], picks: list[tuple[str, int]], rows: int
) -> None:
    texts = ["", "x", "naïve 家", "return 1\n", " ", "import math, os, sys", "x = x"]
    for model in loaded_models.values():
        check(model, [(context, texts[at]) for context, at in picks], max_rows=rows)


def test_a_text_has_the_same_tokens_after_any_context(llama: LoadedModel) -> None:
    text = "  radius = 2"
    told, untold, nothing = token_losses(llama, [("what it is about:\n", text), ("a", text), ("", text)])
    assert not isinstance(told, Exception)
    assert not isinstance(untold, Exception)
    assert not isinstance(nothing, Exception)
    assert told.shape == untold.shape == nothing.shape
    assert np.isfinite(nothing).all()  # after its BOS
    assert not np.allclose(told, untold)


def test_without_bos_the_first_token_after_nothing_has_no_loss(loaded_models: dict[str, LoadedModel]) -> None:
    (row,) = token_losses(loaded_models["gpt2"], [("", "def area")])
    assert not isinstance(row, Exception)
    assert np.isnan(row[0])
    assert np.isfinite(row[1:]).all()


def test_what_is_too_long_is_told_apart(llama: LoadedModel) -> None:
    short, long = token_losses(llama, [("a", "b"), ("a", "b " * 200)], max_len=128)
    assert not isinstance(short, Exception)
    assert isinstance(long, ContextTooLongError)
    assert "more than the 128" in str(long)
