"""Arrow schemas of everything the store keeps, and how each column is encoded on disk.

``SCHEMA_VERSION`` is written into every workspace; a workspace of another version is refused.

Why these encodings (bytes per stored activation, measured on pico): dictionary off matters most;
values are rounded to a 10-bit mantissa, so byte-stream-split leaves zstd two empty byte planes.
Within a merged range file rows are ordered by (feature, peak descending, window, position), where
``peak`` is the window's largest activation of that feature: the windows of a feature come in the
order people ask for them, a window's own rows stay together, and row-group statistics on
(feature, peak) make any activation interval a seek, however large the file.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION: Final = 1

DOCUMENTS: Final = pa.schema(
    [
        ("doc_id", pa.int32()),  # dense, in corpus order
        ("source", pa.string()),  # the --text item it came from
        ("domain", pa.string()),  # top-level folder, data-set config, or "."
        ("path", pa.string()),
        ("split", pa.string()),
        ("n_tokens", pa.int32()),  # text tokens cached of it (packed: of all of it, if its start is cached)
    ]
)

WINDOWS: Final = pa.schema(
    [
        ("window_id", pa.int32()),  # dense, in corpus order, within the cache
        ("doc_id", pa.int32()),
        ("start", pa.int32()),  # index, within the document's tokens, of the first non-BOS token
        ("token_ids", pa.list_(pa.int32())),  # as the model saw them, BOS included
        ("token_offsets", pa.list_(pa.int32())),  # first character of each token in ``text``
        ("text", pa.string()),
    ]
)

SHARD: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("window_id", pa.int32()),
        ("position", pa.int16()),  # within the window, BOS at 0
        ("activation", pa.float32()),
        ("special", pa.bool_()),  # the token is BOS, PAD …: kept, but not counted in statistics
    ]
)
"""One encoder's output for one shard of windows: sorted by (feature, window, position)."""

ACTIVATIONS: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("peak", pa.float32()),  # largest activation of this feature in this window, special tokens left out
        ("window_id", pa.int32()),
        ("position", pa.int16()),
        ("activation", pa.float32()),
    ]
)
"""A merged range file: sorted by (feature, peak descending, window, position)."""

HISTOGRAM_BINS: Final = 64
HISTOGRAM_LOW: Final = 2.0**-8
HISTOGRAM_HIGH: Final = 2.0**12

FEATURE_STATS: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("n_active", pa.int64()),  # non-special tokens on which it fires
        ("n_windows", pa.int64()),  # windows with at least one such token
        ("density", pa.float64()),  # n_active / non-special tokens of the cache
        ("mean_activation", pa.float64()),  # over n_active
        ("max_activation", pa.float32()),
        ("histogram", pa.list_(pa.int64(), HISTOGRAM_BINS)),  # of activations, by histogram_bin
    ]
)

LOGITS: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("sign", pa.string()),  # "top" (promoted) or "bottom" (suppressed)
        ("rank", pa.int16()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("logit", pa.float32()),  # decoder row through the final norm's gain and the unembedding
    ]
)

NEIGHBOURS: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int16()),
        ("neighbour", pa.int32()),
        ("cosine", pa.float32()),
    ]
)
"""Of one table by decoder rows (``neighbours``), of another by encoder columns (``encoder_neighbours``)."""

COFIRING: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int16()),
        ("other", pa.int32()),
        ("n_both", pa.int64()),  # sampled tokens on which both fire
        ("jaccard", pa.float32()),
    ]
)

MAP: Final = pa.schema([("feature", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])
"""Two-dimensional layout of decoder directions (PCA, then t-SNE)."""


EXPLANATIONS: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("explanation_id", pa.string()),  # a hash of what it says, of what, and how it was made
        ("run_id", pa.string()),
        ("explainer", pa.string()),
        ("model", pa.string()),  # that wrote it; null of the lexical explainer
        ("prompt_hash", pa.string()),  # SHA-256 of the prompt files; null likewise
        ("explanation", pa.string()),  # one phrase; null unless status is "ok"
        ("rule", pa.string()),  # JSON of an executable rule, where the explainer gives one
        ("status", pa.string()),  # "ok", "not_found", "failed", or why there are no examples: "dead", "too_few" …
        ("error", pa.string()),  # what happened, unless "ok"
        ("n_examples", pa.int32()),  # activating excerpts that were shown
        ("trimmed", pa.bool_()),  # fewer than there were, to fit the model's context
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""What explainers say of the features of one SAE in one cache; a row a feature, also where they failed."""

SCORES: Final = pa.schema(
    [
        ("feature", pa.int32()),
        ("explanation_id", pa.string()),  # of the explanation that was scored
        ("run_id", pa.string()),
        ("explainer", pa.string()),
        ("scorer", pa.string()),
        ("judge", pa.string()),  # the model that answered; null where nobody was asked
        ("control", pa.string()),  # "shuffled": the explanation was another feature's; null of a feature's own
        ("metric", pa.string()),
        ("value", pa.float64()),  # null where the metric has no value
        ("ci_low", pa.float64()),  # of a 95 % interval
        ("ci_high", pa.float64()),
        ("n", pa.int32()),
        ("n_failed", pa.int32()),
    ]
)
"""Figures about explanations; one row a metric."""


def histogram_bin(activations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Log-spaced bin of each activation: ``[n]`` float32 → ``[n]`` int64 in ``0 … HISTOGRAM_BINS - 1``.

    Edges run geometrically from ``HISTOGRAM_LOW`` to ``HISTOGRAM_HIGH``; values outside are clamped
    into the first and last bin.
    """
    scale = HISTOGRAM_BINS / np.log2(HISTOGRAM_HIGH / HISTOGRAM_LOW)
    with np.errstate(divide="ignore"):
        raw = np.floor(np.log2(activations / np.float32(HISTOGRAM_LOW)) * scale)
    return np.clip(raw, 0, HISTOGRAM_BINS - 1).astype(np.int64)


def histogram_edges() -> NDArray[np.float64]:
    """``[HISTOGRAM_BINS + 1]`` bin edges, in units of activation."""
    return np.geomspace(HISTOGRAM_LOW, HISTOGRAM_HIGH, HISTOGRAM_BINS + 1)


def round_activation(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to a 10-bit mantissa, nearest even: float16's precision at float32's range.

    Finite stays finite: what would round up to infinity is truncated instead.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1)))) & np.uint32(0xFFFFE000)
    overflow = (rounded & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return np.where(overflow, bits & np.uint32(0xFFFFE000), rounded).astype(np.uint32).view(np.float32)
