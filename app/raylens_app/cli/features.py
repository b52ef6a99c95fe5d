"""``raylens features``: the features of an SAE, with what they fire on and what they promote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens.errors import InputError
from raylens_app.cli.output import Column, note, print_json, print_table, stdout
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    import pyarrow as pa

    from raylens.store.examples import Example
    from raylens.store.labels import Words
    from raylens.store.reader import CacheReader
    from raylens.store.selection import Readable

_PROMOTED: Final = 3
_TOKENS_AROUND: Final = 3


class Sort(StrEnum):
    """Orders of the list; all but the index put the highest first."""

    DENSITY = "density"
    MAX = "max"
    MEAN = "mean"
    INTERESTING = "interesting"
    INDEX = "index"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    from raylens_app.cli.interest import FORMULA

    text = (
        "List features with what they fire on most strongly and which tokens they promote.\n\n"
        f"--sort interesting is a first guess at what is worth a look: {FORMULA}."
    )
    app.command("features", help=text, rich_help_panel="Look")(features)


def features(
    context: typer.Context,
    cache: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Id, how it begins, or name. Default: the cache merged last.")
    ] = None,
    sae: Annotated[
        str | None, typer.Option("--sae", "-s", metavar="SAE", help="Only this SAE; the end of its id will do.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What explanations and labels say this of, by words and by meaning; best first."
        ),
    ] = None,
    sort: Annotated[
        Sort | None, typer.Option(help="What comes first; density where nothing else is said, and without --search.")
    ] = None,
    min_density: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only features that fire on at least this share of tokens.")
    ] = None,
    max_density: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only features that fire on at most this share of tokens.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, of each SAE.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Leave out this many first, of each SAE.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List features with what they fire on most strongly and which tokens they promote."""
    from raylens.store.labels import Labels
    from raylens.store.reader import CacheReader
    from raylens.store.selection import of_sae, readables
    from raylens_app.cli.search import search_features
    from raylens_app.cli.selection import latest

    if min_density is not None and max_density is not None and min_density > max_density:
        raise InputError(
            f"no density is at least {min_density} and at most {max_density}.",
            hint="--min-density must not be above --max-density.",
        )
    workspace = state_of(context).open_workspace()
    candidates = readables(workspace, cache)
    candidates = of_sae(candidates, sae) if sae else candidates
    chosen = latest(candidates)
    reader = CacheReader(workspace, chosen[0].cache_id)
    densities = min_density, max_density
    if search is not None:
        if sort is not None:
            raise InputError("--search puts what fits best first, and --sort names another order.", hint="give one.")
        search_features(workspace, reader, chosen, search, densities, offset, limit, as_json=as_json)
        return
    sort = sort or Sort.DENSITY
    words = Labels(workspace).read()
    rows: list[dict[str, object]] = []
    for one in chosen:
        found, n_left = _rows(reader, one, sort, densities, offset, limit, with_examples=not as_json)
        _add_words(words, one, found, as_json=as_json)
        rows += found
        if not as_json:
            _print(one, found, sort)
            if n_left:
                note(f"{n_left:,} more; --offset {offset + limit} goes on.")
    if as_json:
        print_json(rows)


