"""``raylens steer``: a text with features of its model turned up, down or out, beside the text without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from raylens.errors import InputError
from raylens_app.cli.output import Column, note, print_json, print_table, print_text
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.api.edits import PatchSpec

MethodName = Literal["add", "clamp", "ablate", "project_out"]
UnitName = Literal["max", "activation"]
WhereName = Literal["all", "prompt", "generated", "firing"]

Strength = Annotated[float, typer.Option(help="Of add and clamp; below 0 turns it down.")]
Method = Annotated[
    MethodName,
    typer.Option(help="add, clamp to the strength, ablate (clamp to 0), or project_out its direction."),
]
Unit = Annotated[UnitName, typer.Option(help="Of the strength: the feature's maximum, or its activation.")]
Where = Annotated[WhereName, typer.Option(help="Tokens: all, of the prompt, generated, or where it is firing.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("steer", rich_help_panel="Workbench")(steer)


def steer(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What the model reads, and writes on.")],
    feature: Annotated[
        list[str] | None, typer.Option("--feature", "-f", help="f_<layer>_<index>, or <sae>/<index>; again for more.")
    ] = None,
    strength: Strength = 1.0,
    method: Method = "add",
    unit: Unit = "max",
    where: Where = "all",
    patch: Annotated[
        Path | None, typer.Option(help="Edits of a .json file instead: one that was exported at the workbench.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Bundle, folder or hub id.")] = "raylens/pico",
    adapter: Annotated[str | None, typer.Option(help="A LoRA folder on it.")] = None,
    sae: Annotated[
        list[str] | None, typer.Option("--sae", "-s", help="Whose features; by default the catalogue's first.")
    ] = None,
    override_guard: Annotated[bool, typer.Option("--override-guard", help="Allow SAEs of another model.")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=0, help="Written by each.")] = 40,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Likely next tokens of each.")] = 10,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Turn features of a model up, down or out, and see what it says then.

    What the SAE does not reconstruct stays as it is. Several features are edited in their order. Example:

    raylens steer "def area(radius):" -f f_3_17 --strength 4
    """
    from raylens.config import SteerConfig

    spec = _spec(feature or [], sae or [], strength, method, unit, where, patch)
    config = SteerConfig.of(
        {
            "model": model,
            "adapter": adapter,
            "saes": tuple(sae or ()),
            "override_guard": override_guard,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "top_k": top_k,
            "dtype": dtype,
            "device": device,
        }
    )
    from raylens.catalog import Catalog
    from raylens.catalog.user import find_user_file
    from raylens_jobs.steer import run_steer

    found = run_steer(config, spec, prompt, Catalog.load(find_user_file(None, state_of(context).workspace)), say=note)
    if as_json:
        print_json(found)
        return
    print_table(
        [{**one, "token": repr(one["token"])} for one in found["next"]],
        [
            Column("token", title="next token"),
            Column("baseline", align="right", show="{:.4f}".format),
            Column("patched", align="right", show="{:.4f}".format),
            Column("change", align="right", show="{:+.4f}".format),
        ],
        title=f"{found['model']}: {'; '.join(found['edits'])} · KL {found['kl']:.4f} nats",
    )
    for which in ("baseline", "patched"):
        if which in found:
            for line in ("", f"--- {which}", *f"{prompt}{found[which]}".splitlines()):
                print_text(line)


def _spec(
    features: list[str],
    saes: list[str],
    strength: float,
    method: str,
    unit: str,
    where: str,
    patch: Path | None,
) -> PatchSpec:
    from raylens.api.edits import PatchSpec

    if bool(features) == (patch is not None):
        raise InputError(
            "name features, or a file of edits.", hint='raylens steer "text" --feature f_3_17 --strength 2'
        )
    try:
        if patch is not None:
            return PatchSpec.model_validate_json(patch.read_bytes())
        told: dict[str, Any] = {"strength": strength, "method": method, "unit": unit, "where": where}
        edits = [{"feature": one, **told} for one in features]
        return PatchSpec.model_validate({"sae": saes[0] if len(saes) == 1 else None, "edits": edits})
    except OSError as error:
        raise InputError(f"{patch} cannot be read: {error.strerror}.", hint="name a file.") from error
    except ValidationError as error:
        first = error.errors()[0]
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"the edit makes no sense: {said}.", hint="see raylens steer --help.") from error
