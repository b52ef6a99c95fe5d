"""Model cards of the embedded artefacts, written from the figures measured beside each of them.

A card states only what its ``metrics.json`` holds, so a rebuilt artefact and its card cannot
disagree; a test writes the cards anew and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raylens.bundle import paths
from raylens.bundle.sae_card import sae_card

CARD = "README.md"

_LICENCE = """\
The weights are under Apache-2.0, as RayLens is. The text they were trained on is CPython's standard
library, which comes with every Python under the PSF License Agreement and is not shipped here.
"""


def write_cards(root: Path = paths.ROOT) -> list[Path]:
    """Write a card beside every ``metrics.json`` of the bundle, and return the cards' paths."""
    written = []
    for path, text in render_cards(root).items():
        path.write_text(text)
        written.append(path)
    return written


def render_cards(root: Path = paths.ROOT) -> dict[Path, str]:
    """Each card's path and markdown, from the figures under ``root``."""
    sections = {root / "pico": pico_card, paths.embedding_path(root): embedding_card}
    sections |= {root / "saes" / sae.id.name: sae_card for sae in paths.list_saes(root)}
    cards = {}
    for folder, render in sections.items():
        metrics = folder / "metrics.json"
        if metrics.is_file():
            cards[folder / CARD] = f"{render(json.loads(metrics.read_text()))}\n## Licence\n\n{_LICENCE}"
    return cards


def pico_card(metrics: Mapping[str, Any]) -> str:
    """The card of ``raylens/pico``."""
    held_out, train, recipe, config = (metrics[k] for k in ("held_out", "train", "recipe", "config"))
    low, high = held_out["interval"]
    rows = "\n".join(f"| `{path}` | {bits:.3f} |" for path, bits in held_out["per_file"].items())
    epochs = train["tokens_seen"] / train["tokens"]
    return f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# raylens/pico

A causal language model of {metrics["parameters"]:,} parameters for trying RayLens without a GPU, a hub or a token.
Llama architecture: {config["num_hidden_layers"]} layers of width {config["hidden_size"]}, \
{config["num_attention_heads"]} heads, tied embeddings, byte-level BPE of {metrics["vocabulary"]:,} tokens
that keeps a newline and the indentation after it in one token. Every sequence starts with `<|bos|>`.
Weights are stored in float16 and computed with in float32.

## Data

The standard library of CPython {metrics["python"]}, its own source and reference text, without test folders:
{train["files"]} files, {train["bytes"]:,} bytes, {train["tokens"]:,} tokens for training;
{held_out["files"]} files, {held_out["bytes"]:,} bytes, {held_out["tokens"]:,} tokens held out by list. `corpus.json`
in this package names every file with its hash and split (digest `{metrics["corpus"][:16]}`). The held-out files were
read by no training step, the tokenizer's included.

## Recipe

{recipe["steps"]:,} steps of {recipe["tokens_per_step"]:,} tokens: {train["tokens_seen"]:,} in all, {epochs:.1f} epochs.
Windows of {recipe["window"]} tokens, in the last {recipe["long_share"]:.0%} of steps of {recipe["long_window"]}.
Muon on the matrices and AdamW on the rest, learning rate {recipe["learning_rate"]:g},
{recipe["warmup_steps"]} steps of warm-up and linear decay to zero, bfloat16 autocast, seed {recipe["seed"]}.

`python -m raylens_jobs.bundle pico` makes it again: about an hour on two CPU cores, resumable. Another machine
gives a model as good, not the same bits.

## Figures, on held-out files

| | bits per byte |
|---|---|
| this model, as stored | **{held_out["bits_per_byte"]:.3f}** (95 % interval {low:.3f}–{high:.3f}) |
| `xz -9`, all files in one archive | {held_out["xz_together"]:.3f} |
| `xz -9`, each file alone | {held_out["xz_each"]:.3f} |

n = {held_out["files"]} files; the interval is a bootstrap over files. Each token is scored once, in windows of 512
tokens with at least half of them context.

| file | bits per byte |
|---|---|
{rows}

## Limits

It is an object of study, not a tool. It writes plausible-looking Python and repeats itself under greedy
decoding; it knows no facts, follows no instruction, and has seen next to nothing but Python and English
documentation. Its context is 1,024 positions, of which training used {recipe["long_window"]}. Held-out files come from
the same library as the training files, written to the same conventions: the figure is no measure of how it does on
other code.
"""


def embedding_card(metrics: Mapping[str, Any]) -> str:
    """The card of the sentence embedding."""
    recipe = metrics["recipe"]
    rows = []
    for task, result in metrics["held_out"].items():
        for system in ("trained", "tf-idf", "untrained"):
            cells = " | ".join(_with_interval(result[system][name]) for name in ("mrr", "recall_at_10"))
            rows.append(f"| {task} (n = {result['n']:,}, {result['files']} files) | {system} | {cells} |")
    table = "\n".join(rows)
    return f"""\
---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---

# RayLens's static sentence embedding

Vectors of {recipe["dim"]} dimensions for short texts and excerpts of code: the normalised weighted mean of one vector a
token, over the tokenizer of `raylens/pico`. No forward pass, no hub, no GPU. It lets hard negatives and embedding
scores run offline; for real work name a larger one, such as `all-MiniLM-L6-v2`.

Read it with NumPy alone (`raylens.bundle.embedding.embed`) or with `SentenceTransformer(folder)`: same vectors.

## Data and recipe

The training split of the standard library of CPython {metrics["python"]}, named file by file in `corpus.json` (digest
`{metrics["corpus"][:16]}`): pairs of consecutive excerpts of 32 tokens, and docstrings with the code they document.
In-batch negatives in both directions (`MultipleNegativesSymmetricRankingLoss`, scale {recipe["scale"]:g}),
batch {recipe["batch"]}, {recipe["epochs"]} epochs, learning rate {recipe["learning_rate"]:g}, \
{recipe["docstring_share"]:.0%} of batches docstring pairs, seed {recipe["seed"]}.

`python -m raylens_jobs.bundle embedding` makes it again in about two minutes on one CPU core.

## Figures, on held-out files

Find the right text among those of all held-out files of the same task; a tie counts as a miss. 95 % intervals are
bootstraps over files.

| task | vectors | mean reciprocal rank | recall at 10 |
|---|---|---|---|
{table}

*untrained* is the same model before training (random token vectors); *tf-idf* uses the same tokens, with document
frequencies from the training split. About half a dozen settings were compared on these same files before the recipe
was fixed; they differed by at most 0.03.

## Limits

A bag of tokens: word order and negation are lost. Where two excerpts share words, plain TF-IDF does about as well
(compare the intervals above); training helps where a description is to be matched with code. It knows the words of
Python and its documentation, and little else.
"""


def _with_interval(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f}–{high:.3f})"
