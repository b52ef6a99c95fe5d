"""``raylens patch create|list|toggle|delete``: patches of a session of the running services, at once and live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from raylens_app.cli.output import note, print_json, print_table, print_text
from raylens_app.cli.services import client_of
from raylens_app.cli.state import state_of
from raylens_app.cli.steer import Method, Strength, Unit, Where

if TYPE_CHECKING:
    from raylens.api.edits import Patch, PatchSpec
    from raylens.client.workbench import Workbench

DEFAULT = "cli"

Session = Annotated[
    str, typer.Option("--session", envvar="RAYLENS_SESSION", help="Whose patches: no other session has them.")
]
PatchId = Annotated[str, typer.Argument(metavar="PATCH", help="Its id.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(group: typer.Typer) -> None:
    """Add the commands of this file to ``raylens patch``."""
    group.command("create")(create)
    group.command("list")(list_)
    group.command("toggle")(toggle)
    group.command("delete")(delete)


def create(
    context: typer.Context,
    feature: Annotated[str, typer.Argument(metavar="FEATURE", help="f_<layer>_<index>, or <sae>/<index>.")],
    strength: Strength = 1.0,
    method: Method = "add",
    unit: Unit = "max",
    where: Where = "all",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Work on this model from now on. Default: the session's.")
    ] = None,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Whose feature.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Keep it, but do not turn it on yet.")] = False,
    session: Session = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a patch of one feature at the running services; it holds for this session, at once."""
    with _bench(context, session) as bench:
        if model is not None or not _is_open(bench):
            bench.load_model(model)
        edit = {"feature": feature, "strength": strength, "method": method, "unit": unit, "where": where}
        made = bench.patch(name=name, sae=sae, enabled=not off, **edit)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_text(made.id)
    for known in made.maxima.values():
        note(f"its largest activation is {known.value:.4g}, of {known.source}")


def list_(context: typer.Context, session: Session = DEFAULT, as_json: Json = False) -> None:
    """List the session's patches, in the order they apply."""
    with _bench(context, session) as bench:
        found = bench.patches() if _is_open(bench) else []
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    if not found:
        note(f"session {session} has no patches; raylens patch create FEATURE --strength -2 makes one")
        return
    print_table([_row(one) for one in found], ["patch", "state", "edits", "model", "name"])


def toggle(
    context: typer.Context,
    patch: PatchId,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Which. Default: the other way round.")] = None,
    session: Session = DEFAULT,
    as_json: Json = False,
) -> None:
    """Turn a patch on or off, without loading anything again."""
    with _bench(context, session) as bench:
        found = bench.toggle(patch, enabled)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_text(f"{found.id} is {'on' if found.enabled else 'off'}")


def delete(context: typer.Context, patch: PatchId, session: Session = DEFAULT) -> None:
    """Delete a patch of the session."""
    with _bench(context, session) as bench:
        bench.delete(patch)
    note(f"{patch} is deleted")


def take(context: typer.Context, session: str, spec: PatchSpec, model: str | None) -> Patch:
    """Have a session take a patch; one that has no model works on the patch's from now on."""
    with _bench(context, session) as bench:
        if model is not None or not _is_open(bench):
            bench.load_model(model or spec.model)
        return bench.take(spec)


@contextmanager
def _bench(context: typer.Context, session: str) -> Iterator[Workbench]:
    with client_of(state_of(context)) as client:
        yield client.workbench(session)


def _is_open(bench: Workbench) -> bool:
    """Whether the session has a model."""
    from raylens.errors import InputError

    try:
        bench.show()
    except InputError:
        return False
    return True


def _row(patch: Patch) -> dict[str, object]:
    return {
        "patch": patch.id,
        "state": "on" if patch.enabled else "off",
        "edits": "; ".join(map(str, patch.spec.edits)),
        "model": patch.spec.model,
        "name": patch.spec.name,
    }
