"""From codes of a text to what is answered: maxima over its tokens, the largest of each token, values of some features.

Codes are sorted by token, then feature (:class:`raylens.engine.encode.Sparse`); values that are equal are therefore
ordered by feature, and of equal maxima the first token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylens.api.reading import (
    KEPT,
    EncodeAnswer,
    FeatureValues,
    NextToken,
    Peak,
    Peaks,
    PeaksAnswer,
    SaeReading,
    ValuesAnswer,
)
from raylens.engine.encode import Sparse
from raylens.engine.feature_reading import Likeliest, TextReading
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.passage import PassageTokens
from raylens.engine.saes import LoadedSae
from raylens.errors import UnknownNameError


def require_features(sae: LoadedSae, features: Sequence[int]) -> None:
    """Refuse features that an SAE does not have.

    Raises:
        UnknownNameError: There is one.
    """
    wrong = next((feature for feature in features if not 0 <= feature < sae.d_sae), None)
    if wrong is not None:
        raise UnknownNameError(
            f"{sae.id} has no feature {wrong}.", hint=f"it has {sae.d_sae:,} features, which count from 0."
        )


def peaks_of(codes: Sparse, special: Sequence[int], d_sae: int, most: int = KEPT) -> Peaks:
    """Features by their maximum over tokens that stand for text, the largest first.

    Args:
        codes: Of the text.
        special: Places that are left out.
        d_sae: Features of the SAE.
        most: How many are kept.
    """
    features, values, places = _maxima(_without(codes, special), d_sae)
    order = np.argsort(-values, kind="stable")[:most]
    columns = features[order], values[order], places[order]
    return Peaks.model_construct(
        indices=tuple(columns[0].tolist()),
        activations=tuple(columns[1].tolist()),
        positions=tuple(columns[2].tolist()),
    )


def peaks_among(
    codes: Sparse, special: Sequence[int], d_sae: int, features: Sequence[int], first: int
) -> tuple[Peak, ...]:
    """Maxima of chosen features, in their order; one that does not fire has 0, at the place ``first``."""
    fired, values, places = _maxima(_without(codes, special), d_sae)
    known = {int(index): at for at, index in enumerate(fired)}
    found: list[Peak] = []
    for feature in features:
        at = known.get(feature)
        value, place = (0.0, first) if at is None else (float(values[at]), int(places[at]))
        found.append(Peak(index=feature, activation=value, position=place))
    return tuple(found)


def values_of(codes: Sparse, features: Sequence[int], n_tokens: int) -> NDArray[np.float32]:
    """Activations of chosen features on all tokens, ``[features, tokens]``; 0 where one does not fire."""
    chosen, column = np.unique(np.asarray(features, np.int64), return_inverse=True)
    keep = np.isin(codes.feature, chosen)
    values = np.zeros((len(chosen), n_tokens), np.float32)
    values[np.searchsorted(chosen, codes.feature[keep]), codes.token[keep]] = codes.activation[keep]
    return values[column]


def encode_answer(
    loaded: LoadedModel,
    name: str,
    tokens: PassageTokens,
    saes: Sequence[LoadedSae],
    reading: TextReading,
    *,
    top_k: int,
    per_token: bool,
) -> EncodeAnswer:
    """What is said of a text.

    Args:
        loaded: The model that read it.
        name: What it is called in the answer.
        tokens: What was read.
        saes: That read it.
        reading: What they read.
        top_k: Features a token.
        per_token: Whether features of each token are said.
    """
    readings: list[SaeReading | dict[str, Any]] = []
    for sae, codes in zip(saes, reading.codes, strict=True):
        hook = sae.spec.hook
        said = {
            "sae": str(sae.id),
            "hook": str(hook),
            "layer": hook.layer_index,
            "peaks": peaks_of(codes, tokens.special, sae.d_sae).first(KEPT),
        }
        if per_token:
            said["tokens"] = _firings(codes, tokens, top_k)
        readings.append(said)
    # Validated from plain values, at once: objects made one by one would take longer than the model (60,000 of them
    # for 1,024 tokens and three SAEs).
    return EncodeAnswer.model_validate(
        {
            "model": name,
            "token_ids": tokens.ids,
            "tokens": token_strings(loaded.tokenizer, tokens.ids),
            "special": tokens.special,
            "n_dropped": tokens.n_dropped,
            "saes": readings,
            "next_tokens": _next_tokens(loaded, reading.next_tokens),
        }
    )


def peaks_answer(tokens: PassageTokens, sae: LoadedSae, codes: Sparse) -> PeaksAnswer:
    """The largest features of a text."""
    return PeaksAnswer(
        layer=sae.spec.hook.layer_index,
        peaks=peaks_of(codes, tokens.special, sae.d_sae),
        n_tokens=len(tokens.ids),
        n_dropped=tokens.n_dropped,
    )


def values_answer(
    loaded: LoadedModel, name: str, tokens: PassageTokens, sae: LoadedSae, codes: Sparse, features: Sequence[int]
) -> ValuesAnswer:
    """Exact activations of chosen features on all tokens.

    Raises:
        UnknownNameError: The SAE has no such feature.
    """
    require_features(sae, features)
    rows = values_of(codes, features, len(tokens.ids)).tolist()
    return ValuesAnswer(
        model=name,
        sae=str(sae.id),
        token_ids=tokens.ids,
        tokens=tuple(token_strings(loaded.tokenizer, tokens.ids)),
        special=tokens.special,
        n_dropped=tokens.n_dropped,
        features=tuple(
            FeatureValues(index=feature, values=tuple(row)) for feature, row in zip(features, rows, strict=True)
        ),
    )


def _without(codes: Sparse, special: Sequence[int]) -> Sparse:
    if not len(special):
        return codes
    keep = ~np.isin(codes.token, np.asarray(special))
    return Sparse(codes.token[keep], codes.feature[keep], codes.activation[keep])


def _maxima(codes: Sparse, d_sae: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """Features that fire, in order, each with its maximum and the first token that has it."""
    best = np.zeros(d_sae, np.float32)
    np.maximum.at(best, codes.feature, codes.activation)
    reached = codes.activation == best[codes.feature]
    places = np.zeros(d_sae, np.int32)
    places[codes.feature[reached][::-1]] = codes.token[reached][::-1]  # of several assignments the last counts
    fired = np.flatnonzero(best)
    return fired, best[fired], places[fired]


def _firings(codes: Sparse, tokens: PassageTokens, top_k: int) -> list[list[dict[str, Any]]]:
    codes = _without(codes, tokens.special)
    order = np.lexsort((-codes.activation, codes.token))  # stable, so that equal values stay in order of feature
    edges = np.searchsorted(codes.token, np.arange(len(tokens.ids) + 1))
    features, values = codes.feature[order].tolist(), codes.activation[order].tolist()
    ends = np.minimum(edges[1:], edges[:-1] + top_k)
    return [
        [{"index": index, "activation": value} for index, value in zip(features[low:end], values[low:end], strict=True)]
        for low, end in zip(edges.tolist(), ends.tolist(), strict=False)
    ]


def _next_tokens(loaded: LoadedModel, found: Likeliest | None) -> tuple[NextToken, ...]:
    if found is None:
        return ()
    ids = found.ids.tolist()
    rows = zip(
        ids, token_strings(loaded.tokenizer, ids), found.logits.tolist(), found.probabilities.tolist(), strict=True
    )
    return tuple(NextToken(id=id_, token=text, logit=logit, probability=share) for id_, text, logit, share in rows)
