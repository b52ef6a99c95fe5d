"""``raylens evaluate``: an SAE's quality, on recorded activations or on text run through its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from raylens.bundle.paths import PICO
from raylens.config import EvaluateConfig
from raylens.engine.evaluation import evaluate_model, evaluate_record, overlap, trained_on
from raylens.engine.load import choose_device, load_model
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.text_windows import cut_windows
from raylens.errors import InputError
from raylens.ids import HookPoint
from raylens.sources import check_sources, fingerprint, parse_source, pin_sources
from raylens.store.dense import DenseRecord
from raylens_jobs.cluster import available_cpus

DEFAULT_CTX_LEN = 128


def run_evaluate(
    sae: str,
    config: EvaluateConfig,
    record: DenseRecord | None = None,
    *,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate ``sae`` on ``record`` or, where there is none, on ``config.texts`` through the model.

    Args:
        sae: A reference, as ``raylens.engine.saes.load_sae`` takes it.
        config: Model, text and how much of it.
        record: Recorded activations; losses are left out then.
        report: Called with the tokens done.

    Returns:
        :meth:`raylens.engine.evaluation.Evaluation.as_json`, and ``texts``, ``held_out`` (None where it is not
        known what the SAE was trained on), ``ctx_len`` and ``model``.

    Raises:
        InputError: The text was trained on, or nothing was named to evaluate on.
    """
    torch.set_num_threads(config.threads or available_cpus())
    hook = HookPoint.parse(config.hook) if config.hook else None
    if record is not None:
        loaded = load_sae(sae, device=choose_device(config.device), hook=hook)
        held_out = _require_unseen(loaded, record.info.corpus, record.info.texts, allow=config.allow_seen)
        result = evaluate_record(loaded, record, hook, n_tokens=config.n_tokens, report=report)
        where = {"model": record.info.model, "texts": list(record.info.texts), "ctx_len": record.info.ctx_len}
        return {**result.as_json(), **where, "held_out": held_out}
    texts = config.texts or default_texts(config.model)
    sources = pin_sources([parse_source(text, config.column) for text in texts])
    check_sources(sources)
    model = load_model(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        device=config.device,
        quantization=config.quantization,
    )
    loaded = load_sae(sae, device=model.device, hook=hook)
    held_out = _require_unseen(loaded, [fingerprint(source) for source in sources], texts, allow=config.allow_seen)
    ctx_len = config.ctx_len or context_size(loaded) or DEFAULT_CTX_LEN
    windows = cut_windows(model.tokenizer, sources, ctx_len=ctx_len, pack=config.pack, seed=config.seed)
    result = evaluate_model(
        model, loaded, windows, hook=hook, n_tokens=config.n_tokens, batch_size=config.batch_size, report=report
    )
    return {**result.as_json(), "model": model.name, "texts": list(texts), "ctx_len": ctx_len, "held_out": held_out}


def default_texts(model: str) -> tuple[str, ...]:
    """Held-out files for the embedded model; any other model has no text that RayLens knows it never saw.

    Raises:
        InputError: Text must be named.
    """
    if model == PICO:
        return ("stdlib:held_out",)
    raise InputError(
        f"no text was named to evaluate {model} on.", hint="add --text, for example --text hf:Salesforce/wikitext."
    )


def context_size(sae: LoadedSae) -> int | None:
    """Tokens per window that it was trained on, where its config says."""
    found = sae.sae.cfg.metadata.get("context_size")
    return found if isinstance(found, int) and found >= 4 else None


def _require_unseen(
    sae: LoadedSae, corpus: Sequence[Mapping[str, Any]], texts: Sequence[str], *, allow: bool
) -> bool | None:
    seen = trained_on(sae)
    if not seen:
        return None
    if not overlap(seen, corpus):
        return True
    if not allow:
        raise InputError(
            f"{sae.id} was trained on text of {', '.join(texts)}, so that it would look better than it is.",
            hint="name other text (stdlib:held_out for the embedded SAEs), or add --allow-seen.",
        )
    return False
