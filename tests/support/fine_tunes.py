"""Fine-tunes with random weights, adapters as peft saves them among them, and prompts to try them on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from raylens.bundle.paths import PICO, model_path
from raylens.engine.load import LoadedModel, load_model

PICO_FOLDER = model_path(PICO)
assert PICO_FOLDER is not None

HEADS = (
    "def area(radius):\n",
    "import",
    "for name, value in sorted(table.items()):\n    print(",
    "class Reader:\n    def __init__(self, path):\n        self",
    "try:\n    value = int(text)\nexcept",
    "",
    "while True:\n    line = stream.readline()\n    if not line:\n",
)


@cache
def pico() -> LoadedModel:
    """The bundled model, loaded once; nobody changes it."""
    return load_model(PICO, device="cpu")


def make_adapter(
    folder: Path, *, base: Path = PICO_FOLDER, scale: float = 0.05, seed: int = 0, **settings: Any
) -> PeftModel:
    """Save an adapter to ``folder``; the model with it hooked in is the oracle of what merging should give.

    Args:
        folder: To write.
        base: Model folder.
        scale: Standard deviation of its matrices; 0 leaves second matrices zero, as before any training.
        seed: Of the matrices.
        settings: Of ``LoraConfig``; by default rank 4 on all linear layers.
    """
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings})
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if scale and ("lora_A" in name or "lora_B" in name or "lora_embedding" in name):
                    parameter.copy_(torch.randn_like(parameter) * scale)
                if scale and "modules_to_save" in name:
                    parameter.add_(torch.randn_like(parameter) * scale)
        model.save_pretrained(str(folder))
    return model.eval()


def prompts_of(loaded: LoadedModel, texts: Sequence[str] = HEADS) -> list[list[int]]:
    """Ids of each text that has any, of several lengths."""
    tokenizer: Any = loaded.tokenizer
    found = [[*loaded.prefix_ids, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    return [ids for ids in found if ids]


def changed(folder: Path, scale: float = 0.1, seed: int = 7) -> LoadedModel:
    """The model of a folder, every weight moved by ``scale`` of its standard deviation."""
    model = load_model(str(folder), device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * scale)
    return model
