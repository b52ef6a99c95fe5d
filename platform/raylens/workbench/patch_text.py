"""Text that patches are fitted to and measured on, and passes over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from interp_engine.hooks import HookManager
from torch import Tensor

from raylens.corpus.windows import Window
from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.points import resolve
from raylens.engine.tap import tap
from raylens.engine.text_windows import Batch, batches, cut_windows
from raylens.errors import CorpusError
from raylens.ids import HookPoint
from raylens.sources import check_sources, fingerprint, parse_source, pin_sources

MEASURED_ON: Final = "stdlib:held_out"
"""By default: what the embedded models never saw."""
FITTED_TO: Final = "stdlib:train"
CTX_LEN: Final = 128
N_TOKENS: Final = 8192

_SEED: Final = 22
_WINDOWS_PER_DOCUMENT: Final = 4
_READ_AT_MOST: Final = 200
"""Windows looked at for each that is wanted."""
_ROWS: Final = 8
_LOGITS: Final = 1 << 26
"""Of one batch: 256 MiB of float32."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchText:
    """Windows of text.

    Attributes:
        name: As it was asked for.
        content: Which content that is, as JSON (:func:`raylens.sources.fingerprint`).
        windows: Cut, spread over documents.
        ctx_len: Tokens of a window, at most.
    """

    name: str
    content: Mapping[str, object]
    windows: tuple[Window, ...]
    ctx_len: int

    @property
    def n_documents(self) -> int:
        return len({window.doc_id for window in self.windows})

    def batches(self, loaded: LoadedModel) -> Iterator[Batch]:
        """Windows side by side."""
        rows = min(_ROWS, max(1, _LOGITS // (loaded.info.vocab_size * self.ctx_len)))
        return batches(self.windows, rows, pad_id=loaded.pad_id, special_ids=loaded.special_ids)


def read_text(loaded: LoadedModel, name: str, n_tokens: int = N_TOKENS, ctx_len: int = CTX_LEN) -> PatchText:
    """Read text for a model.

    Args:
        loaded: The model; windows are no longer than what it reads.
        name: As ``--text`` names it.
        n_tokens: About so many text tokens; all there are where there are fewer.
        ctx_len: Of a window.

    Raises:
        CorpusError: It cannot be read, or there is next to none.
        InputError: It is no name of text.
    """
    (source,) = pin_sources([parse_source(name)])
    check_sources([source])
    ctx_len = min(ctx_len, loaded.info.max_positions or ctx_len)
    cut = cut_windows(loaded.tokenizer, [source], ctx_len=ctx_len, pack=False, seed=_SEED)
    windows = _spread((window for window in cut if window.n_text_tokens > 1), n_tokens, ctx_len)
    if not windows:
        raise CorpusError(f"{name} holds no text to measure on.", hint="name other text, of a page or more.")
    return PatchText(name, fingerprint(source), windows, ctx_len)


def states(
    loaded: LoadedModel, batch: Batch, edited: AbstractContextManager[None], points: Sequence[HookPoint]
) -> dict[HookPoint, Tensor]:
    """Values at points on text tokens, ``[tokens, width]`` float32; special tokens (BOS) are left out.

    Raises:
        OutOfMemoryError: A batch does not fit.
    """
    with edited:
        found = tap(loaded, points, batch.input_ids, batch.attention_mask)
    return {point: values[batch.text.to(values.device)].float() for point, values in found.items()}


def predictions(
    loaded: LoadedModel, batch: Batch, edited: AbstractContextManager[None], points: Sequence[HookPoint] = ()
) -> tuple[Tensor, dict[HookPoint, Tensor]]:
    """Logits at tokens that come after text and before text, ``[predictions, vocabulary]``, and as :func:`states`.

    Raises:
        OutOfMemoryError: A batch does not fit.
    """
    held: dict[HookPoint, Tensor] = {}
    network: Any = loaded.model
    text = batch.text
    room = memory_advice("measuring a patch", loaded.device)
    with room, loaded.lock, torch.inference_mode(), edited, HookManager() as hooks:
        for point in points:
            site = resolve(loaded, point)
            hooks.read(site.module, lambda value, at=point: held.update({at: value}), point=site.side)
        ids, mask = batch.input_ids.to(loaded.device), batch.attention_mask.to(loaded.device)
        logits = network(ids, attention_mask=mask, use_cache=False).logits
    scored = scored_places(batch).to(logits.device)
    values = {at: value.reshape(*text.shape, -1)[text.to(value.device)].float() for at, value in held.items()}
    return logits[:, :-1][scored], values


def scored_places(batch: Batch) -> Tensor:
    """Bool ``[rows, positions − 1]``: where a prediction is made at text, of text."""
    return batch.text[:, :-1] & batch.text[:, 1:]


def _spread(windows: Iterable[Window], n_tokens: int, ctx_len: int) -> tuple[Window, ...]:
    """Some of each document rather than all of few: intervals are over documents."""
    taken: list[Window] = []
    spare: list[Window] = []
    per_document: dict[int, int] = {}
    n, looked_at = 0, _READ_AT_MOST * (1 + n_tokens // ctx_len)
    for at, window in enumerate(windows):
        if n >= n_tokens or at >= looked_at:
            break
        seen = per_document.get(window.doc_id, 0)
        per_document[window.doc_id] = seen + 1
        if seen < _WINDOWS_PER_DOCUMENT:
            taken.append(window)
            n += window.n_text_tokens
        elif len(spare) * (ctx_len - 1) < n_tokens:
            spare.append(window)
    for window in spare:
        if n >= n_tokens:
            break
        taken.append(window)
        n += window.n_text_tokens
    return tuple(sorted(taken, key=lambda window: window.window_id))


def document_of(batch: Batch) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Of each prediction, int32 ``[predictions]``."""
    rows = np.array([window.doc_id for window in batch.windows], np.int32)[:, None]
    places = scored_places(batch).numpy()
    return np.broadcast_to(rows, places.shape)[places]