def _rows(
    reader: CacheReader,
    one: Readable,
    sort: Sort,
    densities: tuple[float | None, float | None],
    offset: int,
    limit: int,
    *,
    with_examples: bool,
) -> tuple[list[dict[str, object]], int]:
    """Rows of one SAE, and how many more there are."""
    from raylens.store.feature_card import promoted
    from raylens_app.cli.interest import most_interesting

    columns = ["feature", "n_active", "n_windows", "density", "mean_activation", "max_activation"]
    table = reader.table("feature_stats", one.sae, columns)
    if table is None:
        return [], 0
    statistics = within(table, *densities)
    interest: dict[int, float] = {}
    if sort is Sort.INTERESTING:
        interest = dict(most_interesting(reader, one.sae, statistics))
        order = list(interest)
    else:
        key = {Sort.MAX: "max_activation", Sort.MEAN: "mean_activation"}.get(sort, "density")
        by = [("feature", "ascending")] if sort is Sort.INDEX else [(key, "descending"), ("feature", "ascending")]
        order = statistics.sort_by(by)["feature"].to_pylist()
    page = order[offset : offset + limit]
    by_feature = {int(row["feature"]): row for row in statistics.to_pylist()}
    promotes = promoted(reader, one.sae, page, _PROMOTED)
    best = _best(reader, one, page) if with_examples else {}
    rows = [
        {
            "id": one.short(index),
            "cache_id": one.cache_id,
            "sae": str(one.sae),
            **by_feature[index],
            **({"interest": interest[index]} if interest else {}),
            "promotes": promotes.get(index, []),
            **({"example": best.get(index)} if with_examples else {}),
        }
        for index in page
    ]
    return rows, max(0, len(order) - offset - len(page))


def _add_words(words: Words, one: Readable, rows: Sequence[dict[str, object]], *, as_json: bool) -> None:
    """What people say of each feature: all of it for JSON, else in a line."""
    from raylens.store.feature_card import words_of
    from raylens_app.cli.label import STAR

    for row in rows:
        index = row["feature"]
        assert isinstance(index, int)
        said = words_of(words, one.sae, index)
        if as_json:
            row |= said
            continue
        star = STAR if any(each["starred"] for each in said["labels"]) else ""
        texts = [each["label"] for each in said["labels"] if each["label"]]
        row["says"] = " ".join(filter(None, [star, "; ".join(texts)])) or None


def within(statistics: pa.Table, low: float | None, high: float | None) -> pa.Table:
    """Rows with a density between the bounds, both inclusive; without a lower one, of features that ever fire."""
    import pyarrow.compute as pc

    density = pc.field("density")
    kept = density > 0 if low is None else density >= low
    return statistics.filter(kept if high is None else kept & (density <= high))


def _best(reader: CacheReader, one: Readable, page: Sequence[int]) -> dict[int, Example]:
    tops = {index: reader.top_windows(one.sae, index, 1) for index in page}
    examples = iter(reader.examples([activity for top in tops.values() for activity in top]))
    return {index: next(examples) for index, top in tops.items() if top}


def _print(one: Readable, rows: Sequence[dict[str, object]], sort: Sort) -> None:
    from rich.text import Text

    from raylens_app.cli import render

    colour = stdout().color_system is not None

    def excerpt(value: object) -> Text:
        example: Example = value  # pyright: ignore[reportAssignmentType]  (the one object of this column)
        cut = render.around_peak(render.pieces(example.tokens, example.activations.tolist()), _TOKENS_AROUND)
        if not colour:  # in a list, numbers at every token would hide the text
            cut = [piece if piece.peak else replace(piece, activation=0.0) for piece in cut]
        return render.highlighted(cut, example.peak, colour=colour)

    columns = [
        Column("id", "feature", style="bold"),
        Column("density", "fires on", "right", lambda value: render.percent(_number(value))),
        Column("n_windows", "windows", "right", lambda value: f"{value:,}"),
        Column("mean_activation", "mean", "right", lambda value: render.number(_number(value))),
        Column("max_activation", "max", "right", lambda value: render.number(_number(value))),
        *([Column("interest", "interest", "right", lambda value: f"{value:.2f}")] if sort is Sort.INTERESTING else []),
        *([Column("says", "people say")] if any(row["says"] for row in rows) else []),
        Column("promotes", show=lambda tokens: " ".join(map(render.token_text, _strings(tokens)))),
        Column("example", "most strongly", show=excerpt),
    ]
    name = f" ({one.name})" if one.name else ""
    print_table(rows, columns, title=f"{one.sae}, {one.d_sae:,} features, cache {one.cache_id}{name}")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
