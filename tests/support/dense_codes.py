"""The slow way to features of a text: the whole model, every latent of every token."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raylens.engine.load import LoadedModel, load_model
from raylens.engine.saes import load_sae


@cache
def pico() -> LoadedModel:
    return load_model("raylens/pico", device="cpu")


@cache
def _sae(name: str) -> Any:
    return load_sae(name)


def ids_of(text: str) -> list[int]:
    """Token ids with BOS, as the model's tokenizer gives them."""
    found = pico().tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(found, list)
    return [*pico().prefix_ids, *found]


def codes(text: str, sae: str) -> NDArray[np.float32]:
    """``[tokens, d_sae]`` activations, BOS in the first row."""
    loaded = _sae(sae)
    layer = loaded.spec.hook.layer_index
    with torch.inference_mode():
        hidden = pico().model(torch.tensor([ids_of(text)]), output_hidden_states=True).hidden_states[layer + 1][0]
        return loaded.sae.encode(hidden).numpy()
