"""``raylens evaluate``: an SAE's quality, on recorded activations or on text run through its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from raylens.bundle.paths import PICO
from raylens.catalog.guard import guard
from raylens.config import EvaluateConfig
from raylens.engine.evaluation import evaluate_model, evaluate_record, overlap, trained_on
from raylens.engine.load import choose_device, load_model
from raylens.engine.models import describe_model
from raylens.engine.saes import LoadedSae, describe_sae, load_sae
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
        known what the SAE was trained on), ``ctx_len``, ``model``, and ``trained_on_model`` (None likewise).

    Raises:
        InputError: The text was trained on, or nothing was named to evaluate on, or windows are longer than the
            model takes.
        MismatchError: The SAE reads a point that the model lacks, or of another width.
    """
    torch.set_num_threads(config.threads or available_cpus())
    hook = HookPoint.parse(config.hook) if config.hook else None
    if record is not None:
        loaded = load_sae(sae, device=choose_device(config.device), hook=hook)
        record.info.column(str(hook or loaded.spec.hook))  # the first thing to be wrong is what was recorded
        held_out = _require_unseen(loaded, record.info.corpus, record.info.texts, allow=config.allow_seen)
        result = evaluate_record(loaded, record, hook, n_tokens=config.n_tokens, report=report)
        return {
            **result.as_json(),
            "model": record.info.model,
            "trained_on_model": loaded.spec.model_name,
            "texts": list(record.info.texts),
            "ctx_len": record.info.ctx_len,
            "held_out": held_out,
        }
    texts = config.texts or default_texts(config.model)
    sources = pin_sources([parse_source(text, config.column) for text in texts])
    check_sources(sources)
    # Before weights are fetched. Fine-tunes are evaluated with their base's SAEs, so another model is no error.
    described = describe_model(config.model, revision=config.revision)
    if hook is None:
        guard(described, describe_sae(sae), override=True)
    longest = described.max_positions
    if config.ctx_len is not None and longest is not None and config.ctx_len > longest:
        raise InputError(
            f"a context of {config.ctx_len} tokens is longer than the {longest} that {described.name} takes.",
            hint=f"lower --ctx-len to {longest} or less.",
        )
    model = load_model(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        device=config.device,
        quantization=config.quantization,
    )
    loaded = load_sae(sae, device=model.device, hook=hook)
    held_out = _require_unseen(loaded, [fingerprint(source) for source in sources], texts, allow=config.allow_seen)
    ctx_len = config.ctx_len or min(context_size(loaded) or DEFAULT_CTX_LEN, longest or 1_000_000)
    windows = cut_windows(model.tokenizer, sources, ctx_len=ctx_len, pack=config.pack, seed=config.seed)
    result = evaluate_model(
        model, loaded, windows, hook=hook, n_tokens=config.n_tokens, batch_size=config.batch_size, report=report
    )
    return {
        **result.as_json(),
        "model": model.name,
        "trained_on_model": loaded.spec.model_name,
        "texts": list(texts),
        "ctx_len": ctx_len,
        "held_out": held_out,
    }


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
