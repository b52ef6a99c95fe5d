"""What several rows say of one feature, put together by rules that do not depend on which files they stand in.

What exists beats what was missing; of fields the newest that says something counts; activations and explanations are
gathered, equal ones once; of one explanation that came with and without scores, the scored one counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from raylens.labels.explanations import Explanation, as_json, read_explanation

Row = Mapping[str, Any]
"""A row of :mod:`raylens.store.label_cache`, or some columns of one."""

Status = Literal["ok", "missing", "unknown"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one feature.

    Attributes:
        status: ``ok``; ``missing`` where whoever was asked has no such feature, or no explanation of it; ``unknown``
            where nobody was asked.
        explanations: In a fixed order; empty where there are none.
        page: The same of its page alone: explanations may have come without one.
    """

    status: Status
    explanations: tuple[Explanation, ...] = ()
    page: Status = "unknown"


def known_from(pages: Sequence[Row], said: Sequence[Row]) -> Known:
    """What rows about one feature come to.

    Args:
        pages: Of ``feature_cache``: ``status``.
        said: Of ``explanation_cache``: ``status``, ``payload`` and ``fetched_at``.
    """
    chosen: dict[str, tuple[tuple[bool, datetime, str], Explanation]] = {}
    for row in said:
        one = read_explanation(json.loads(row["payload"])) if row["status"] == "ok" else None
        if one is None:
            continue
        order = one.score is not None, row["fetched_at"], row["payload"]
        if one.explanation_id not in chosen or order > chosen[one.explanation_id][0]:
            chosen[one.explanation_id] = order, one
    found = tuple(sorted((one for _, one in chosen.values()), key=lambda one: (one.type_name, one.explanation_id)))
    page: Status = "unknown" if not pages else "ok" if any(row["status"] == "ok" for row in pages) else "missing"
    if found or page == "ok":
        return Known("ok", found, page)
    return Known("missing" if pages or said else "unknown", page=page)


def merged_page(rows: Iterable[Row]) -> dict[str, Any]:
    """Fields of a feature's pages, its strongest activations first.

    Args:
        rows: Of ``feature_cache``, with status ``ok``: ``payload``, ``fetched_at`` and ``digest``.
    """
    page: dict[str, Any] = {}
    activations: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: (row["fetched_at"], row["digest"])):
        found = json.loads(row["payload"])
        listed = found.get("activations")
        activations |= {as_json(one): one for one in listed} if isinstance(listed, list) else {}
        page |= {name: value for name, value in found.items() if value not in (None, [], "") or name not in page}
    if "activations" in page:
        page["activations"] = [one for _, one in sorted(activations.items(), key=_strongest_first)]
    return page


def _strongest_first(pair: tuple[str, Any]) -> tuple[float, str]:
    key, one = pair
    peak = one.get("maxValue") if isinstance(one, dict) else None
    return (-float(peak) if isinstance(peak, int | float) else 0.0), key
