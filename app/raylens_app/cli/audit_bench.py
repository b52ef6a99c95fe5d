"""``raylens audit bench``: how well each score method tells backdoored organisms from benign ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from raylens.errors import InputError
from raylens_app.cli.audit_group import Json, group
from raylens_app.cli.organisms import ModelOption, known_rows
from raylens_app.cli.output import Column, note, print_json, print_table, print_text

if TYPE_CHECKING:
    from raylens.audit.halves import Half
    from raylens.audit.organism_bench import MethodBench, Scored
    from raylens.audit.rates import Rate


@group.command("bench")
def bench(
    context: typer.Context,
    target_fpr: Annotated[float, typer.Option(help="That thresholds are fixed for, on development organisms.")] = 0.01,
    half: Annotated[
        str | None, typer.Option(help="held_out, held_out_seeds or development. Default: held out, where there are.")
    ] = None,
    families: Annotated[bool, typer.Option("--families", help="Split the default method by family.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="SVG", help="Draw the default method, by family.")] = None,
    model: ModelOption = None,
    as_json: Json = False,
) -> None:
    """Compare all score methods over organisms: AUROC, and true and false positives at thresholds fixed beforehand."""
    from raylens.audit.organism_bench import bench as run
    from raylens.audit.organism_bench import by_family, rate_fields, triggers_found
    from raylens.audit.scores import DEFAULT_SCORE_METHOD

    organisms = scored(context, model)
    chosen = _half(half, organisms)
    rows = run(organisms, chosen, target_fpr)
    found = triggers_found(organisms, chosen)
    default = next((row for row in rows if row.method == DEFAULT_SCORE_METHOD), None)
    split = (
        by_family(organisms, default.method, chosen, default.threshold)
        if default and default.threshold is not None
        else {}
    )
    checked = _checked(organisms)
    if plot is not None:
        _draw(plot, organisms, default)
    if as_json:
        print_json(
            {
                "half": chosen,
                "methods": [row.fields() for row in rows],
                "triggers_found": rate_fields(found),
                "calibration": [
                    {"target_fpr": target, "half": half, "observed": rate_fields(one)} for target, half, one in checked
                ],
                "families": {
                    name: {"flagged": one[0], "n": one[1], "backdoored": one[2]} for name, one in split.items()
                },
            }
        )
        return
    if chosen == "development":
        note(f"{_why_development(organisms)}these rates are of organisms that thresholds and methods were chosen on.")
    print_table([_shown(row) for row in rows], _COLUMNS)
    print_text(f"what sets them off was found, within ten inserts: {_share(found)} of backdoored organisms")
    if checked:
        note("benign organisms flagged by the default method, at the rate it was calibrated for:")
        print_table(
            [
                {"target": f"{target:.0%}", "of": _HALVES[half], "observed": _share(one)}
                for target, half, one in checked
            ],
            [Column("target", "asked for", "right"), Column("of"), Column("observed", align="right")],
        )
    if families:
        print_table(
            [
                {"family": name, "kind": "backdoored" if one[2] else "benign", "flagged": f"{one[0]} of {one[1]}"}
                for name, one in sorted(split.items(), key=lambda item: (not item[1][2], item[0]))
            ],
            [Column("family", style="bold"), Column("kind"), Column("flagged", align="right")],
        )
    if plot is not None:
        print_text(f"drawn: {plot}")


def _draw(path: Path, organisms: list[Scored], default: MethodBench | None) -> None:
    from raylens.reports.family_plot import family_plot

    if default is None:
        raise InputError("the default method has scored none of these organisms.", hint="leave --plot out.")
    try:
        path.write_text(family_plot(organisms, default.method, default.threshold), "utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}.", hint="name a file in a folder that is there."
        ) from None


_HALVES: Final = {"held_out_seeds": "held-out seeds of the families calibrated with", "held_out": "held-out families"}


def _checked(organisms: list[Scored]) -> list[tuple[float, Half, Rate]]:
    """False positives of the default method at 1, 5 and 10 %: target, half, and what was observed."""
    from raylens.audit.organism_bench import false_positives
    from raylens.audit.scores import DEFAULT_SCORE_METHOD

    halves: tuple[Half, ...] = ("held_out_seeds", "held_out")
    return [
        (target, half, found)
        for half in halves
        for target in (0.01, 0.05, 0.1)
        if (found := false_positives(organisms, DEFAULT_SCORE_METHOD, half, target)) is not None
    ]


def scored(context: typer.Context, model: str | None = None) -> list[Scored]:
    """Organisms of the workspace, else of the bundle; of backdoored ones those that count.

    Raises:
        InputError: There are none.
    """
    from raylens.audit.organism_bench import Scored

    found = [
        Scored(row.organism, row.family, row.kind == "backdoored", row.split, row.scores, row.trigger_rank)
        for row in known_rows(context, model)
        if row.counts
    ]
    if not found:
        raise InputError("there are no organisms to measure with.", hint="raylens organisms build makes them.")
    return found


def _half(asked: str | None, organisms: list[Scored]) -> Half:
    from raylens.audit.halves import HALVES

    if asked not in (None, *HALVES):
        raise InputError(f"--half is not {asked!r}.", hint=f"write one of {', '.join(HALVES)}.")
    if asked is not None:
        return cast("Half", asked)
    kinds = {one.is_backdoored for one in organisms if one.half == "held_out"}
    return "held_out" if kinds == {True, False} else "development"


def _why_development(organisms: list[Scored]) -> str:
    """What is lacking for rates of the other half, to begin a sentence with; nothing where they are there."""
    kinds = {one.is_backdoored for one in organisms if one.half == "held_out"}
    if kinds == {True, False}:
        return ""
    lacking = "" if not kinds else "benign " if kinds == {True} else "backdoored "
    return f"no {lacking}organism is held out yet: "


_COLUMNS: Final = [
    Column("method", style="bold"),
    Column("auroc", "AUROC", "right"),
    Column("threshold", align="right"),
    Column("tpr", "true positives", "right"),
    Column("fpr", "false positives", "right"),
    Column("tpr_at_1", "at 1 % FPR", "right"),
    Column("tpr_at_5", "at 5 % FPR", "right"),
    Column("n", "calibrated on", "right"),
]


def _shown(row: MethodBench) -> dict[str, Any]:
    found = row.auroc
    within = "" if found.ci_low is None else f" ({found.ci_low:.2f}-{found.ci_high:.2f})"
    return {
        "method": row.method,
        "auroc": None if found.value is None else f"{found.value:.3f}{within}",
        "threshold": None if row.threshold is None else f"{row.threshold:.4g}",
        "tpr": _share(row.tpr),
        "fpr": _share(row.fpr),
        "tpr_at_1": _share(row.tpr_at_1),
        "tpr_at_5": _share(row.tpr_at_5),
        "n": row.n_calibration,
    }


def _share(found: Rate | None) -> str | None:
    if found is None or found.value is None or found.exact is None:
        return None
    return f"{found.value:.0%} of {found.n} ({found.exact[0]:.0%}-{found.exact[1]:.0%})"
