"""``raylens demo``: the main job on the embedded bundle, then what one would look at first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens_app.cli import cache as caching
from raylens_app.cli.feature import feature as show_feature
from raylens_app.cli.features import Sort
from raylens_app.cli.features import features as list_features
from raylens_app.cli.output import Column, data_size, duration, print_table, print_text
from raylens_app.cli.state import Address, state_of

_TOKENS: Final = 500_000
_LISTED: Final = 5
_SAE_SHOWN: Final = "layer_3"
_EXPLAINED: Final = 200
_MIN_WINDOWS: Final = 250
"""Some more than the excerpts that are wanted, of which a window may hold several."""


if TYPE_CHECKING:
    from raylens.ids import SaeId
    from raylens.store.findings import Findings
    from raylens.store.reader import CacheReader
    from raylens.store.selection import Readable
    from raylens.store.workspace import Workspace


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("demo", rich_help_panel="Make")(demo)


def demo(
    context: typer.Context,
    n_tokens: Annotated[int, typer.Option(min=1, help="Text tokens to encode.")] = _TOKENS,
    address: Address = None,
) -> None:
    """Cache the standard library through raylens/pico with three SAEs, explain and score 200 features, and show them.

    Needs no GPU, no hub, no token and no LLM. A second run finds everything there.
    """
    from raylens.bundle.paths import PICO, list_saes
    from raylens.config import CacheConfig
    from raylens.store.reader import CacheReader
    from raylens_app.cli.score_card import print_card
    from raylens_jobs.cluster import cluster

    began = time.monotonic()
    workspace = state_of(context).open_workspace(create=True)
    saes = tuple(str(one.id) for one in list_saes())
    with cluster(address):  # started once for all three jobs
        figures = caching.run(workspace, CacheConfig(model=PICO, saes=saes, n_tokens=n_tokens, name="demo"))
        seconds = time.monotonic() - began
        reader = CacheReader(workspace, str(figures["cache_id"]))
        card, best = _explain_and_score(workspace, reader)
    print_table(_figures(figures, seconds), [Column("what", "", style="dim"), Column("value", "", wrap=True)])
    cache_id = str(figures["cache_id"])
    for sort, heading in ((Sort.DENSITY, "The densest features"), (Sort.INTERESTING, "The most interesting features")):
        print_text()
        print_text(f"{heading} of the middle SAE")
        list_features(
            context,
            cache=cache_id,
            sae=_SAE_SHOWN,
            sort=sort,
            min_density=None,
            max_density=None,
            limit=_LISTED,
            offset=0,
            as_json=False,
        )
    print_text()
    print_text(
        f"{_EXPLAINED} features of the middle SAE, explained without a language model by a phrase and a rule, and "
        "scored on documents that the explainer did not see"
    )
    print_card(card)
    print_text()
    print_text("Explained best, by the lower end of the interval of F1")
    columns = [
        Column("feature"),
        Column("explanation", wrap=True),
        Column("f1", title="F1", align="right"),
        Column("interval", title="95 % interval"),
    ]
    print_table(best, columns)
    best_name = f"{_shown(reader)}/{best[0]['number']}"
    print_text()
    show_feature(
        context, name=best_name, cache=cache_id, windows=6, around=12, quantile=None, interval=None, as_json=False
    )
    print_text()
    print_text("Try next:")
    place = state_of(context).workspace_option()
    for command in (
        f"raylens{place} features --sort interesting",
        f"raylens{place} feature {best_name} --quantile 3/10",
        f'raylens{place} features --search "opening a file"',
        f'raylens{place} sql "SELECT sae, count(*) AS alive FROM feature_stats WHERE n_active > 0 GROUP BY sae"',
        f"raylens{place} cache --n-tokens 2000000",
        "raylens catalog --model google/gemma-2-2b",
        "raylens doctor",
    ):
        print_text(f"  {command}")


def _figures(figures: dict[str, Any], seconds: float) -> list[dict[str, object]]:
    text = f"{figures['tokens_total']:,} tokens in {figures['windows_total']:,} windows"
    made = "found there" if not figures["tokens"] else f"{figures['tokens'] / figures['busy_seconds']:,.0f} tokens/s"
    size = data_size(figures["activation_bytes"])
    per = figures["activation_bytes"] / max(1, figures["activations_merged"])
    rows = {
        "text": f"{text} of the standard library",
        "encoding": f"{made}, {figures['workers']} × {figures['device']}",
        "activations": f"{figures['activations_merged']:,} in {size}, {per:.2f} bytes each",
        "merge": duration(figures["merge_seconds"]),
        "all of it": duration(seconds),
        "run": f"{figures['run_id']}, cache {figures['cache_id']}",
    }
    return [{"what": what, "value": value} for what, value in rows.items()]


def _explain_and_score(
    workspace: Workspace, reader: CacheReader
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Explain features of all densities with the lexical explainer, and hold the rules against held-out documents.

    Returns the score card, and the features that are explained best.
    """
    from raylens.config import ExplainConfig, ScoreConfig
    from raylens.store.findings import passes
    from raylens.store.selection import readables
    from raylens_app.cli.passes import run_explain, run_score
    from raylens_app.cli.score_card import score_card

    sae = _shown(reader)
    one = next(each for each in readables(workspace, reader.cache_id) if each.sae == sae)
    explained = run_explain(workspace, one, ExplainConfig(features=_of_all_densities(reader, sae)))
    known = passes(workspace.cache(reader.cache_id), sae, "explanations")
    explanations = next(each for each in known if each.pass_id == explained["pass_id"])
    scored = run_score(workspace, explanations, ScoreConfig())
    return score_card(workspace, one, scored["pass_id"]), _best(one, explanations, scored["pass_id"])


def _best(one: Readable, explanations: Findings, pass_id: str) -> list[dict[str, Any]]:
    from raylens.store.findings import passes

    known = passes(explanations.cache, explanations.sae, "scores")
    rows = next(each for each in known if each.pass_id == pass_id).read().to_pylist()
    scores = [
        row
        for row in rows
        if (row["scorer"], row["metric"], row["control"]) == ("rule", "f1", None) and row["ci_low"] is not None
    ]
    said = {row["feature"]: row["explanation"] for row in explanations.read().to_pylist()}
    return [
        {
            "number": row["feature"],
            "feature": one.short(row["feature"]),
            "explanation": said[row["feature"]],
            "f1": f"{row['value']:.3f}",
            "interval": f"{row['ci_low']:.3f} … {row['ci_high']:.3f}",
        }
        for row in sorted(scores, key=lambda row: -row["ci_low"])[:_LISTED]
    ]


def _of_all_densities(reader: CacheReader, sae: SaeId) -> tuple[int, ...]:
    """Features that fire in enough windows to be explained, evenly over their order by density."""
    import numpy as np

    stats = reader.table("feature_stats", sae, ["feature", "n_windows", "density"])
    assert stats is not None
    often = stats.filter(np.asarray(stats["n_windows"].to_numpy() >= _MIN_WINDOWS)).sort_by("density")
    chosen = np.linspace(0, len(often) - 1, min(_EXPLAINED, len(often))).round().astype(int)
    return tuple(sorted(often["feature"].to_numpy()[chosen].tolist()))


def _shown(reader: CacheReader) -> SaeId:
    return next(one for one in reader.saes if one.name == _SAE_SHOWN)
