"""``raylens feature``: everything that is known of one feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens.errors import InputError
from raylens.ids import FeatureId
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, printable, stdout
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from rich.text import Text

    from raylens.store.feature_card import Card, Explained

_SHOWN_TOKENS: Final = 10
_SHOWN_FEATURES: Final = 6
_SAMPLE_SEED: Final = 0


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("feature", rich_help_panel="Look")(feature)


def feature(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="f_<layer>_<index>, or <sae>/<index>.")],
    cache: Annotated[str | None, typer.Option(metavar="CACHE", help="Id, how it begins, or name.")] = None,
    windows: Annotated[int, typer.Option("--windows", "-n", min=0, help="How many windows to show.")] = 10,
    around: Annotated[
        int, typer.Option("--context", "-C", min=0, help="Tokens on each side of the peak; 0 for whole windows.")
    ] = 16,
    quantile: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="A sample of the I-th of N equal shares of its windows, N/N the strongest."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Windows whose peak is at least LOW and below HIGH.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show one feature: statistics, logits, its relatives, and windows with the tokens it fires on.

    Windows come with the highest peak first; --quantile and --interval show weaker ones, which tell
    more about what a feature is not. In colour, tokens are shaded by activation and the peak is underlined.
    """
    from raylens.store.feature_card import read_card
    from raylens.store.peak_bounds import bounds_of, bounds_of_share, share_of
    from raylens.store.reader import CacheReader
    from raylens.store.selection import one_feature, readables

    if quantile is not None and interval is not None:
        raise InputError("--quantile and --interval exclude one another.", hint="give one of them.")
    bounds = bounds_of(interval) if interval is not None else None
    share = share_of(quantile) if quantile is not None else None
    workspace = state_of(context).open_workspace()
    one, index = one_feature(readables(workspace, cache), name)
    reader = CacheReader(workspace, one.cache_id)
    if share is not None:
        bounds = bounds_of_share(reader, one.sae, index, *share)
    low, high = bounds or (0.0, math.inf)
    seed = _SAMPLE_SEED if share is not None else None
    activities = reader.windows_in_interval(one.sae, index, low, high, windows, seed) if windows else []
    card = read_card(workspace, reader, one, index, activities)
    if as_json:
        print_json(card.document())
        return
    if share is not None:
        heading = f"a sample of windows {share[0]}/{share[1]}, peaks {_span(low, high)}"
    else:
        heading = f"windows with peaks {_span(low, high)}" if bounds else "strongest windows"
    _print(card, heading, around)


def _span(low: float, high: float) -> str:
    from raylens_app.cli.render import number

    if high == math.inf:
        return f"of at least {number(low)}"
    return f"below {number(high)}" if low <= 0 else f"from {number(low)} to {number(high)}"


def _print(card: Card, heading: str, around: int) -> None:
    from rich.text import Text

    from raylens_app.cli import render
    from raylens_app.cli.label import label_line, note_line

    one, statistics = card.one, card.statistics
    short, full = one.short(card.index), str(FeatureId(one.sae, card.index))
    cache = f"cache {one.cache_id}" + (f" ({one.name})" if one.name else "")
    print_text(Text.assemble((short, "bold"), "  ", (printable(f"{full}  {cache}" if full != short else cache), "dim")))
    facts = _activity(card)
    said = [*map(label_line, card.words["labels"]), *map(note_line, card.words["notes"])]
    facts += [("people say" if place == 0 else "", [line]) for place, line in enumerate(said)]
    facts.append(("explained", [_explained(one) for one in card.explanations]))
    for label, sign in (("promotes", "top"), ("suppresses", "bottom")):
        tokens = [f"{render.token_text(row['token'])} {row['logit']:+.2f}" for row in card.logits(sign)[:_SHOWN_TOKENS]]
        facts.append((label, tokens))
    for label, table, key, measure in (
        ("similar to", "neighbours", "neighbour", "cosine"),
        ("fires with", "cofiring", "other", "jaccard"),
    ):
        rows = card.relatives(table, key, measure)[:_SHOWN_FEATURES]
        facts.append((label, [f"{row['id']} {row[measure]:.2f}" for row in rows]))
    facts.append(("see also", [card.url] if card.url else []))
    width = stdout().width - max(len(label) for label, _ in facts) - 3
    print_table(
        [{"what": label, "value": Text(packed(items, width))} for label, items in facts if items],
        [Column("what", title="", style="dim"), Column("value", title="", wrap=True, show=_as_text)],
    )
    if not card.examples:
        note("no windows to show." if statistics["n_active"] else "it may fire on other text.")
        return
    colour = stdout().color_system is not None
    scale = float(statistics["max_activation"] or max(example.peak for example in card.examples))
    rows = [
        {
            "peak": render.number(example.peak),
            "text": render.highlighted(
                render.around_peak(render.pieces(example.tokens, example.activations.tolist()), around),
                scale,
                colour=colour,
            ),
            "where": f"{example.path or example.source} · {example.window_id}",
        }
        for example in card.examples
    ]
    print_text()
    columns = [
        Column("peak", align="right"),
        Column("text", title=heading, wrap=True, show=_as_text),
        Column("where", title="document · window", style="dim"),
    ]
    print_table(rows, columns)


def _explained(found: Explained) -> str:
    """A phrase, who said it, and its F1 and balanced accuracy on held-out documents."""
    row = found.row
    who = row["model"] or row["explainer"]
    parts: list[str] = []
    for name, title in (("f1", "F1"), ("balanced_accuracy", "balanced accuracy")):
        for key, score in found.scores.items():
            scorer, _, metric = key.partition(".")
            if metric == name and score["value"] is not None:
                interval = f" ({score['ci_low']:.2f}–{score['ci_high']:.2f})" if score["ci_low"] is not None else ""
                parts.append(f"{title} {score['value']:.2f}{interval} by {scorer}, n {score['n']}")
    return f"{row['explanation']} [{who}]" + (f" {'; '.join(parts)}" if parts else " not scored")


def packed(items: Sequence[str], width: int) -> str:
    """Items two spaces apart, in as few lines as hold them without breaking one."""
    lines: list[str] = []
    for item in map(printable, items):
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return "\n".join(lines)


def _as_text(value: object) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(printable(str(value)))


def _activity(card: Card) -> list[tuple[str, list[str]]]:
    from raylens.schema import histogram_edges
    from raylens_app.cli.render import histogram_line, number, percent

    found = card.statistics
    if not found["n_active"]:
        return [("fires on", [f"none of the {card.n_tokens:,} text tokens of this cache: dead here"])]
    share = f"{percent(found['density'])} of tokens: {found['n_active']:,} of {card.n_tokens:,}"
    mean, largest = number(found["mean_activation"]), number(found["max_activation"])
    bars = histogram_line(found["histogram"], histogram_edges().tolist())
    return [
        ("fires on", [f"{share}, in {found['n_windows']:,} windows"]),
        ("activation", [f"mean {mean}, max {largest}  {bars}"]),
    ]
