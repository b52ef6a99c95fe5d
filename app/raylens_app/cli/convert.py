"""``raylens convert``: pickled weights into safetensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from raylens_app.cli.output import note, print_json, print_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert", rich_help_panel="Train")(convert)


def convert(
    source: Annotated[str, typer.Argument(help="A .pt, .pth or .bin file, a folder with one, or release/id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="What the SAE was trained on.")] = None,
    hook: Annotated[str | None, typer.Option(help="What the SAE reads, e.g. resid_post.19.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="standard, topk or jumprelu. Default: told from the weights.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Active latents a token, of a TopK SAE.")] = None,
    subtract_bias: Annotated[
        bool | None,
        typer.Option("--subtract-bias/--keep-bias", help="Whether b_dec is taken off the input. Default: it is not."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Turn a pickled SAE or model into safetensors, which cannot run code.

    The pickle is opened in a process of its own, for its tensors alone. A release of sae-lens's
    directory is downloaded first; of a file, --model and --hook say what nothing beside it says.
    """
    from raylens.engine.convert import SaeFacts
    from raylens.engine.convert import convert as run

    note(f"reading {source} in a process of its own")
    made = run(source, out, SaeFacts(model, hook, architecture, k, subtract_bias))
    if made.skipped:
        shown = ", ".join(made.skipped[:5]) + (f" and {len(made.skipped) - 5} more" if len(made.skipped) > 5 else "")
        note(f"left out: {shown}")
    if as_json:
        print_json(asdict(made) | {"out": str(made.out), "about": dict(made.about)})
        return
    about = made.about
    if made.kind == "sae":
        print_text(
            f"{made.out}: a {about['architecture']} SAE of {about['d_sae']:,} latents on {about['hook']} "
            f"({about['d_in']} wide) of {about['model'] or 'a model that it does not name'}"
        )
        print_text(f"next: raylens cache --model {about['model'] or 'MODEL'} --sae {made.out}")
    else:
        print_text(f"{made.out}: {about['architecture']}, {about['n_layers']} layers of width {about['d_model']}")
        print_text(f"next: raylens cache --model {made.out} --sae SAE")
