"""Reading prompts: SAE codes of each, and its next-token distributions, from one forward pass.

The pass ends after the final norm; the unembedding runs on the prompt's positions alone, a block at a time, so that
logits of a large vocabulary are never held for a whole text. On a CPU each text is a pass of its own: its numbers
then cannot depend on the other texts, and nothing is lost (16 texts of 64 tokens take as long together). Elsewhere
texts of equal length go together, without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from raylens.audit.pooling import PromptCodes
from raylens.engine.encode import encode_sparse
from raylens.engine.load import LoadedModel
from raylens.engine.readings import NextTokens, PromptReading, PromptTokens
from raylens.engine.saes import LoadedSae
from raylens.engine.tap import tap
from raylens.engine.unembedding import FINAL_NORM, LOGITS, logits_of
from raylens.errors import InputError, MismatchError

__all__ = ["KEEP_TOP", "PromptTokens", "read_prompts"]

KEEP_TOP: Final = 128
"""Next tokens kept of a reference. On pico they hold seven eighths of the probability, and the divergence of a
fine-tune over their partition was 0.90 to 0.94 of the whole one (six LoRA fine-tunes, 24 prompts of code)."""

_BATCH_TOKENS: Final = 8192
_LOGITS: Final = LOGITS


def read_prompts(
    loaded: LoadedModel,
    sae: LoadedSae | None,
    texts: Sequence[PromptTokens],
    reference_top: Sequence[NextTokens] | None = None,
    keep_top: int = KEEP_TOP,
) -> list[PromptReading]:
    """Codes of each text, and of its prompt's positions the next-token distributions or how far they are off.

    Args:
        loaded: A causal LM; the call holds its lock for each pass.
        sae: What to encode with; None for no codes.
        texts: Prompts with what was written after them.
        reference_top: Of a candidate: what the reference gave for the same prompts. None of a reference.
        keep_top: Next tokens to keep of a reference; all where the vocabulary has no more.

    Returns:
        Of a reference readings with ``next_tokens``, of a candidate with ``kl``.

    Raises:
        InputError: A text is longer than what the model reads.
        MismatchError: ``reference_top`` is of other prompts or of another vocabulary, or the SAE of another width.
        RunError: Activations or logits are NaN or infinite.
        OutOfMemoryError: It does not fit.
    """
    _check(loaded, texts, reference_top)
    found: dict[int, PromptReading] = {}
    for batch in _batches(texts, 1 if loaded.device.type == "cpu" else _BATCH_TOKENS):
        ids = torch.tensor([list(texts[at].ids) for at in batch])
        points = [FINAL_NORM] if sae is None else [sae.spec.hook, FINAL_NORM]
        read = tap(loaded, points, ids) if ids.shape[1] else {}
        for row, at in enumerate(batch):
            text = texts[at]
            codes = _codes(sae, read[sae.spec.hook][row] if read else None, text) if sae is not None else None
            hidden = read[FINAL_NORM][row, : text.n_prompt] if read else torch.empty(0, loaded.d_model)
            if reference_top is None:
                found[at] = PromptReading(codes, next_tokens=_likeliest(loaded, hidden, keep_top))
            else:
                found[at] = PromptReading(codes, kl=_divergence(loaded, hidden, reference_top[at]))
    return [found[at] for at in range(len(texts))]


def _check(loaded: LoadedModel, texts: Sequence[PromptTokens], tops: Sequence[NextTokens] | None) -> None:
    limit = loaded.info.max_positions
    for at, text in enumerate(texts):
        if limit is not None and len(text.ids) > limit:
            raise InputError(
                f"prompt {at} and its answer have {len(text.ids):,} tokens, more than the {limit:,} of {loaded.name}.",
                hint="shorten the prompt, or write fewer tokens.",
            )
    if tops is None:
        return
    wanted, given = [text.n_prompt for text in texts], [len(top.ids) for top in tops]
    if wanted != given:
        raise MismatchError(
            f"the reference was read on {len(given)} prompts of {sum(given)} tokens, the candidate on {len(wanted)} of "
            f"{sum(wanted)}.",
            hint="read the reference again on this suite, with this tokenizer.",
        )
    largest = max((int(top.ids.max()) for top in tops if top.ids.size), default=0)
    if largest >= loaded.info.vocab_size:
        raise MismatchError(
            f"the reference may say token {largest}, and {loaded.name} has only {loaded.info.vocab_size:,}.",
            hint="name a candidate of the same vocabulary.",
        )


def _batches(texts: Sequence[PromptTokens], batch_tokens: int) -> Iterator[list[int]]:
    alike: dict[int, list[int]] = {}
    for at, text in enumerate(texts):
        alike.setdefault(len(text.ids), []).append(at)
    for length, places in alike.items():
        rows = max(1, batch_tokens // max(1, length))
        for first in range(0, len(places), rows):
            yield places[first : first + rows]


def _codes(sae: LoadedSae, acts: Tensor | None, text: PromptTokens) -> PromptCodes:
    answer = None if text.answer_start is None else (text.answer_start, len(text.ids))
    if acts is None:  # an empty text
        return PromptCodes(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), 0, answer)
    sparse = encode_sparse(sae, acts)
    return PromptCodes(sparse.token, sparse.feature, sparse.activation, len(acts), answer)


def _likeliest(loaded: LoadedModel, hidden: Tensor, keep_top: int) -> NextTokens:
    keep_top = min(keep_top, loaded.info.vocab_size)
    ids, kept, rest = [], [], []
    for logits in _log_probs(loaded, hidden):
        top = logits.topk(min(keep_top, logits.shape[1]), dim=-1)
        some, others = _partition(logits, top.indices)
        ids.append(top.indices.to("cpu", torch.int32).numpy())
        kept.append(some)
        rest.append(others)
    return NextTokens(
        np.concatenate([np.empty((0, keep_top), np.int32), *ids]),
        np.concatenate([np.empty((0, keep_top), np.float32), *kept]),
        np.concatenate([np.empty(0, np.float32), *rest]),
    )


def _divergence(loaded: LoadedModel, hidden: Tensor, top: NextTokens) -> float:
    nats, start = [np.empty(0)], 0
    for logits in _log_probs(loaded, hidden):
        part = slice(start, start + len(logits))
        start += len(logits)
        ids = torch.from_numpy(top.ids[part]).to(logits.device, torch.long)
        some, others = _partition(logits, ids)
        nats.append(NextTokens(top.ids[part], top.log_probs[part], top.rest[part]).kl_to(some, others))
    per_position = np.concatenate(nats)
    return float(per_position.mean()) if len(per_position) else 0.0


def _partition(log_probs: Tensor, ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities ``[positions, kept]`` of ``ids``, and ``[positions]`` of all others together."""
    kept = log_probs.gather(1, ids)
    rest = log_probs.scatter(1, ids, -torch.inf).logsumexp(dim=1)
    return kept.cpu().numpy(), rest.cpu().numpy()


def _log_probs(loaded: LoadedModel, hidden: Tensor) -> Iterator[Tensor]:
    """float32 log-probabilities ``[positions, vocabulary]`` after the final norm's ``hidden``, in blocks of rows."""
    for logits in logits_of(loaded, hidden, _LOGITS):
        yield logits.log_softmax(dim=-1)
