"""Text → windows of token ids → padded batches, for whoever runs a model over text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.corpus.tokenize import TextEncoder
from raylens.corpus.windows import START, Cursor, Window, WindowCutter, skip
from raylens.engine.load import prefix_ids
from raylens.sources import TextSource, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows side by side, padded on the right.

    Attributes:
        windows: One a row.
        input_ids: ``[row, position]`` int64.
        attention_mask: Likewise, 1 for tokens and 0 for padding.
        text: Likewise bool: a token, and not a special one (BOS).
    """

    windows: Sequence[Window]
    input_ids: Tensor
    attention_mask: Tensor
    text: Tensor


def cut_windows(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[TextSource],
    *,
    ctx_len: int,
    pack: bool,
    seed: int,
    cursor: Cursor = START,
) -> Iterator[Window]:
    """Windows of the text, from ``cursor`` on; each begins with what the tokenizer puts before a text.

    Args:
        tokenizer: Of the model.
        sources: Which text.
        ctx_len: Tokens per window, BOS included.
        pack: Let windows run across documents.
        seed: Order of documents.
        cursor: Where an earlier run ended.

    Raises:
        CorpusError: The text cannot be read, or is not what it was at ``cursor``.
    """
    prefix = prefix_ids(tokenizer)
    ends = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    cutter = WindowCutter(
        ctx_len,
        prefix=prefix,
        special_ids=tokenizer.all_special_ids,
        pack=pack,
        separator=next((token for token in ends if isinstance(token, int)), None),
    )
    documents = skip(read_documents(sources, seed=seed), cursor)
    return cutter.cut(TextEncoder(tokenizer, prefix).encode(documents), cursor)


def batches(windows: Iterable[Window], size: int, *, pad_id: int, special_ids: Iterable[int]) -> Iterator[Batch]:
    """Group consecutive windows, ``size`` at a time."""
    special = np.fromiter(special_ids, np.int64)
    remaining = iter(windows)
    while group := tuple(islice(remaining, size)):
        yield pad(group, pad_id=pad_id, special_ids=special)


def pad(windows: Sequence[Window], *, pad_id: int, special_ids: NDArray[np.int64]) -> Batch:
    """One :class:`Batch` of these windows."""
    lengths = np.array([len(window.token_ids) for window in windows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate([window.token_ids for window in windows])
    text = mask & ~np.isin(ids, special_ids)
    return Batch(windows, torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(text))
