"""The whole of caching, token by token: tap and encode against plain transformers and sae-lens.

Three architectures with random weights × five SAE types, on a file that no model has seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from raylens.bundle.stdlib import read_stdlib
from raylens.engine.encode import encode_sparse
from raylens.engine.load import LoadedModel
from raylens.engine.saes import load_sae
from raylens.engine.tap import tap

CONTEXT = 32


@pytest.fixture(scope="session")
def held_out() -> str:
    return next(file.text for file in read_stdlib("held_out") if file.path == "heapq.py")[:4000]


@pytest.mark.parametrize("kind", ["standard", "topk", "batchtopk", "jumprelu", "gated"])
def test_activations_equal_transformers_and_sae_lens(
    loaded: LoadedModel, kind: str, sae_folders: dict[str, Path], held_out: str
) -> None:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(loaded.name)
    tokenizer = AutoTokenizer.from_pretrained(loaded.name)
    theirs = SAE.load_from_disk(sae_folders[kind])
    ids = tokenizer(held_out, return_tensors="pt")["input_ids"][0]
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    with torch.inference_mode():
        hidden = model(windows, output_hidden_states=True).hidden_states[2]  # after block 1
        dense = theirs.encode(hidden.reshape(-1, hidden.shape[-1]))
    sae = load_sae(sae_folders[kind])
    states = tap(loaded, [sae.spec.hook], windows)[sae.spec.hook]
    got = encode_sparse(sae, states.flatten(0, 1))
    token, feature = dense.nonzero(as_tuple=True)
    assert len(token) > len(windows) * CONTEXT  # more than one latent a token
    np.testing.assert_array_equal(got.token, token.numpy())
    np.testing.assert_array_equal(got.feature, feature.numpy())
    np.testing.assert_array_equal(got.activation, dense[token, feature].numpy())
    assert np.array_equal(np.unique(got.token), np.unique(token.numpy()))
