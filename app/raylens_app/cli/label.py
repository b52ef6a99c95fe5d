"""``raylens label`` and ``raylens labels``: what people say of features, in their own words."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens.ids import FeatureId, SaeId
from raylens_app.cli.output import Column, note, print_json, print_table, print_text
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.store.labels import Words
    from raylens.store.workspace import Workspace

STAR: Final = "★"
_PANEL: Final = "Explain"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("label", rich_help_panel=_PANEL)(label)


def label(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FEATURE", help="f_<layer>_<index>, or <sae>/<index>.")],
    text: Annotated[str | None, typer.Argument(metavar="LABEL", help="Your label; it replaces the one before.")] = None,
    star: Annotated[bool | None, typer.Option("--star/--unstar", help="Set your star, or take it away.")] = None,
    remark: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Add a note.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take your label away; stars and notes stay.")] = False,
    remove_note: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Take a note of yours away; again for more.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(envvar="RAYLENS_AUTHOR", help="Who says so. Default: your user name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what a feature means in your own words, star it, or note something; without any of these, show what is said.

    Words belong to a feature of an SAE, in whatever cache it is looked at, and each person has their own.
    raylens feature shows them beside explanations, SQL in the views labels, notes and explanations.
    """
    from raylens.store.feature_card import words_of
    from raylens.store.labels import Labels
    from raylens.store.selection import feature_of_any_cache, readables

    if remove and text is not None:
        raise InputError("a label is given and taken away.", hint="give the new label alone: it replaces the old one.")
    workspace = state_of(context).open_workspace()
    one, index = feature_of_any_cache(readables(workspace), name)
    feature = FeatureId(one.sae, index)
    store = Labels(workspace)
    if text is not None or star is not None or remark is not None or remove or remove_note:
        store.say(
            feature,
            author or _user_name(),
            label=text,
            star=star,
            note=remark,
            unlabel=remove,
            unnote=remove_note or (),
        )
    said = words_of(store.read(), one.sae, index)
    if as_json:
        print_json({"id": one.short(index), "feature_id": str(feature), "sae": str(one.sae), "feature": index, **said})
        return
    shown = [*map(label_line, said["labels"]), *(f"{note_line(one)}  [note {one['note_id']}]" for one in said["notes"])]
    print_text(f"{one.short(index)}  {feature}")
    for line in shown:
        print_text(f"  {line}")
    if not shown:
        note('nobody has said anything of it; raylens label FEATURE "…" does.')


def labels(
    context: typer.Context,
    sae: Annotated[str | None, typer.Option("--sae", "-s", metavar="SAE", help="Only this SAE, by its id.")] = None,
    author: Annotated[str | None, typer.Option(help="Only what this person says.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only features that somebody starred.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """List what people say of features: labels, stars and notes, of all SAEs of the workspace."""
    from raylens.store.labels import Labels

    workspace = state_of(context).open_workspace()
    found = [
        one
        for one in _all(Labels(workspace).read())
        if (sae is None or one["sae"] == sae or one["sae"].endswith(f"/{sae}"))
        and (not starred or any(label["starred"] for label in one["labels"]))
    ]
    if author is not None:
        for one in found:
            for what in ("labels", "notes"):
                one[what] = [each for each in one[what] if each["author"] == author]
        found = [one for one in found if one["labels"] or one["notes"]]
    shorts = _shorts(workspace)
    rows = [{"id": shorts.get(str(one["sae"]), f"{one['sae']}/{{}}").format(one["feature"]), **one} for one in found]
    if as_json:
        print_json(rows)
        return
    if not rows:
        asked_for = sae is not None or author is not None or starred
        what = "nothing that was said is of this SAE, author or star" if asked_for else "nobody has said anything yet"
        note(f'{what}; raylens label FEATURE "…" says something.')
        return
    lines: list[dict[str, object]] = []
    for row in rows:
        said = [(each, label_line(each, who=False), each["updated_at"]) for each in row["labels"]]
        said += [(each, note_line(each, who=False), each["created_at"]) for each in row["notes"]]
        lines += [
            {"id": row["id"], "text": line, "author": each["author"], "at": f"{at:%Y-%m-%d %H:%M}", "sae": row["sae"]}
            for each, line, at in said
        ]
    columns = [
        Column("id", "feature", style="bold"),
        Column("text", "says", wrap=True),
        Column("author", "who"),
        Column("at", "when (UTC)"),
        Column("sae"),
    ]
    print_table(lines, columns)


def label_line(said: Mapping[str, Any], *, who: bool = True) -> str:
    """One person's label and star in a line."""
    parts = [STAR if said["starred"] else "", said["label"] or "", f"[human, {said['author']}]" if who else ""]
    return " ".join(filter(None, parts))


def note_line(said: Mapping[str, Any], *, who: bool = True) -> str:
    """A note in a line."""
    return f"note: {said['note']}" + (f" [{said['author']}, {said['created_at']:%Y-%m-%d}]" if who else "")


def _all(words: Words) -> list[dict[str, Any]]:
    from raylens.store.feature_card import words_of

    about = {(one.sae, one.feature) for one in (*words.labels.values(), *words.notes.values())}
    return [{"sae": sae, "feature": index, **words_of(words, SaeId.parse(sae), index)} for sae, index in sorted(about)]


def _shorts(workspace: Workspace) -> dict[str, str]:
    """How features of each SAE that can be read are shown, with a place for the index; none where nothing can."""
    from raylens.store.selection import readables

    try:
        known: Iterable[Any] = readables(workspace)
    except InputError:  # labels outlive caches
        return {}
    return {str(one.sae): f"f_{one.layer}_{{}}" for one in known if one.layer is not None}


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a user id without a name, as containers have
        raise InputError("it is not known who you are.", hint="say so with --author or RAYLENS_AUTHOR.") from error
