"""What each token of an input does for the output: take it out, or put another in its place, and read again (A0.06).

Measured is the log-probability of the output's tokens, and the maxima of some features over the tokens after the
change: those before it cannot differ. Tokens that stand for no text (BOS, a template's marks) stay where they are.

The work is a generator that stops after each forward pass, so that whoever runs it can let others have a turn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylens.api.reading import FeatureEffect, Peak, TokenEffect
from raylens.engine.feature_answers import peaks_among, peaks_of, require_features, values_of
from raylens.engine.feature_reading import BATCH_TOKENS, encode_rows, padded, tokens_a_pass
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.passage import PassageTokens
from raylens.engine.saes import LoadedSae
from raylens.engine.substitutes import propose
from raylens.engine.tap import tap
from raylens.engine.unembedding import FINAL_NORM, logits_of
from raylens.errors import InputError
from raylens.ids import HookPoint

DEFAULT_FEATURES: Final = 10
"""Looked at where none are named: the largest of the passage."""

_PROPOSED: Final = 2
"""Substitutes tried for each that is answered, of either kind."""

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that stops after each forward pass."""


@dataclass(frozen=True, slots=True)
class EffectsWanted:
    """What is measured; the fields are those of :class:`raylens.api.reading.EffectOptions`."""

    features: tuple[int, ...] | None = None
    n_tokens: int = 128
    counterfactuals: int = 3
    substitutes: int = 4


