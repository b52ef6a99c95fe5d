"""``raylens steer``: what a model says of a text, untouched and edited, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raylens.api.edits import PatchSpec
from raylens.catalog import Catalog
from raylens.config import SteerConfig
from raylens.engine.candidates import load_candidate
from raylens.engine.load import load_model, token_strings
from raylens.engine.sae_choice import choose
from raylens.engine.saes import LoadedSae
from raylens.engine.sampling import Dice
from raylens.engine.text_streams import COLDEST
from raylens.workbench.edited_reading import compare, next_logits
from raylens.workbench.edited_text import write
from raylens.workbench.edits import load_edits
from raylens.workbench.feature_scale import FeatureScale, sample_scale
from raylens_jobs.named_saes import named_saes


def run_steer(
    config: SteerConfig,
    spec: PatchSpec,
    prompt: str,
    catalog: Catalog,
    *,
    say: Callable[[str], None] = lambda _: None,
    written: Callable[[str, str], None] = lambda _which, _text: None,
) -> dict[str, Any]:
    """Say what comes next with and without an edit, and write on both ways.

    Args:
        config: Model, SAEs, and how much is written.
        spec: The edit.
        prompt: The text.
        catalog: Knows SAEs.
        say: Told what a person should know of a choice.
        written: Told ``baseline`` or ``patched``, and a part of its text, as they come.

    Returns:
        ``model``, ``edits``, ``tokens``, ``next`` (rows of id, token, baseline, patched, change), ``kl``, and where
        text was written ``baseline`` and ``patched``.

    Raises:
        InputError, MismatchError, UnknownNameError: Model, SAE, edit or text do not fit together.
        RunError, OutOfMemoryError: It does not run.
    """
    how: dict[str, Any] = {"dtype": config.dtype, "device": config.device}
    if config.adapter is not None:
        loaded = load_candidate(config.adapter, config.model, **how)
    else:
        loaded = load_model(config.model, revision=config.revision, quantization=config.quantization, **how)
    refs = config.saes or named_saes(spec, catalog, config.model)
    saes: dict[str, LoadedSae] = {}
    for choice, _ in choose(refs, loaded.info, catalog, override=config.override_guard, say=say):
        sae = choice.load(str(loaded.device))
        saes[str(sae.id)] = sae
    scales: dict[str, FeatureScale] = {}

    def largest(sae: LoadedSae, feature: int) -> float:
        name = str(sae.id)
        if name not in scales:
            scales[name] = sample_scale(loaded, sae)
        (found,) = scales[name].of([feature])
        say(f"the largest activation of {name}/{feature} is {found.value:.4g} (of {found.source})")
        return found.value

    edits = load_edits(loaded, spec, saes, spec.sae, largest)
    ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    tokens = [*loaded.prefix_ids, *ids]
    found = compare(next_logits(loaded, tokens), next_logits(loaded, tokens, edits, len(tokens)), config.top_k)
    rows = zip(found.ids, token_strings(loaded.tokenizer, found.ids), found.baseline, found.patched, strict=True)
    result: dict[str, Any] = {
        "model": loaded.name,
        "edits": [str(one) for one in spec.edits],
        "tokens": token_strings(loaded.tokenizer, tokens),
        "next": [
            {"id": id_, "token": text, "baseline": before, "patched": after, "change": after - before}
            for id_, text, before, after in rows
        ],
        "kl": found.kl,
    }
    for which, some in (("baseline", ()), ("patched", edits)) if config.max_new_tokens else ():
        dice = Dice(config.temperature, config.top_p, config.seed) if config.temperature > COLDEST else None
        parts: list[str] = []
        for part in write(loaded, tokens, some, max_new_tokens=config.max_new_tokens, dice=dice):
            parts.append(part.text)
            written(which, part.text)
        result[which] = "".join(parts)
    return result
