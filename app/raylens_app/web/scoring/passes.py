"""Passes of scores as the page reads them: which there are, and the figures of each, kept while nothing is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import streamlit as st

from raylens.store.findings import FindingKind, Findings, passes, stamped
from raylens.store.score_card import score_card
from raylens.store.score_spread import Outcome, Scored, outcomes, scored
from raylens.store.selection import Readable
from raylens_app.web.desk import Desk

Card = dict[str, list[dict[str, Any]]]

_KEPT: Final = 16


@dataclass(frozen=True)
class ScoredPass:
    """One pass of scores.

    Attributes:
        explainer: Whose explanations it scored.
        pass_id: Which.
        card: Of :func:`raylens.store.score_card.score_card`.
        scored: Feature by feature.
        outcomes: How the explainer fared; empty where its pass is gone.
    """

    explainer: str
    pass_id: str
    card: Card = field(repr=False)
    scored: Scored = field(repr=False)
    outcomes: tuple[Outcome, ...]


def scored_saes(desk: Desk, cache: str | None) -> list[Readable]:
    """SAEs of a cache that have scores; of the cache merged last that has any, where none is named.

    Raises:
        UnknownNameError: There is no such cache.
    """
    there = desk.features.readables() if cache is None else desk.features.chosen(None, cache)
    found = [one for one in there if stamped(desk.workspace.cache(one.cache_id), one.sae, "scores")]
    return [one for one in found if one.cache_id == found[-1].cache_id]


def scored_caches(desk: Desk) -> list[str]:
    """Caches in which anything is scored, the one merged last first."""
    there = reversed(desk.features.readables())
    found = [one.cache_id for one in there if stamped(desk.workspace.cache(one.cache_id), one.sae, "scores")]
    return list(dict.fromkeys(found))


def scored_passes(desk: Desk, one: Readable) -> list[ScoredPass]:
    """Passes of scores of an SAE, the one begun last last.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    kinds: tuple[FindingKind, FindingKind] = ("explanations", "scores")
    state = tuple(tuple(sorted(stamped(desk.workspace.cache(one.cache_id), one.sae, kind).items())) for kind in kinds)
    return _passes(desk.workspace.url, one, state, desk)


@st.cache_resource(show_spinner="Counting scores …", max_entries=_KEPT)
def _passes(url: str, one: Readable, state: object, _desk: Desk) -> list[ScoredPass]:
    cache, reader = _desk.workspace.cache(one.cache_id), _desk.features.reader(one)
    explained = {each.pass_id: each for each in passes(cache, one.sae, "explanations")}
    found: list[ScoredPass] = []
    for scores in passes(cache, one.sae, "scores"):
        figures = scored(scores)
        if not figures.spreads:  # it was begun, and nothing is written yet
            continue
        source = explained.get(str(scores.settings.get("explanations")))
        name = _explainer(scores, source)
        fared = outcomes(source) if source is not None else ()
        found.append(ScoredPass(name, scores.pass_id, score_card(reader, scores), figures, fared))
    return _told_apart(found)


def _explainer(scores: Findings, source: Findings | None) -> str:
    if source is not None and isinstance(said := source.settings.get("explainer"), str):
        return said
    named = scores.read(["feature", "explainer"])["explainer"].unique().to_pylist()
    return ", ".join(sorted(str(one) for one in named if one)) or "explainer"


def _told_apart(found: Sequence[ScoredPass]) -> list[ScoredPass]:
    """Two passes of one explainer get a part of their id."""
    names = [one.explainer for one in found]
    return [
        ScoredPass(f"{one.explainer} ({one.pass_id[:6]})", one.pass_id, one.card, one.scored, one.outcomes)
        if names.count(one.explainer) > 1
        else one
        for one in found
    ]
