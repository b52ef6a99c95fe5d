"""The model card of an embedded SAE, from what its training and its evaluation on held-out text measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sae_card(metrics: Mapping[str, Any]) -> str:
    """Markdown.

    Args:
        metrics: ``id``, ``model``, ``weights_dtype``, ``recipe`` (:class:`raylens.config.SaeRecipe`),
            ``train`` (figures of ``train_sae``, with ``ctx_len`` and ``recorded_tokens``) and ``held_out``
            (:meth:`raylens.engine.evaluation.Evaluation.as_json`), as ``raylens_jobs.bundle`` writes them.
    """
    recipe, train, held_out = metrics["recipe"], metrics["train"], metrics["held_out"]
    rows = "\n".join(f"| {label} | {_estimate(held_out[name], digits)} |" for label, name, digits in _ESTIMATES)
    shares = "\n".join(f"| {label} | {held_out[name]:.2%} |" for label, name in _SHARES)
    epochs = train["tokens"] / train["recorded_tokens"]
    top_k = recipe["architecture"] == "topk"
    active = f"{recipe['k']:g} active a token" if top_k else f"{held_out['l0']['value']:.3g} active a token on average"
    limit = (
        "the\nactivations a token may have are fixed in number, whether the token needs fewer or more"
        if top_k
        else "its\nthresholds were fitted to text of this kind: on other text more or fewer latents are active"
    )
    text = f"the training split of the standard library of CPython {metrics['python']}"
    if "stdlib:tests" in train.get("texts", ()):
        text += ",\nand as much of its test folders, without the tests of held-out files"
    finished = ""
    if done := train.get("finish"):
        finished = f"""

Then thresholds and decoder were fitted in turn, {len(done["l0"])} times, with the encoder as it was: each latent's
threshold so that {", then ".join(f"{l0:g}" for l0 in done["l0"])} are active a token on that text at the least error,
and the decoder as the least-squares solution for {done["decoder_tokens"]:,} tokens. Of {recipe["d_sae"]:,} latents,
those that fired on fewer than {done["min_firing_rate"] * 1e5:g} in 100,000 tokens of that text were left out:
{done["left_out"]:,}."""
    return f"""\
---
license: apache-2.0
library_name: sae_lens
---

# {metrics["id"]}

A sparse autoencoder on `{held_out["hook"]}` of `{metrics["model"]}`, the residual stream after that block (blocks count
from 0): {held_out["architecture"]}, {held_out["d_sae"]:,} latents, {active}. SAELens format,
weights stored in {metrics["weights_dtype"]} and computed with in float32. Decoder rows have norm 1. The BOS position
was left out of training: activations there mean nothing.

## Data and recipe

{train["recorded_tokens"]:,} tokens of {text}
(`corpus.json`, digest `{metrics["corpus"][:16]}`) in windows of {train["ctx_len"]}, activations recorded by
`raylens record` and trained on by `raylens train`: {train["tokens"]:,} tokens ({epochs:.1f} epochs) in batches
of {recipe["batch_size"]:,}, learning rate {recipe["learning_rate"]:g}, auxiliary loss for dead latents
{recipe["aux_coef"]:g}, seed {recipe["seed"]}.{finished}

`python -m raylens_jobs.bundle saes` makes it again, on two CPU cores.

## Figures, on held-out files

Measured by `raylens evaluate` on the weights as stored, over n = {held_out["n_tokens"]:,} tokens of
{held_out["n_documents"]} files that neither the model nor the SAE was trained on. 95 % intervals are bootstraps over
files.

| figure | value (interval) |
|---|---|
{rows}
{shares}

FVU is Σ‖x − x̂‖² / Σ‖x − x̄‖². *Recovered* is (zeroed − with the SAE) / (zeroed − clean), of the model's loss or of the
divergence from the model's own predictions; all losses in nats a token. *Dead* latents fired on none of these tokens,
which includes latents for things that held-out files lack.

## Limits

One small model, one kind of text. A latent that reads well on this corpus says little about other text, and {limit}.
"""


_ESTIMATES = (
    ("fraction of variance unexplained (FVU)", "fvu", 4),
    ("mean squared error", "mse", 4),
    ("active latents a token (L0)", "l0", 2),
    ("cross-entropy recovered", "ce_recovered", 4),
    ("KL recovered", "kl_recovered", 4),
    ("cross-entropy, clean", "ce_clean", 4),
    ("cross-entropy, with the SAE", "ce_sae", 4),
    ("cross-entropy, zeroed", "ce_zero", 4),
)
_SHARES = (
    ("dead latents", "dead_fraction"),
    ("latents that fire on more than 1 % of tokens", "dense_fraction_1pct"),
    ("latents that fire on more than 10 % of tokens", "dense_fraction_10pct"),
)


def _estimate(figure: Mapping[str, Any], digits: int) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.{digits}f}"
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f}–{figure['high']:.{digits}f})"