@dataclass(frozen=True, slots=True)
class Effects:
    """What was measured.

    Attributes:
        log_prob: Of the output as it is, nats.
        features: Those that were looked at, with their maximum over the passage.
        ablations: Tokens that were taken out, in order of place.
        counterfactuals: Substitutes, of the most important token first, of one token those with the largest effect.
    """

    log_prob: float
    features: tuple[Peak, ...]
    ablations: tuple[TokenEffect, ...]
    counterfactuals: tuple[TokenEffect, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """One token taken out, or with another in its place."""

    at: int
    substitute: int | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    """The output's log-probability, and each feature's maximum after the change."""

    log_prob: float
    maxima: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Passage:
    """What is changed, and what is looked at.

    Attributes:
        loaded: The model.
        tokens: The passage.
        start: Where its output begins.
        sae: Whose features, if any.
        peaks: Which, with their maxima.
        rest: float32 ``[positions + 1, features]``: their maxima over the tokens from each place on.
        hidden: ``[positions, d_model]`` after the final norm.
    """

    loaded: LoadedModel
    tokens: PassageTokens
    start: int
    sae: LoadedSae | None
    peaks: tuple[Peak, ...]
    rest: NDArray[np.float32]
    hidden: Tensor

    @property
    def features(self) -> tuple[int, ...]:
        """Indices of what is looked at."""
        return tuple(peak.index for peak in self.peaks)


def run(steps: Steps[T]) -> T:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


def token_effects(
    loaded: LoadedModel,
    tokens: PassageTokens,
    sae: LoadedSae | None,
    wanted: EffectsWanted,
    batch_tokens: int = BATCH_TOKENS,
) -> Steps[Effects]:
    """Measure what tokens of the input do.

    Substitutes of a token are proposed by the model (the likeliest at that place, given what is before it) and by
    its embedding (the tokens nearest to the one that stands there, by cosine): the first kind reads well there, the
    second means something alike. Of both, those with the largest effect on the output are answered.

    Args:
        loaded: The model; each pass holds its lock.
        tokens: A span's; it knows where the output begins.
        sae: Whose features are looked at; None for the output alone.
        wanted: What is measured.
        batch_tokens: Tokens of a pass.

    Raises:
        InputError: There is no output to measure, or nothing before it.
        UnknownNameError: The SAE has no such feature.
        RunError: Activations or logits are not finite numbers.
        OutOfMemoryError: A pass does not fit.
    """
    _check(loaded, tokens, sae, wanted)
    passage, log_prob = _read_whole(loaded, tokens, sae, wanted)
    yield
    places = _spread([at for at in tokens.textual if at < passage.start], wanted.n_tokens)
    # An output that begins the text is not foretold by anything.
    changes = [_Change(at) for at in places] if passage.start > 1 else []
    ablations = yield from _effects(passage, changes, log_prob, batch_tokens)
    counterfactuals: list[TokenEffect] = []
    important = sorted(ablations, key=lambda effect: (-abs(effect.effect), effect.position))
    for ablation in important[: wanted.counterfactuals]:
        at = ablation.position
        n_proposed = _PROPOSED * wanted.substitutes
        changes = [
            _Change(at, token)
            for token in propose(loaded, tokens.ids[at], passage.hidden[at - 1] if at else None, n_proposed)
        ]
        tried = yield from _effects(passage, changes, log_prob, batch_tokens)
        counterfactuals += sorted(tried, key=lambda effect: -abs(effect.effect))[: wanted.substitutes]
    return Effects(log_prob, passage.peaks, tuple(ablations), tuple(counterfactuals))


def _check(loaded: LoadedModel, tokens: PassageTokens, sae: LoadedSae | None, wanted: EffectsWanted) -> None:
    start = tokens.output_start
    if start is None or start >= len(tokens.ids):
        cut = f": the first {len(tokens.ids):,} tokens are all input" if tokens.n_dropped else ""
        raise InputError(
            f"there is no output that {loaded.name} could read{cut}.", hint="send what came out, and a shorter input."
        )
    if start == 0:
        raise InputError("there is nothing before the output.", hint="send what went in.")
    if sae is not None:
        require_features(sae, wanted.features or ())


def _read_whole(
    loaded: LoadedModel, tokens: PassageTokens, sae: LoadedSae | None, wanted: EffectsWanted
) -> tuple[_Passage, float]:
    """Read the passage as it is, and choose features."""
    start = tokens.output_start or 0
    read = tap(loaded, _points(sae), padded([tokens.ids]))
    hidden = read[FINAL_NORM]
    (log_prob,) = _output_log_probs(loaded, hidden, tokens.ids[start:])
    peaks: tuple[Peak, ...] = ()
    rest = np.zeros((len(tokens.ids) + 1, 0), np.float32)
    if sae is not None:
        (codes,) = encode_rows(sae, read[sae.spec.hook], {0: (0, len(tokens.ids))})
        if wanted.features is None:
            peaks = peaks_of(codes, tokens.special, sae.d_sae, DEFAULT_FEATURES).first(DEFAULT_FEATURES)
        else:
            first = next(iter(tokens.textual), 0)
            peaks = peaks_among(codes, tokens.special, sae.d_sae, tuple(dict.fromkeys(wanted.features)), first)
        values = values_of(codes, [peak.index for peak in peaks], len(tokens.ids) + 1).T
        values[list(tokens.special)] = 0
        rest = np.maximum.accumulate(values[::-1], axis=0)[::-1]
    return _Passage(loaded, tokens, start, sae, peaks, rest, hidden[0]), log_prob


def _points(sae: LoadedSae | None) -> list[HookPoint]:
    return [FINAL_NORM] if sae is None else [sae.spec.hook, FINAL_NORM]


def _effects(
    passage: _Passage, changes: Sequence[_Change], log_prob: float, batch_tokens: int
) -> Steps[list[TokenEffect]]:
    found: list[TokenEffect] = []
    texts = dict(enumerate(token_strings(passage.loaded.tokenizer, passage.tokens.ids)))
    for batch in _batches(changes, len(passage.tokens.ids), tokens_a_pass(passage.loaded, batch_tokens)):
        substitutes = _substitute_texts(passage.loaded, batch)
        for change, text, measured in zip(batch, substitutes, _pass(passage, batch), strict=True):
            before = passage.rest[change.at + 1].tolist()
            rows = zip(passage.features, before, measured.maxima, strict=True)
            found.append(
                TokenEffect(
                    position=change.at,
                    token=texts[change.at],
                    substitute=text,
                    log_prob=measured.log_prob,
                    effect=measured.log_prob - log_prob,
                    features=tuple(FeatureEffect(index=index, before=was, after=now) for index, was, now in rows),
                )
            )
        yield
    return found


def _substitute_texts(loaded: LoadedModel, changes: Sequence[_Change]) -> list[str | None]:
    if any(change.substitute is None for change in changes):
        return [None] * len(changes)
    return list(token_strings(loaded.tokenizer, [change.substitute or 0 for change in changes]))


def _batches(changes: Sequence[_Change], length: int, batch_tokens: int) -> Iterator[Sequence[_Change]]:
    rows = max(1, batch_tokens // length)
    for first in range(0, len(changes), rows):
        yield changes[first : first + rows]


def _pass(passage: _Passage, changes: Sequence[_Change]) -> list[_Measured]:
    """One forward pass over changes of one kind: all texts are of one length."""
    loaded, sae, ids = passage.loaded, passage.sae, passage.tokens.ids
    rows = [
        (*ids[: one.at], *(() if one.substitute is None else (one.substitute,)), *ids[one.at + 1 :]) for one in changes
    ]
    shift = len(ids) - len(rows[0])
    read = tap(loaded, _points(sae), padded(rows))
    log_probs = _output_log_probs(loaded, read[FINAL_NORM], ids[passage.start :])
    if sae is None:
        return [_Measured(value, ()) for value in log_probs]
    spans = {row: (one.at + 1 - shift, len(rows[0])) for row, one in enumerate(changes)}
    maxima: list[tuple[float, ...]] = []
    for change, codes in zip(changes, encode_rows(sae, read[sae.spec.hook], spans), strict=True):
        # A token's place after the change, counted from there, is the same in both texts.
        special = [at - change.at - 1 for at in passage.tokens.special if at > change.at]
        after = peaks_among(codes, special, sae.d_sae, passage.features, 0)
        maxima.append(tuple(peak.activation for peak in after))
    return [_Measured(value, own) for value, own in zip(log_probs, maxima, strict=True)]


def _output_log_probs(loaded: LoadedModel, hidden: Tensor, output: Sequence[int]) -> list[float]:
    """Log p of the ``output`` that ends each row, nats; ``hidden`` is ``[rows, positions, d_model]``."""
    foretelling = hidden[:, -len(output) - 1 : -1]
    wanted = torch.tensor(list(output), device=hidden.device).repeat(len(hidden))
    nats: list[Tensor] = []
    at = 0
    for logits in logits_of(loaded, foretelling.flatten(0, 1)):
        own = wanted[at : at + len(logits)].to(logits.device)
        at += len(logits)
        nats.append(logits.gather(1, own[:, None])[:, 0] - logits.logsumexp(dim=-1))
    return torch.cat(nats).view(len(hidden), -1).sum(dim=1, dtype=torch.float64).tolist()


def _spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(places) <= most:
        return list(places)
    chosen = np.linspace(0, len(places) - 1, most).round().astype(int)
    return [places[at] for at in dict.fromkeys(chosen.tolist())]
