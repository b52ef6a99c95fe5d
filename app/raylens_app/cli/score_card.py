"""The score card as tables: medians beside chance, then what the whole SAE comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from raylens_app.cli.output import Column, print_table, print_text

if TYPE_CHECKING:
    from raylens.store.selection import Readable
    from raylens.store.workspace import Workspace

Card = Mapping[str, Sequence[Mapping[str, Any]]]

AGGREGATES: Final = {
    "frequency_weighted_f1": "F1 weighted by how often features fire",
    "threshold_rate": "F1 > 0.7, precision > 0.8, recall > 0.6",
    "good_rate": "good: that, and a concept",
    "mean_is_concept": "explanations that name a concept",
}
"""Aggregates that are shown, and what they are called."""


def score_card(workspace: Workspace, one: Readable, pass_id: str) -> dict[str, list[dict[str, Any]]]:
    """See :func:`raylens.store.score_card.score_card`."""
    from raylens.store.findings import passes
    from raylens.store.reader import CacheReader
    from raylens.store.score_card import score_card as card_of

    scores = next(each for each in passes(workspace.cache(one.cache_id), one.sae, "scores") if each.pass_id == pass_id)
    return card_of(CacheReader(workspace, one.cache_id), scores)


def print_card(card: Card) -> None:
    """The card for people."""
    rows = [_shown(row, "median") | {"shuffled": _number(row["shuffled"])} for row in card["figures"]]
    columns = [
        Column("scorer"),
        Column("metric"),
        Column("median", align="right"),
        Column("interval", title="95 % interval"),
        Column("n", title="features", align="right"),
        Column("shuffled", title="shuffled", align="right"),
    ]
    print_table(rows, columns)
    chosen = [row for row in card["aggregates"] if row["metric"] in AGGREGATES and row["n"]]
    if not chosen:
        return
    print_text()
    named = [_shown(row, "value") | {"metric": AGGREGATES[row["metric"]]} for row in chosen]
    bands = [
        _shown(row, "value") | {"metric": f"median F1 at density {row['density_above']:g} to {row['density_to']:g}"}
        for row in card["by_density"]
    ]
    columns = [
        Column("scorer"),
        Column("metric", title="over the SAE"),
        Column("value", align="right"),
        Column("interval", title="95 % interval"),
        Column("n", title="features", align="right"),
    ]
    print_table(sorted([*named, *bands], key=lambda row: row["scorer"]), columns)


def _shown(row: Mapping[str, Any], value: str) -> dict[str, Any]:
    return {
        **row,
        value: _number(row[value]),
        "interval": "–" if row["ci_low"] is None else f"{_number(row['ci_low'])} … {_number(row['ci_high'])}",
    }


def _number(value: object) -> str:
    return "–" if value is None else f"{value:.3f}"
