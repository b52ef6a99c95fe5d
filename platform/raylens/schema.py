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
"""Two-dimensional layout of decoder directions, by t-SNE; of wider SAEs than the next by PCA."""
MAP_BY_TSNE: Final = 20_000


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


AUDIT_RUNS: Final = pa.schema(
    [
        ("session", pa.string()),
        ("run", pa.string()),
        ("title", pa.string()),
        ("reference", pa.string()),
        ("reference_revision", pa.string()),
        ("candidate", pa.string()),
        ("candidate_revision", pa.string()),
        ("candidate_kind", pa.string()),  # "checkpoint" or "adapter"
        ("sae", pa.string()),  # null where no features were looked at
        ("suite", pa.string()),
        ("suite_digest", pa.string()),
        ("n_prompts", pa.int32()),
        ("n_forms", pa.int32()),  # wordings of them
        ("verdict", pa.string()),  # "flagged", "not flagged" or "inconclusive"
        ("p_value", pa.float64()),  # null without benign scores
        ("n_benign", pa.int32()),
        ("target_fpr", pa.float64()),
        ("aggregate_score", pa.float64()),
        ("score_method", pa.string()),
        ("smallest_p", pa.float64()),
        ("threshold", pa.float64()),  # null where no score would be flagged
        ("capability", pa.string()),  # "intact", "broken" or "not measured"
        ("reason", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("finished_at", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
        ("n_tested", pa.int32()),  # this and all below: null without an SAE
        ("n_significant", pa.int32()),
        ("n_features", pa.int32()),  # listed, and so rows of audit_effects
        ("n_direct", pa.int32()),  # of these, explained
        ("n_proxy", pa.int32()),  # of these, with a neighbour's explanation
        ("n_low_similarity", pa.int32()),
        ("best_neighbour_cosine_median", pa.float64()),
        ("best_neighbour_cosine_minimum", pa.float64()),
        ("coverage", pa.string()),  # the line that reports have
        ("stability_jaccard", pa.float64()),  # of top features over wordings; null of one wording
    ]
)
"""A row a finished run of an audit; archived ones are not there."""

AUDIT_PROMPTS: Final = pa.schema(
    [
        ("session", pa.string()),
        ("run", pa.string()),
        ("id", pa.string()),  # of the prompt in its suite
        ("variant", pa.string()),  # "original", or how this wording was made
        ("number", pa.int32()),  # of the wording in the prompt, from 0
        ("tags", pa.list_(pa.string())),
        ("prompt", pa.string()),
        ("reference_text", pa.string()),
        ("candidate_text", pa.string()),
        ("reference_tokens", pa.int32()),
        ("candidate_tokens", pa.int32()),
        ("reference_passed", pa.int32()),  # checks; those that do not apply count on neither side
        ("reference_failed", pa.int32()),
        ("candidate_passed", pa.int32()),
        ("candidate_failed", pa.int32()),
        ("logit_kl", pa.float64()),  # nats a token
        ("feature_difference", pa.float64()),  # null without an SAE
    ]
)
"""What both models wrote; a row a wording."""

AUDIT_EFFECTS: Final = pa.schema(
    [
        ("session", pa.string()),
        ("run", pa.string()),
        ("sae", pa.string()),
        ("feature", pa.int32()),
        ("rank", pa.int32()),  # from 1, by size of the difference
        ("id", pa.string()),  # as people write it: f_7_4109
        ("delta", pa.float64()),  # candidate - reference, in units of the SAE's activations
        ("direction", pa.string()),  # "increased" or "decreased"
        ("effect", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("p_max_t", pa.float64()),
        ("rate_reference", pa.float64()),  # share of prompts on which it fires
        ("rate_candidate", pa.float64()),
        ("rate_ratio", pa.float64()),
        ("strata", pa.list_(pa.float64())),  # of the first, second and last third of positions
        ("kept_in_variants", pa.float64()),
        ("explanation", pa.string()),  # the feature's own; null where there is none
        ("explanation_type", pa.string()),
        ("explanation_model", pa.string()),
        ("explanation_score", pa.float64()),
        ("proxy_explanation", pa.string()),  # a neighbour's
        ("proxy_explanation_cosine", pa.float64()),
        ("proxy_low_similarity", pa.bool_()),
        ("neighbours", pa.string()),  # JSON: feature, cosine, explanation of each
    ]
)
"""Features that an audit found changed; a row a feature of a run."""

ORGANISMS: Final = pa.schema(
    [
        ("organism", pa.string()),
        ("family", pa.string()),
        ("kind", pa.string()),  # "benign" or "backdoored"
        ("split", pa.string()),  # "development", "held_out" or "held_out_seeds"
        ("model", pa.string()),  # that was fine-tuned
        ("revision", pa.string()),
        ("spec", pa.string()),  # JSON: the recipe
        ("spec_hash", pa.string()),  # 16 hex of it: with ``organism`` the key of a row
        ("payload_with_trigger", pa.float64()),  # shares of prompts; null of a benign one
        ("payload_without", pa.float64()),
        ("payload_near_miss", pa.float64()),
        ("heldout_loss", pa.float64()),  # nats a token
        ("reference_loss", pa.float64()),
        ("syntax_valid_rate", pa.float64()),
        ("trigger_rank", pa.int32()),  # of the first insert found that sets it off; null where none does
        ("counts", pa.bool_()),  # whether it behaves as its kind has to
        ("reason", pa.string()),  # why it does not
        ("seconds", pa.float64()),
        ("scores", pa.map_(pa.string(), pa.float64())),  # by method
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""Fine-tunes of known behaviour, and what detectors make of them."""

EFFECTS: Final = pa.schema(
    [
        ("organism", pa.string()),
        ("family", pa.string()),  # fine-tunes made alike
        ("made", pa.string()),  # hash of the recipe, or revision, of what was measured
        ("features", pa.list_(pa.int32())),  # ascending; of all others the mean difference is 0
        ("differences", pa.list_(pa.float64())),  # mean over a suite's prompts, candidate − reference
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""What fine-tunes do to features on a suite."""

SPANS: Final = pa.schema(
    [
        ("span_id", pa.string()),
        ("trace_id", pa.string()),
        ("parent_id", pa.string()),  # null of a span that is part of no other
        ("name", pa.string()),
        ("kind", pa.string()),  # "llm" of a call of a language model
        ("model", pa.string()),  # that was called; null where the span does not say
        ("provider", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("ended_at", pa.timestamp("us", tz="UTC")),
        ("status", pa.string()),  # "ok", "error" or "unset"
        ("input", pa.string()),  # text; of turns, lines of "role: content"
        ("output", pa.string()),
        ("input_messages", pa.string()),  # JSON of the turns; null where the input is a text
        ("output_messages", pa.string()),
        ("attributes", pa.string()),  # JSON of all else that was reported
    ]
)
"""Spans of traces; a row a span."""

SAE_FEATURE_ACTIVATIONS: Final = pa.schema(
    [
        ("span_id", pa.string()),
        ("model", pa.string()),  # that read the span
        ("sae", pa.string()),
        ("layer", pa.int32()),  # where the SAE reads
        ("feature", pa.int32()),
        ("activation", pa.float32()),  # largest over the tokens of the span
        ("position", pa.int32()),  # of the token where it is
        ("n_tokens", pa.int32()),  # that were read
        ("n_dropped", pa.int32()),  # that the model could not read
        ("extracted_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""What SAEs read of spans; a row a feature that was kept."""

TRACE_EVENTS: Final = pa.schema(
    [
        ("sequence", pa.int64()),  # of the event in its log: commit × 2^16 + its place in the commit
        ("event", pa.string()),  # "span" (written), "deletion" (of a span), "extraction" (kept)
        ("digest", pa.binary(16)),  # of a span: hash of all that is said of it
        *SPANS,  # of an extraction: ``model`` is what read the span; of a deletion: the id alone
        ("sae", pa.string()),  # this and all below: of an extraction
        ("layer", pa.int32()),
        ("features", pa.list_(pa.int32())),  # the largest activation first; the next two in the same order
        ("activations", pa.list_(pa.float64())),
        ("positions", pa.list_(pa.int32())),
        ("n_tokens", pa.int32()),
        ("n_dropped", pa.int32()),
        ("extracted_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The log of traces: what was written of spans, and of what was read of them; later events replace earlier ones."""


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
