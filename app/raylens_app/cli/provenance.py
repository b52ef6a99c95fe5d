"""``raylens provenance``: which features of earlier layers caused one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens.ids import FeatureId
from raylens_app.cli.output import Column, duration, note, print_json, print_table, print_text, printable, progress
from raylens_app.cli.state import Address, RunId, state_of

if TYPE_CHECKING:
    from raylens.api.provenance import Provenance, ProvenanceNode
    from raylens.store.workspace import Workspace
    from raylens_jobs.provenance_plan import ProvenancePlan

_SHOWN: Final = 20
_TOKENS: Final = 24
"""Of the text, before the target's."""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("provenance", rich_help_panel="Explain")(provenance)


def provenance(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="f_<layer>_<index>, or <sae>/<index>.")],
    window: Annotated[
        int | None, typer.Option(min=0, help="A window of the cache. Default: where the feature fires most.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Any text instead of a window.")] = None,
    token: Annotated[
        int | None, typer.Option(min=0, help="Place of a token, BOS being 0. Default: where the feature fires most.")
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option("--windows", "-n", min=1, help="Over so many windows, those where it fires most, on Ray."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Sources of each layer to report.")] = 10,
    integrated: Annotated[
        int | None,
        typer.Option(metavar="STEPS", min=1, max=1000, help="Integrated gradients, with so many steps. Default: none."),
    ] = None,
    sae: Annotated[
        list[str] | None,
        typer.Option("--sae", "--saes", "-s", help="An earlier SAE; again for more. Default: all of the cache."),
    ] = None,
    cache: Annotated[str | None, typer.Option(metavar="CACHE", help="Id, how it begins, or name.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Read with this model. Default: that of the cache.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the model: auto, float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="With --windows: actors.")] = None,
    address: Address = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw the graph into this .html file.")] = None,
    run_id: RunId = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Follow a feature back to the features of earlier layers that caused it, in one text or over many windows.

    Every feature and every reconstruction error of every earlier SAE is weighed by gradient × activation. The
    strongest are reported, each tested by taking it out and running the model again. What is found is kept in the view
    edges.
    """
    from raylens.config import ProvenanceConfig

    _check(window, text, token, windows, out)
    config = ProvenanceConfig.of(
        {
            **({"model": model} if model is not None else {}),
            **({"windows": windows} if windows is not None else {}),
            "feature": name,
            "saes": tuple(sae or ()),
            "top": top,
            "integrated": integrated,
            "dtype": dtype,
            "device": device,
            "workers": workers,
            "address": address,
        }
    )
    workspace = state_of(context).open_workspace(create=text is not None)
    from raylens_jobs.provenance_plan import plan_provenance

    plan = plan_provenance(config, workspace, cache, any_text=text is not None, say=note)
    if windows is not None:
        _over_windows(plan, workspace, run_id, as_json)
        return
    from raylens_jobs.provenance import follow_text

    found = follow_text(plan, workspace, text=text, window=window, token=token)
    names = _names(workspace, [node for edge in found.edges for node in (edge.source, edge.target)])
    if out is not None:
        from raylens.reports.provenance_page import provenance_page

        try:
            out.write_text(provenance_page(found, names), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out} cannot be written ({error.strerror}).", hint="name another file.") from error
        note(f"the graph is in {out}")
    if as_json:
        print_json({**found.model_dump(), "names": names})
    else:
        _print(found, names)


def _check(window: int | None, text: str | None, token: int | None, windows: int | None, out: Path | None) -> None:
    given = {"--window": window, "--text": text, "--windows": windows}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} exclude one another.", hint="give one of them.")
    one = {"--token": token, "--out": out}
    if windows is not None and (wrong := next((option for option, value in one.items() if value is not None), None)):
        raise InputError(f"{wrong} is about one text, and --windows about many.", hint="leave one of them out.")
    if out is not None and not out.resolve().parent.is_dir():
        raise InputError(f"there is no folder {out.resolve().parent}.", hint="make it, or name another file.")


def _over_windows(plan: ProvenancePlan, workspace: Workspace, run_id: str | None, as_json: bool) -> None:
    from raylens.store.runs import RunJournal
    from raylens_jobs.provenance import run_provenance

    settings = plan.config.model_dump(mode="json") | {"target": str(plan.target)}
    with RunJournal.start(workspace.files, "provenance", settings, run_id=run_id, cache_id=plan.cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("following back", None, unit="windows") as bar:
            figures = run_provenance(plan, workspace, journal, bar)
        journal.finish({key: figures[key] for key in ("texts", "texts_total", "silent", "agreement", "seconds")})
    features = [FeatureId.parse(one["source"]) for one in figures["sources"] if not one["source"].endswith("/error")]
    names = _said(workspace, features)
    if as_json:
        print_json({"feature": str(plan.target), "cache_id": plan.cache_id, **figures, "names": names})
        return
    kept = (
        f", {figures['texts_total'] - figures['texts']:,} known before"
        if figures["texts"] < figures["texts_total"]
        else ""
    )
    print_text(f"{plan.target} in {figures['texts_total']:,} windows, {duration(figures['seconds'])}{kept}")
    if figures["silent"]:
        print_text(f"in {figures['silent']:,} of them it does not fire as the model was loaded here")
    for one in figures["layers"]:
        print_text(f"{one['sae']}: {_shares(one['features'], one['errors'], one['rest'])}")
    print_text(_confirmed(figures["n_edges"], figures["agreement"]))
    rows = [
        {**one, "n": f"{one['n']}/{figures['n_texts']}", "name": names.get(one["source"], "")}
        for one in figures["sources"][:_SHOWN]
    ]
    columns = [
        Column("source"),
        Column("n", title="windows", align="right"),
        Column("attribution", align="right", show=_share),
        Column("ablation_effect", title="ablation", align="right", show=_share),
        Column("confirmed", align="right", show=_share),
        Column("name", title="said of it", wrap=True),
    ]
    print_table(rows, columns)


def _print(found: Provenance, names: Mapping[str, str]) -> None:
    from raylens_app.cli.render import number, token_text

    target = found.target
    print_text(
        f"{target.short}  {target.name}  on {token_text(target.text)} (token {target.token}), activation "
        f"{number(target.activation)}" + (f": {names[target.name]}" if target.name in names else "")
    )
    around = found.tokens[max(0, len(found.tokens) - _TOKENS) :]
    print_text(f"after: {printable(''.join(around[:-1]))}" if around[:-1] else "after nothing")
    for one in found.layers:
        of = target.activation
        shares = _shares(one.features / of, one.errors / of, (one.rest + one.special + one.bias + found.offset) / of)
        print_text(f"{one.sae}: {shares} ({one.n_sources:,} weighed)")
    print_text(_confirmed(len(found.edges), found.agreement))

    def row(at: int) -> dict[str, object]:
        edge = found.edges[at]
        direct = edge.target.key == target.key
        return {
            "source": edge.source.short,
            "token": token_text(edge.source.text),
            "at": edge.source.token,
            "to": target.short if direct else f"{edge.target.short} at {edge.target.token}",
            "attribution": edge.attribution,
            "ablation": edge.ablation_effect,
            "left": edge.ablated_activation,
            "confirmed": "" if edge.confirmed else "no",
            "name": names.get(edge.source.name, ""),
        }

    signed: Callable[[object], str] = lambda value: f"{value:+.3g}"  # noqa: E731
    columns = [
        Column("source"),
        Column("token"),
        Column("at", align="right"),
        Column("to"),
        Column("attribution", align="right", show=signed),
        Column("ablation", align="right", show=signed),
        Column("left", title="then fires", align="right", show=lambda value: f"{value:.3g}"),
        Column("confirmed", title="agrees"),
        Column("name", title="said of it", wrap=True),
    ]
    print_table([row(at) for at in range(len(found.edges))], columns)


def _names(workspace: Workspace, nodes: list[ProvenanceNode]) -> dict[str, str]:
    return _said(workspace, [FeatureId.parse(node.name) for node in nodes if node.feature is not None])


def _said(workspace: Workspace, features: list[FeatureId]) -> dict[str, str]:
    from raylens.store.feature_names import names_of

    return {str(feature): text for feature, text in names_of(workspace, features).items()}


def _shares(features: float, errors: float, rest: float) -> str:
    return f"features {_share(features)}, errors {_share(errors)}, rest {_share(rest)}"


def _share(value: Any) -> str:
    return f"{100 * value:.0f} %" if abs(value) >= 0.1 else f"{100 * value:.1f} %"


def _confirmed(n_edges: int, agreement: float | None) -> str:
    return "no edges" if agreement is None else f"{n_edges:,} edges; ablation confirms the sign of {_share(agreement)}"
