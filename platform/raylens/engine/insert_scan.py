"""What a model would write next after each of thousands of inserts at one place of a prompt.

The beginning that all inserts share is read once, and rows of equal length go together. This is a proposal step: what
it ranks high is looked at again elsewhere. So it multiplies in bfloat16 where that is faster, and keeps only the
likeliest next tokens of each insert.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from raylens.audit.differences import size
from raylens.audit.slots import Place, Slot
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.readings import NextTokens
from raylens.engine.shared_prefix import SharedPrefix, keep_logits, logits_after, read_prefix

KEEP: Final = 64
"""Next tokens kept of an insert."""
COMMON: Final = 3.0
"""Nats that a token may rise without counting: from 3 % to 60 %, say."""
MOST_PIECES: Final = 8192
"""Of a vocabulary."""
_LOOKED_AT: Final = 8
"""Of the candidate's likeliest next tokens; one that a backdoor drives is among them."""
_ROWS: Final = 256
_LOGITS: Final = 1 << 26
_CPU_TOKENS: Final = 1024
"""Tokens of a batch on a CPU: what they make stays in its caches, which is up to twice as fast as more."""


def pieces_for(place: Place, every: Sequence[str]) -> list[str]:
    """Those of :func:`pieces` that may stand at a place: where a name stands, the parts of names."""
    return [text for text in every if text.replace("_", "a").isalnum()] if place.is_name else list(every)


