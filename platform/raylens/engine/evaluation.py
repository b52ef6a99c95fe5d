"""How well an SAE stands for what it reads: on recorded activations, or on text run through the model.

Positions of special tokens (BOS) are left out of everything: they are not encoded, not replaced,
and what the model predicts at them is not scored. Text that the SAE was trained on is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from interp_engine.hooks import HookManager
from numpy.typing import NDArray
from torch import Tensor

from raylens.corpus.windows import Window
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.points import Site, resolve
from raylens.engine.sae_metrics import LossSums, ReconstructionSums, mean_max_cosine
from raylens.engine.saes import LoadedSae
from raylens.engine.text_windows import Batch, batches
from raylens.errors import CorpusError, InputError, MismatchError
from raylens.ids import HookPoint
from raylens.sources.spec import SplitSlice
from raylens.store.dense import DenseRecord

_DENSE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured; :meth:`as_json` is what ``raylens evaluate --json`` prints."""

    sae: LoadedSae
    sums: ReconstructionSums
    losses: LossSums | None
    n_documents: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; estimates as ``{value, low, high, n}``, ``n`` being tokens or, of losses, predictions.

        The fractions are of ``d_sae`` latents, each watched over ``n_tokens``.
        """
        density = self.sums.density()
        tokens, predictions = self.sums.n_tokens, self.losses.n_predictions if self.losses is not None else 0
        fvu = asdict(self.sums.fvu())
        measured: dict[str, Any] = {
            "sae": str(self.sae.id),
            "architecture": self.sae.spec.architecture,
            "hook": str(self.sae.spec.hook),
            "d_sae": self.sae.d_sae,
            "n_tokens": tokens,
            "n_documents": self.n_documents,
            "fvu": fvu | {"n": tokens},
            "explained_variance": {
                "value": 1 - fvu["value"],
                "low": None if fvu["high"] is None else 1 - fvu["high"],
                "high": None if fvu["low"] is None else 1 - fvu["low"],
                "n": tokens,
            },
            "mse": asdict(self.sums.mse()) | {"n": tokens},
            "l0": asdict(self.sums.l0()) | {"n": tokens},
            "dead_fraction": float((density == 0).mean()),
            "dense_fraction_1pct": float((density > 0.01).mean()),
            "dense_fraction_10pct": float((density > 0.1).mean()),
            "decoder_max_cosine": mean_max_cosine(self.sae.sae.W_dec),
            "encoder_max_cosine": mean_max_cosine(self.sae.sae.W_enc.T),
        }
        if self.losses is not None:
            measured["n_predictions"] = predictions
            estimates = {name: self.losses.mean(name) for name in LossSums.NAMES}
            estimates |= {"ce_recovered": self.losses.ce_recovered(), "kl_recovered": self.losses.kl_recovered()}
            measured |= {name: asdict(estimate) | {"n": predictions} for name, estimate in estimates.items()}
        return measured


def evaluate_record(
    sae: LoadedSae,
    record: DenseRecord,
    hook: HookPoint | None = None,
    *,
    n_tokens: int | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure reconstruction on recorded activations; losses need the model.

    Args:
        sae: The SAE.
        record: Activations of ``hook``.
        hook: The recorded point; by default the one that the SAE says it reads.
        n_tokens: Tokens to read at most; None for all.
        report: Called with the tokens read.

    Raises:
        MismatchError: The activations have another width.
        CorpusError: The record holds no text tokens.
    """
    point = str(hook or sae.spec.hook)
    _, width = record.info.column(point)
    _check_width(sae, width, f"{point} in {record.files.native(record.folder)}")
    sums, documents = ReconstructionSums(width, sae.d_sae), set[int]()
    for doc_ids, rows in record.groups(point):
        keep = slice(None if n_tokens is None else n_tokens - sums.n_tokens)
        _reconstruct(sae, torch.from_numpy(rows[keep].astype(np.float32)), doc_ids[keep], sums)
        documents.update(doc_ids[keep].tolist())
        report(sums.n_tokens)
        if n_tokens is not None and sums.n_tokens >= n_tokens:
            break
    return _result(sae, sums, None, documents)


