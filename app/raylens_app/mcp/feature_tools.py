"""Tools about features: which changed in an audit, and what is known of one."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from raylens.audit.artefacts import InterpEvidence
from raylens.audit.feature_rows import FeatureRow, Highlight
from raylens.errors import InputError, RaylensError, UnknownNameError
from raylens.ids import FeatureId
from raylens.reports.wording import meaning
from raylens.store.feature_card import Card, read_card
from raylens.store.reader import CacheReader
from raylens.store.selection import feature_of_any_cache, readables
from raylens_app.cli.render import around_peak, highlighted, pieces
from raylens_app.mcp.answers import Answer, Document, clipped, paged, plural
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.run_tools import artefacts_of
from raylens_app.mcp.tool import Arguments, Offset, RunName, reading

_EXPLANATIONS: Final = 5
_LOGITS: Final = 8
_TEXT: Final = 400

FeatureName = Annotated[str, Field(min_length=1, max_length=320, description="f_<layer>_<index>, or <sae>/<index>.")]


class DifferentialFeatures(Arguments):
    """Of ``differential_features``."""

    run: RunName
    top: Annotated[int, Field(ge=1, le=100, description="Features at most.")] = 10
    max_q: Annotated[float, Field(ge=0, le=1, description="Only features of at most this q-value.")] = 1.0
    offset: Offset = 0


class FeatureDetails(Arguments):
    """Of ``feature_details``."""

    feature: FeatureName
    run: Annotated[RunName | None, Field(description="An audit, to see what it did to the feature.")] = None
    windows: Annotated[int, Field(ge=0, le=20, description="Windows of text at most, the strongest first.")] = 3
    context: Annotated[int, Field(ge=1, le=64, description="Tokens on each side of a window's peak.")] = 10


def differential_features(desk: Desk, given: DifferentialFeatures) -> Answer:
    """The features that changed most, with what they mean or what their nearest explained neighbour does."""
    place, artefacts = artefacts_of(desk, given.run)
    evidence = artefacts.interp_evidence
    if evidence is None:
        raise InputError(f"audit {place} read no features.", hint="run it again with an SAE.")
    wanted = [row for row in evidence.features if row.q_value <= given.max_q]
    own = evidence.own_explanations
    return Document(
        f"{evidence.n_significant} of {plural(evidence.n_tested, 'tested feature')} changed with q ≤ 0.05. In any "
        "fine-tune most features that fire change: this is what changed, not that it is harmful.",
        {
            "run": str(place),
            "sae": evidence.sae,
            "coverage": evidence.coverage.line,
            "own_explanations": own.line if own is not None else None,
        },
        "features",
        [changed(row) for row in wanted[given.offset : given.offset + given.top]],
        paged(given.offset, len(wanted), "features"),
    )


def feature_details(desk: Desk, given: FeatureDetails) -> Answer:
    """What the workspace and, where one is named, an audit know of a feature."""
    name, audited = given.feature, None
    if given.run is not None:
        _, artefacts = artefacts_of(desk, given.run)
        if (evidence := artefacts.interp_evidence) is not None:
            name, audited = _in_audit(evidence, given.feature)
    try:
        card = _card(desk, name, given.windows)
    except RaylensError as error:
        if audited is None:
            raise
        said = audited.get("meaning") or audited["note"]
        return Document(f"{name}: {said}", {"audit": audited, "cache": error.message})
    windows = [
        {
            "peak": one.peak,
            "text": highlighted(
                around_peak(pieces(one.tokens, one.activations.tolist()), given.context), one.peak, colour=False
            ).plain,
            "from": f"{one.source}:{one.path}" if one.path else one.source,
        }
        for one in card.examples
    ]
    said = _said(card)
    return Document(
        f"{card.one.short(card.index)}: {said[0]['explanation'] if said else 'nobody has explained it yet'}.",
        {
            "feature": str(FeatureId(card.one.sae, card.index)),
            "cache": card.one.cache_id,
            "statistics": _statistics(card),
            "explanations": said or None,
            "promotes": [row["token"] for row in card.logits("top")[:_LOGITS]] or None,
            "suppresses": [row["token"] for row in card.logits("bottom")[:_LOGITS]] or None,
            "url": card.url,
            "audit": audited,
        },
        "windows",
        windows,
    )


TOOLS: Final = (
    reading(
        "differential_features",
        "The SAE features that changed most between reference and candidate in one audit, with q-values and what each "
        "means: an explanation, or the nearest explained neighbour's as a proxy with its cosine.",
        DifferentialFeatures,
        differential_features,
    ),
    reading(
        "feature_details",
        "One feature: what it means, how often it fires, and the texts that it fires on most («token»(activation)).",
        FeatureDetails,
        feature_details,
    ),
)


def changed(row: FeatureRow) -> dict[str, Any]:
    """What an audit says of a feature, in short (A2.06)."""
    said = meaning(row)
    found: dict[str, Any] = {
        "id": row.id,
        "index": row.index,
        "delta": row.delta,
        "q": row.q_value,
        **({"effect": row.effect} if row.effect is not None else {}),
        "fires_on": f"{row.rate_reference:.0%} → {row.rate_candidate:.0%} of prompts",
    }
    if row.explanation is not None:
        return found | {"explanation": clipped(row.explanation, _TEXT)}
    if row.proxy_explanation_cosine is None:
        return found | {"explanation": None}
    return found | {
        "proxy": clipped(said.text, _TEXT) if said.text else None,
        "proxy_cosine": row.proxy_explanation_cosine,
        "proxy_low_similarity": row.proxy_low_similarity,
    }


def _in_audit(evidence: InterpEvidence, name: str) -> tuple[str, dict[str, Any] | None]:
    """The whole name of a feature of the audit's SAE, and what the audit says of it, where it is listed.

    Raises:
        UnknownNameError: It is of another SAE, or there is none of that name.
    """
    row = next((one for one in evidence.features if one.id == name or f"{evidence.sae}/{one.index}" == name), None)
    if row is None:
        if name.startswith("f_"):
            names = [one.id for one in evidence.features]
            raise UnknownNameError.among("feature of this audit", name, names, hint="Or leave run out.")
        return name, {"note": "not among the features that this audit lists."}
    said = meaning(row)
    strata = dict(zip(("first_third", "second_third", "last_third"), row.strata, strict=True))
    more = {
        "meaning": " · ".join(part for part in (said.text, said.remark) if part),
        "p": row.p_value,
        "p_max_t": row.p_max_t,
        "rate_ratio": row.rate_ratio,
        "delta_by_position": strata,
        "kept_in_variants": row.kept_in_variants,
        "neighbours": [one.model_dump() for one in row.neighbours] or None,
        "where": next((_where(one) for one in evidence.highlights if one.index == row.index), None),
    }
    known = {key: value for key, value in more.items() if value is not None}
    return f"{evidence.sae}/{row.index}", changed(row) | known


def _where(one: Highlight) -> dict[str, str]:
    """The prompt on which it differs most, as both models went on with it."""
    sides = {"reference": one.reference, "candidate": one.candidate}
    shown = {
        who: highlighted(around_peak(pieces(side.tokens, side.activations), 10), 1.0, colour=False).plain
        for who, side in sides.items()
    }
    return {"prompt": one.prompt, **shown}


def _card(desk: Desk, name: str, n_windows: int) -> Card:
    one, index = feature_of_any_cache(readables(desk.workspace), name)
    reader = CacheReader(desk.workspace, one.cache_id)
    try:
        activities = reader.top_windows(one.sae, index, n_windows) if n_windows else []
        return read_card(desk.workspace, reader, one, index, activities)
    finally:
        reader.close()


def _said(card: Card) -> list[dict[str, Any]]:
    rows = card.said()[:_EXPLANATIONS]
    return [
        {
            "explanation": clipped(str(one["explanation"]), _TEXT),
            "by": one.get("author") or one["explainer"],
            "scores": {name: score["value"] for name, score in one["scores"].items()},
        }
        for one in rows
    ]


def _statistics(card: Card) -> dict[str, Any]:
    return {key: value for key, value in card.statistics.items() if key not in {"feature", "histogram"}}