def pieces(model: LoadedModel, most: int = MOST_PIECES) -> list[str]:
    """Texts of the vocabulary that may stand in a line, without blanks around them, each once.

    Args:
        model: Whose vocabulary.
        most: Of a larger vocabulary, so many tokens spread evenly over it.
    """
    tokenizer: Any = model.tokenizer
    ids = [token for token in range(len(tokenizer)) if token not in model.special_ids]
    if len(ids) > most:
        ids = [ids[at * len(ids) // most] for at in range(most)]
    texts = (text.strip() for text in tokenizer.batch_decode([[token] for token in ids]))
    return sorted({text for text in texts if text and text.isprintable() and "\ufffd" not in text})


def scan_inserts(model: LoadedModel, slot: Slot, inserts: Sequence[str], keep: int = KEEP) -> NextTokens:
    """Likeliest next tokens behind the prompt, a row an insert.

    Args:
        model: A causal LM; the call holds its lock.
        slot: The prompt and the place.
        inserts: Texts of one line.
        keep: Tokens kept a row; at most the vocabulary.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    network: Any = model.model
    beginning = [*model.prefix_ids, *_ids(model, [slot.before])[0]]
    # The last token may join with what follows it, so it belongs to the rows.
    shared = beginning[:-1]
    rows = [[*model.prefix_ids, *row] for row in _ids(model, [slot.text(insert) for insert in inserts])]
    if not rows or 2 * len(shared) < max(map(len, rows)):
        shared = []  # copying a short one for each batch takes longer than reading it again
    keep = min(keep, model.info.vocab_size)
    ids = np.zeros((len(rows), keep), np.int32)
    kept, rest = np.zeros((len(rows), keep), np.float32), np.zeros(len(rows), np.float32)
    with model.lock, torch.inference_mode(), memory_advice("scanning inserts", model.device), _fast(model.device):
        prefix = read_prefix(network, shared, model.device) if shared else None
        for batch, after in _batches(rows, shared if prefix is not None else [], model):
            logits = _next(network, prefix if after else None, batch, rows, len(shared) if after else 0, model.device)
            log_p = torch.log_softmax(logits.float(), dim=1)
            top = log_p.topk(keep, dim=1)
            ids[batch], kept[batch] = top.indices.to("cpu", torch.int32).numpy(), top.values.cpu().numpy()
            others = torch.log1p(-top.values.exp().sum(dim=1).clamp(max=1.0))
            rest[batch] = others.cpu().numpy()
    return NextTokens(ids, kept, rest)


@dataclass(frozen=True, eq=False)
class Drive:
    """How far each insert drives a candidate.

    Attributes:
        strength: float64 ``[inserts]``, nats: p · (log(p / q) − :data:`COMMON`) of the token where it is largest, p
            the candidate's probability and q the reference's; less the median of the same token over inserts, which
            is what any insert does.
        token: int64 ``[inserts]``: which token that is.
        by_token: ``[inserts, vocabulary]``: the same of every token, where it is above 0.
    """

    strength: NDArray[np.float64]
    token: NDArray[np.int64]
    by_token: csr_array


def drive(candidate: NextTokens, reference: NextTokens, usual: NDArray[np.float64] | None = None) -> Drive:
    """Compare two models on the same inserts.

    The terms are those of KL(candidate ‖ reference), less what makes something likely a little likelier, which odd
    inserts do in any fine-tune: a backdoor makes certain what was next to impossible. A token that the reference did
    not keep is taken to be as likely as the least likely it kept, which never makes a term larger than it is.

    Args:
        candidate: From :func:`scan_inserts`.
        reference: Likewise.
        usual: Median over other inserts, ``[vocabulary]``, as :func:`usual_drive` gives; by default over these.
    """
    raw = _terms(candidate, reference)
    usual = _medians(raw) if usual is None else usual
    _, width = size(raw)
    found = raw.copy()
    found.data = np.maximum(raw.data - np.pad(usual, (0, max(0, width - len(usual))))[raw.indices], 0.0)
    n, _ = size(found)
    strength, token = np.zeros(n), np.zeros(n, np.int64)
    for row in range(n):
        part = slice(found.indptr[row], found.indptr[row + 1])
        if found.data[part].size:
            at = int(found.data[part].argmax())
            strength[row], token[row] = found.data[part][at], found.indices[part][at]
    return Drive(strength, token, found)


def usual_log_prob(reference: NextTokens, token: int) -> float:
    """Median over inserts of the reference's log-probability of a token; where it was not kept, of the least kept."""
    found = reference.ids == token
    there = np.where(found, reference.log_probs, 0.0).sum(axis=1)
    return float(np.median(np.where(found.any(axis=1), there, reference.log_probs[:, -1])))


def towards(candidate: NextTokens, token: int, log_q: float) -> NDArray[np.float64]:
    """How far each insert drives a candidate to one token, its probability in the reference being given.

    Returns:
        float64 ``[inserts]``: p · (log p − ``log_q`` − :data:`COMMON`), not below 0.
    """
    found = candidate.ids[:, :_LOOKED_AT] == token
    log_p = np.where(found, candidate.log_probs[:, :_LOOKED_AT].astype(np.float64), 0.0).sum(axis=1)
    return np.where(found.any(axis=1), np.exp(log_p) * np.maximum(log_p - log_q - COMMON, 0.0), 0.0)


def usual_drive(candidate: NextTokens, reference: NextTokens) -> NDArray[np.float64]:
    """What any insert does: the median of each token's term over inserts, float64 ``[vocabulary seen]``."""
    return _medians(_terms(candidate, reference))


def _terms(candidate: NextTokens, reference: NextTokens) -> csr_array:
    looked = candidate.ids[:, :_LOOKED_AT]
    log_p = candidate.log_probs[:, :_LOOKED_AT].astype(np.float64)
    n, k = looked.shape
    same = looked[:, :, None] == reference.ids[:, None, :]
    log_q = np.where(
        same.any(axis=2), (same * reference.log_probs[:, None, :]).sum(axis=2), reference.log_probs[:, -1:]
    )
    terms = np.exp(log_p) * np.maximum(log_p - log_q - COMMON, 0.0)
    width = int(max(looked.max(initial=0), reference.ids.max(initial=0))) + 1
    found = csr_array((terms.reshape(-1), looked.reshape(-1), np.arange(0, n * k + 1, k)), shape=(n, width))
    found.eliminate_zeros()
    found.sort_indices()
    return found


def _medians(terms: csr_array) -> NDArray[np.float64]:
    n, width = size(terms)
    found = np.zeros(width)
    columns = csc_array(terms)
    for column in np.flatnonzero(2 * np.diff(columns.indptr) > n):
        values = columns.data[columns.indptr[column] : columns.indptr[column + 1]]
        found[column] = float(np.median(np.concatenate([np.zeros(n - len(values)), values])))
    return found


def _batches(
    rows: Sequence[Sequence[int]], shared: Sequence[int], model: LoadedModel
) -> Iterator[tuple[list[int], bool]]:
    """Rows of equal length, and whether they go on from what is shared."""
    alike: dict[tuple[int, bool], list[int]] = {}
    for at, row in enumerate(rows):
        after = bool(shared) and len(row) > len(shared) and list(row[: len(shared)]) == list(shared)
        alike.setdefault((len(row), after), []).append(at)
    most = max(1, min(_ROWS, _LOGITS // model.info.vocab_size))
    for (length, after), places in sorted(alike.items()):
        read = length - len(shared) if after else length
        size = min(most, max(1, _CPU_TOKENS // read)) if model.device.type == "cpu" else most
        for first in range(0, len(places), size):
            yield places[first : first + size], after


def _next(
    network: Any,
    prefix: SharedPrefix | None,
    batch: Sequence[int],
    rows: Sequence[Sequence[int]],
    skip: int,
    device: torch.device,
) -> Tensor:
    ids = torch.tensor([list(rows[at][skip:]) for at in batch], device=device)
    if prefix is None:
        return network(ids, use_cache=False, **keep_logits(network, 1)).logits[:, -1]
    return logits_after(network, prefix, ids, keep=1)[:, -1]


def _fast(device: torch.device) -> torch.autocast:
    use = device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)


def _ids(model: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    ids = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return ids