def evaluate_model(
    loaded: LoadedModel,
    sae: LoadedSae,
    windows: Iterable[Window],
    *,
    hook: HookPoint | None = None,
    n_tokens: int | None = None,
    batch_size: int = 8,
    report: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure reconstruction and what it costs the model's predictions: three forwards a batch.

    Args:
        loaded: The model.
        sae: The SAE, on the model's device.
        windows: Text, cut.
        hook: The tensor to replace; by default the one that the SAE says it reads.
        n_tokens: Text tokens to read at most, whole batches; None for all.
        batch_size: Windows per forward.
        report: Called with the tokens read.

    Raises:
        UnknownNameError: The model has no such point.
        InputError: The point is not one tensor that can be replaced.
        MismatchError: It has another width than the SAE.
        CorpusError: There are no text tokens.
        OutOfMemoryError: A batch does not fit; says what to lower.
    """
    site = resolve(loaded, hook or sae.spec.hook)
    if not site.plain or site.output:
        raise InputError(
            f"{site.point} of {loaded.name} can be read but not replaced.",
            hint="record its activations and evaluate those: raylens record, then raylens evaluate --activations.",
        )
    sums, losses, documents = ReconstructionSums(sae.spec.d_in, sae.d_sae), LossSums(), set[int]()
    groups = batches(windows, batch_size, pad_id=loaded.pad_id, special_ids=loaded.special_ids)
    with memory_advice("evaluating an SAE", loaded.device), loaded.lock, torch.inference_mode():
        for batch in groups:
            _one_batch(loaded, sae, site, batch, sums, losses)
            documents.update(window.doc_id for window in batch.windows)
            report(sums.n_tokens)
            if n_tokens is not None and sums.n_tokens >= n_tokens:
                break
    return _result(sae, sums, losses, documents)


def trained_on(sae: LoadedSae) -> tuple[Mapping[str, Any], ...]:
    """Fingerprints of the text an SAE of RayLens was trained on; empty where its config does not say."""
    known = sae.sae.cfg.metadata.get("raylens") or {}
    return tuple(known.get("corpus") or ())


def overlap(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two corpora, by their fingerprints, share text.

    Only what fingerprints tell: parts of the standard library, the same files, the same rows of a data
    set. A copy of a text in another file is not noticed, nor are files of one folder in another one.
    """
    return any(_overlap(a, b) for a in one for b in other)


def _overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if a.get("kind") != b.get("kind"):
        return False
    match a.get("kind"):
        case "stdlib":
            return a.get("part") == b.get("part") or (
                "all" in (a.get("part"), b.get("part")) and "tests" not in (a.get("part"), b.get("part"))
            )
        case "hub":
            return all(a.get(name) == b.get(name) for name in ("repo", "config")) and _share_rows(a, b)
        case _:
            return a.get("sha256") == b.get("sha256")


def _share_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two slices of a data set may hold the same rows: not where they are known to lie apart."""
    one, other = SplitSlice.parse(str(a.get("split"))), SplitSlice.parse(str(b.get("split")))
    if one.name != other.name:
        return False
    # Without the split's length rows and percent do not compare, and another revision numbers rows anew.
    comparable = one.percent == other.percent and a.get("revision") == b.get("revision")
    first, second = sorted((one, other), key=lambda part: part.low)
    return not (comparable and first.high is not None and first.high <= second.low)


def _one_batch(
    loaded: LoadedModel, sae: LoadedSae, site: Site, batch: Batch, sums: ReconstructionSums, losses: LossSums
) -> None:
    text = batch.text.to(loaded.device)
    doc_of = np.repeat(np.array([window.doc_id for window in batch.windows], np.int32)[:, None], text.shape[1], axis=1)
    held: list[Tensor] = []
    clean = _forward(loaded, batch, site, read=held.append)
    state = held[0].reshape(*text.shape, -1)
    _check_width(sae, state.shape[-1], f"{site.point} of {loaded.name}")
    x = state[text]
    reconstruction = _reconstruct(sae, x, doc_of[batch.text.numpy()], sums)
    # A prediction counts where both the token it is made at and the token it is of are text.
    scored = text[:, :-1] & text[:, 1:]
    spliced = _forward(loaded, batch, site, write=lambda h: _replaced(h, text, reconstruction))
    zeroed = _forward(loaded, batch, site, write=lambda h: _replaced(h, text, torch.zeros_like(reconstruction)))
    losses.add(
        doc_of[:, :-1][scored.cpu().numpy()],
        batch.input_ids[:, 1:].to(clean.device)[scored.to(clean.device)],
        *(logits[:, :-1][scored.to(logits.device)] for logits in (clean, spliced, zeroed)),
    )


def _forward(
    loaded: LoadedModel,
    batch: Batch,
    site: Site,
    *,
    read: Callable[[Tensor], None] | None = None,
    write: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits ``[row, position, vocabulary]`` of one pass, with the point's tensor read or replaced."""
    with HookManager() as hooks:
        if read is not None:
            hooks.read(site.module, read, point=site.side)
        if write is not None:
            hooks.write(site.module, write, point=site.side)
        ids, mask = batch.input_ids.to(loaded.device), batch.attention_mask.to(loaded.device)
        return loaded.model(ids, attention_mask=mask, use_cache=False).logits


def _replaced(hidden: Tensor, where: Tensor, values: Tensor) -> Tensor:
    flat = hidden.reshape(where.numel(), -1).clone()
    flat[where.reshape(-1).to(flat.device)] = values.to(flat)
    return flat.reshape(hidden.shape)


@torch.inference_mode()
def _reconstruct(sae: LoadedSae, x: Tensor, doc_ids: NDArray[np.int32], sums: ReconstructionSums) -> Tensor:
    """Encode, decode and count ``x`` ``[n, d_in]``; returns the reconstruction, float32."""
    parts = []
    for rows in _chunks(len(x), max(64, _DENSE_BYTES // (4 * sae.d_sae))):
        original = x[rows].to(sae.device, torch.float32)
        activations = sae.sae.encode(original)
        parts.append(sae.sae.decode(activations))
        sums.add(doc_ids[rows], original, parts[-1], activations)
    return torch.cat(parts) if parts else x.float()


def _chunks(n: int, size: int) -> Iterator[slice]:
    for first in range(0, n, size):
        yield slice(first, first + size)


def _check_width(sae: LoadedSae, width: int, what: str) -> None:
    if width != sae.spec.d_in:
        raise MismatchError(
            f"{sae.id} reads vectors of {sae.spec.d_in} and {what} is {width} wide.",
            hint="name the model and hook point that the SAE was trained on.",
        )


def _result(sae: LoadedSae, sums: ReconstructionSums, losses: LossSums | None, documents: set[int]) -> Evaluation:
    if not sums.n_tokens:
        raise CorpusError("there is not one text token to evaluate on.", hint="name other text or activations.")
    return Evaluation(sae, sums, losses, len(documents))
