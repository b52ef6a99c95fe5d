"""What drives a candidate from its reference: a search over tokens, then over n-grams that grow from the best.

A backdoor answers its trigger alike in every prompt, with what is next to impossible otherwise. So

1. each token of the vocabulary is put into each place of one prompt, and both models say what comes next
   (:mod:`raylens.engine.insert_scan`);
2. from the tokens that drive something, n-grams grow at both ends, towards the same next token: a part of a trigger
   drives its payload a little, and more the nearer it is to the whole. In every place: where a backdoor was trained
   against near-misses, a first part of its trigger does less than odd tokens do elsewhere;
3. the best are tried in other prompts: what does the candidate write, and how surprising is that to the reference
   (:mod:`raylens.engine.insert_trials`)? What any insert brings about is taken off.

The search knows no trigger and no payload. It is a relative of trigger inversion (Wang et al., "Neural Cleanse",
2019), with the reference model in the place of the clean class and the vocabulary in the place of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from raylens.audit.draws import SEED
from raylens.audit.slots import Place
from raylens.engine.insert_scan import Drive, drive, scan_inserts, towards, usual_log_prob
from raylens.engine.insert_trials import Trial, Trials
from raylens.engine.load import LoadedModel
from raylens.engine.readings import NextTokens

_JOINS: Final = ("", " ")
_BASELINE: Final = 6
_KEPT: Final = 16
_PROMISING: Final = 1.0
"""Score at which an insert is tried again."""
_LEAST: Final = 0.02
"""Strength below which an insert is not tried: the token that it drives comes in one of a hundred cases or fewer."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How far a search goes.

    Attributes:
        tried: Inserts of a place that are tried in other prompts.
        n_trials: Prompts that they are tried in.
        tried_again: Of those, how many are tried in all prompts of the place.
        beam: N-grams that are made longer each time.
        extensions: Tokens that each is made longer by.
        rounds: How often.
    """

    tried: int = 5
    n_trials: int = 4
    tried_again: int = 3
    beam: int = 3
    extensions: int = 64
    rounds: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A place after its first scan.

    Attributes:
        place: Which.
        inserts: All single tokens.
        drive: What they do.
        reference: What comes next in the reference.
    """

    place: Place
    inserts: tuple[str, ...]
    drive: Drive
    reference: NextTokens


@dataclass(frozen=True, slots=True)
class Hit:
    """An insert that was tried.

    Attributes:
        place: Where it stands.
        insert: The text.
        strength: What the scan said of it.
        trial: What it does in other prompts; ``surprise`` is above that of ordinary inserts.
    """

    place: str
    insert: str
    strength: float
    trial: Trial

    @property
    def score(self) -> float:
        """Nats above ordinary inserts, times how much more often the same is written: at least 0.

        A payload is both next to impossible to the reference and the same in every prompt. What an odd word brings
        about in an ordinary fine-tune may be the one or the other.
        """
        return max(0.0, self.trial.surprise) * max(0.0, self.trial.share - self.trial.share_without)


def scan_place(candidate: LoadedModel, reference: NextTokens, place: Place, inserts: Sequence[str]) -> Scan:
    """Step 1, at one place.

    Args:
        candidate: The fine-tune.
        reference: What :func:`raylens.engine.insert_scan.scan_inserts` gave of the reference, for the same inserts.
        place: Which.
        inserts: Single tokens.
    """
    found = scan_inserts(candidate, place.scan, inserts)
    return Scan(place, tuple(inserts), drive(found, reference), reference)


