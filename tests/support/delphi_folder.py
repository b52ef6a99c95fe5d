"""A folder as delphi writes it, with the text of the standard library and latents that fire by obvious rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from raylens.bundle.paths import model_path

CTX_LEN = 64
D_SAE = 24
RETURN, TWIN, SELF, LOUD, NEGATIVE = 3, 4, 7, 12, 20
"""Latents: on 'return', two of them; on ' self'; beyond float16 on 'import'; below 0 on 'class'. Others are dead."""

Places = dict[tuple[int, int, int], float]
"""(Row, position, latent) → activation as it was before float16."""


def pico_tokenizer() -> Tokenizer:
    folder = model_path("raylens/pico")
    assert folder is not None
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@dataclass
class DelphiFolder:
    """What was written."""

    root: Path
    tokens: NDArray[np.int64]
    places: dict[str, Places] = field(default_factory=dict)

    def split(self, hookpoint: str, number: int) -> Path:
        return sorted((self.root / "latents" / hookpoint).glob("*.safetensors"))[number]


def write_delphi(root: Path, hookpoints: tuple[str, ...] = ("layers.3",), *, n_rows: int = 240) -> DelphiFolder:
    """Two splits a hookpoint, explanations and scores of three latents."""
    import argparse
    import textwrap

    tokenizer = pico_tokenizer()
    bos = tokenizer.token_to_id("<|bos|>")
    flat: list[int] = []
    for module in (argparse, textwrap):
        # Functions as documents, laid end to end with a separator, as delphi's data loader does.
        for part in Path(str(module.__file__)).read_text().split("def "):
            flat += [bos, *tokenizer.encode(f"def {part}", add_special_tokens=False).ids]
    tokens = np.array(flat[: n_rows * CTX_LEN], np.int64).reshape(-1, CTX_LEN)
    made = DelphiFolder(root, tokens)
    names = {one: tokenizer.token_to_id(one) for one in ("return", "Ġself", "import", "class")}
    assert None not in names.values()
    for number, hookpoint in enumerate(hookpoints):
        places: Places = {}
        for row, position in np.ndindex(tokens.shape):
            token = tokens[row, position]
            if token == names["return"]:
                places[row, position, RETURN] = 2.0 + row % 7 + number
                places[row, position, TWIN] = 1.0
            if token == names["Ġself"]:
                places[row, position, SELF] = 1.5 + position / 100
            if token == names["import"]:
                places[row, position, LOUD] = 70_000.0
            if token == names["class"]:
                places[row, position, NEGATIVE] = -3.0
        made.places[hookpoint] = places
        folder = root / "latents" / hookpoint
        folder.mkdir(parents=True)
        for first, last in ((0, D_SAE // 2 - 1), (D_SAE // 2, D_SAE - 1)):
            rows = sorted(place for place in places if first <= place[2] <= last)
            locations = np.array(rows, np.uint16).reshape(-1, 3)
            locations[:, 2] -= np.uint16(first)
            with np.errstate(over="ignore"):
                values = np.array([places[row] for row in rows]).astype(np.float16)
            tensors = {"locations": locations, "activations": values, "tokens": tokens}
            save_file(tensors, folder / f"{first}_{last}.safetensors")
        config = {"dataset_repo": "python/stdlib", "dataset_split": "train[:1%]", "cache_ctx_len": CTX_LEN}
        (folder / "config.json").write_text(json.dumps({**config, "model_name": "raylens/pico"}))
        explanations = root / "explanations" / Path(hookpoint).parent
        explanations.mkdir(parents=True, exist_ok=True)
        texts = {RETURN: "The word return, naïve", SELF: "self", LOUD: "Explanation could not be parsed."}
        for latent, text in texts.items():
            (root / "explanations" / f"{hookpoint}_latent{latent}.txt").write_text(json.dumps(text))
        for scorer in ("detection", "fuzz"):
            scores = root / "scores" / scorer
            scores.mkdir(parents=True, exist_ok=True)
            for latent in texts:
                name = f"{hookpoint.replace('/', '--')}_latent{latent}.txt"
                (scores / name).write_text(json.dumps(answers()))
    (root / "run_config.json").write_text(
        json.dumps({"model": "raylens/pico", "sparse_model": "some-one/sae-pico", "explainer_model": "an/llm"})
    )
    return made


def answers() -> list[dict[str, Any]]:
    """3 of 4 positives found, 1 of 4 negatives mistaken, one of each unanswered: precision, recall and F1 are 0.75."""
    given = [(True, True)] * 3 + [(True, False), (True, None), (False, True), (False, None)] + [(False, False)] * 3
    common = {"str_tokens": ["a"], "activations": [0.0], "distance": 1, "probability": None}
    return [
        {**common, "activating": truth, "prediction": said, "correct": None if said is None else said == truth}
        for truth, said in given
    ]
