"""The embedded model: loads by plain transformers, predicts held-out text as its card says, resumes training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from raylens.bundle.corpus_manifest import matches_running_python
from raylens.bundle.paths import PICO, model_path
from raylens.bundle.pico import PicoRecipe, bits_per_byte, document_bits, save_pico, train_pico
from raylens.bundle.stdlib import read_stdlib

FOLDER = model_path(PICO) or Path()
METRICS = json.loads((FOLDER / "metrics.json").read_text())
BITS_PER_BYTE = 1.25
SHORT_FILES = {"graphlib.py", "json/scanner.py", "json/tool.py", "queue.py"}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config()).eval()


def tiny_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )


def test_pico_loads_in_float32_and_its_weights_are_float16_numbers(model: Any) -> None:
    assert type(model) is LlamaForCausalLM
    assert sum(p.numel() for p in model.parameters()) == METRICS["parameters"]
    for weight in model.parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weight.half().float())


def test_pico_writes_python(model: Any, tokenizer: Any) -> None:
    def continued(prompt: str, tokens: int = 12) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
        return tokenizer.decode(out[0, ids.shape[1] :])

    assert continued("    def __init__(self, name):\n        self.name =", 1) == " name"
    assert continued("    with open(path) as", 2) == " f:"
    assert continued("for i in range(").startswith("len(")


def test_short_held_out_files_are_predicted_as_the_card_says(model: Any, tokenizer: Any) -> None:
    files = [f for f in read_stdlib("held_out") if f.path in SHORT_FILES]
    assert {f.path for f in files} == SHORT_FILES
    for file in files:
        ids = np.array(tokenizer(file.text, add_special_tokens=False)["input_ids"], np.int64)
        bits = bits_per_byte(model, [(file.text, ids)])
        assert bits <= BITS_PER_BYTE
        if matches_running_python():
            assert bits == pytest.approx(METRICS["held_out"]["per_file"][file.path], abs=2e-3)


def test_the_card_reports_what_was_asked_for() -> None:
    held_out = METRICS["held_out"]
    low, high = held_out["interval"]
    assert low < held_out["bits_per_byte"] < high
    assert held_out["bits_per_byte"] <= BITS_PER_BYTE
    assert held_out["bits_per_byte"] < held_out["xz_together"]


@pytest.mark.slow
def test_all_held_out_files_are_predicted_as_the_card_says(model: Any, tokenizer: Any) -> None:
    files = [
        (f.text, np.array(tokenizer(f.text, add_special_tokens=False)["input_ids"])) for f in read_stdlib("held_out")
    ]
    bits = bits_per_byte(model, files)
    assert bits <= BITS_PER_BYTE
    if matches_running_python():
        assert bits == pytest.approx(METRICS["held_out"]["bits_per_byte"], abs=1e-3)


@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 30])
def test_document_bits_scores_each_token_once_with_half_a_window_of_context(length: int) -> None:
    """Oracle: one forward a token, on the context that the definition gives it."""
    model, window = tiny_model(), 8
    ids = np.random.default_rng(0).integers(2, 64, size=length)
    expected = 0.0
    for at in range(length):
        # A window holds BOS and seven tokens; from the second on, it starts half a window before what it scores.
        k = 0 if at < window - 1 else 1 + (at - (window - 1)) // (window // 2 - 1)
        start = k * (window // 2 - 1)
        with torch.no_grad():
            logits = model(torch.tensor([[0, *ids[start:at]]])).logits[0, -1]
        expected -= float(torch.log_softmax(logits.float(), -1)[ids[at]]) / math.log(2)
    assert document_bits(model, ids, window) == pytest.approx(expected, abs=1e-3)


def test_saving_rounds_to_float16_and_keeps_the_embedding_once(tmp_path: Path) -> None:
    model = tiny_model()
    save_pico(model, tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    for (name, ours), (other, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(ours.half().float(), theirs)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 2 * sum(p.numel() for p in model.parameters()) + 4096


def test_training_killed_and_resumed_gives_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    documents = [rng.integers(2, 64, size=n) for n in (400, 300, 900)]
    recipe = PicoRecipe(steps=60, tokens_per_step=64, window=16, long_window=32, warmup_steps=5)

    class KilledError(Exception):
        pass

    def kill(_: str) -> None:
        raise KilledError

    whole = train_pico(documents, tiny_config(), recipe, tmp_path / "whole.pt", lambda _: None, 20)
    with pytest.raises(KilledError):
        train_pico(documents, tiny_config(), recipe, tmp_path / "cut.pt", kill, 20)
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["step"] == 40
    resumed = train_pico(documents, tiny_config(), recipe, tmp_path / "cut.pt", lambda _: None, 20)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert bits_per_byte(whole, [("x" * 900, documents[2])]) < bits_per_byte(tiny_model(), [("x" * 900, documents[2])])