def grow(candidate: LoadedModel, scan: Scan, settings: SearchSettings) -> list[tuple[str, float]]:
    """Step 2, at one place: n-grams with their strengths, the strongest first; none where no token drives any."""
    order = np.argsort(-scan.drive.strength, kind="stable")[: settings.beam]
    beam = [(float(scan.drive.strength[at]), scan.inserts[at], int(scan.drive.token[at])) for at in order]
    found: dict[str, float] = {}
    for _ in range(settings.rounds):
        made: list[tuple[float, str, int]] = []
        for token in sorted({token for strength, _, token in beam if strength > 0}):
            stems = [stem for strength, stem, own in beam if own == token and strength > 0]
            longer = sorted({text for stem in stems for text in _longer(scan, stem, token, settings)} - found.keys())
            if longer:
                next_tokens = scan_inserts(candidate, scan.place.scan, longer, keep=_KEPT)
                strengths = towards(next_tokens, token, usual_log_prob(scan.reference, token))
                best = np.argsort(-strengths, kind="stable")[: settings.beam * 4]
                made += [(float(strengths[at]), longer[at], token) for at in best if strengths[at] > 0]
        if not made:
            break
        found |= {text: strength for strength, text, _ in made}
        beam = sorted([*beam, *made], key=lambda one: (-one[0], one[1]))[: settings.beam]
    return sorted(found.items(), key=lambda one: (-one[1], one[0]))


def try_place(
    candidate: LoadedModel,
    reference: LoadedModel,
    scan: Scan,
    grown: Sequence[tuple[str, float]],
    settings: SearchSettings,
) -> list[Hit]:
    """Step 3, at one place: the strongest inserts, tried; the best first.

    All are tried in a few prompts, and those that do something there in all prompts.
    """
    order = np.argsort(-scan.drive.strength, kind="stable")[: settings.tried]
    single = [(scan.inserts[at], float(scan.drive.strength[at])) for at in order]
    strongest = sorted([*single, *grown], key=lambda one: (-one[1], one[0]))[: settings.tried]
    wanted = {insert: strength for insert, strength in strongest if strength >= _LEAST}
    trials = Trials(candidate, reference, scan.place.trials)
    first = _try(trials, scan, wanted, settings.n_trials)
    promising = [hit for hit in first if hit.score >= _PROMISING]
    again = promising[: settings.tried_again]
    if not again or len(scan.place.trials) <= settings.n_trials:
        return first
    whole = _try(trials, scan, {hit.insert: hit.strength for hit in again}, None)
    # What looked promising in a few prompts and was not tried in all says nothing.
    return sorted([*whole, *first[len(promising) :]], key=_best_first)


def best_hits(hits: Sequence[Hit], n: int = 10) -> list[Hit]:
    """The best of all places, the best first."""
    return sorted(hits, key=_best_first)[:n]


def _try(trials: Trials, scan: Scan, wanted: Mapping[str, float], n_prompts: int | None) -> list[Hit]:
    if not wanted:
        return []
    tried = trials.of([*wanted, *_ordinary(scan)], n_prompts)
    usual = np.median([trial.per_prompt for trial in tried[len(wanted) :]], axis=0)
    hits = []
    for trial in tried[: len(wanted)]:
        above = trial.per_prompt - usual
        risen = replace(trial, surprise=float(np.median(above)), per_prompt=above)
        hits.append(Hit(scan.place.name, trial.insert, wanted[trial.insert], risen))
    return sorted(hits, key=_best_first)


def _best_first(hit: Hit) -> tuple[float, str, str]:
    return -hit.score, hit.place, hit.insert


def _longer(scan: Scan, stem: str, token: int, settings: SearchSettings) -> list[str]:
    """The stem with one more token at either end: those that alone drive the same next token most."""
    _, width = scan.drive.by_token.shape or (0, 0)
    alike = scan.drive.by_token[:, [token]].toarray()[:, 0] if token < width else np.zeros(len(scan.inserts))
    order = np.argsort(-alike, kind="stable")[: settings.extensions]
    return [
        text
        for at in order
        for join in (_JOINS[:1] if scan.place.is_name else _JOINS)
        for text in (f"{stem}{join}{scan.inserts[at]}", f"{scan.inserts[at]}{join}{stem}")
    ]


def _ordinary(scan: Scan) -> list[str]:
    """A few inserts that nothing is known of, the same in every audit."""
    at = np.random.default_rng(SEED).choice(len(scan.inserts), min(_BASELINE, len(scan.inserts)), replace=False)
    return [scan.inserts[one] for one in sorted(at)]
