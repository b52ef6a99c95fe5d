"""``raylens demo``: the main job on the embedded bundle, then what one would look at first."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from raylens_app.cli import cache as caching
from raylens_app.cli.feature import feature as show_feature
from raylens_app.cli.features import Sort
from raylens_app.cli.features import features as list_features
from raylens_app.cli.output import Column, data_size, duration, print_table, print_text
from raylens_app.cli.state import state_of

_TOKENS: Final = 500_000
_LISTED: Final = 5
_SAE_SHOWN: Final = "layer_3"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("demo", rich_help_panel="Make")(demo)


def demo(
    context: typer.Context,
    n_tokens: Annotated[int, typer.Option(min=1, help="Text tokens to encode.")] = _TOKENS,
) -> None:
    """Cache the standard library through raylens/pico with three SAEs, and show what came of it.

    Needs no GPU, no hub, no token and no LLM. A second run finds everything there.
    """
    from raylens.bundle.paths import PICO, list_saes
    from raylens.config import CacheConfig
    from raylens.store.reader import CacheReader

    began = time.monotonic()
    workspace = state_of(context).open_workspace(create=True)
    saes = tuple(str(one.id) for one in list_saes())
    figures = caching.run(workspace, CacheConfig(model=PICO, saes=saes, n_tokens=n_tokens, name="demo"))
    seconds = time.monotonic() - began
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
    best = _most_interesting(CacheReader(workspace, cache_id))
    print_text()
    show_feature(context, name=best, cache=cache_id, windows=6, around=12, quantile=None, interval=None, as_json=False)
    print_text()
    print_text("Try next:")
    place = state_of(context).workspace_option()
    for command in (
        f"raylens{place} features --sort interesting",
        f"raylens{place} feature {best} --quantile 3/10",
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


def _most_interesting(reader: Any) -> str:
    from raylens.ids import SaeId
    from raylens_app.cli.interest import most_interesting

    sae = next(one for one in reader.saes if SaeId.parse(str(one)).name == _SAE_SHOWN)
    statistics = reader.table("feature_stats", sae)
    (best, _), *_ = most_interesting(reader, sae, statistics, 1)
    return f"{sae}/{best}"
