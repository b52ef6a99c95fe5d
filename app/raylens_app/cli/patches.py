"""``raylens patch``: edits of a model as adapters that plain peft loads, with how far these are from the edits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError, UnknownNameError, WorkspaceError
from raylens.home import from_home
from raylens_app.cli import live_patches, patch_suggest
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, progress
from raylens_app.cli.state import State, state_of

if TYPE_CHECKING:
    from raylens.api.edits import FeatureMax
    from raylens.workbench.patch_import import ImportedPatch
    from raylens.workbench.patch_record import Measured, PatchRecord
    from raylens_jobs.patches import PatchedSubject

group = typer.Typer(no_args_is_help=True, help="Patches of a model: live at the services, and as LoRA adapters.")

_FOUR: Final = "{:.4f}".format
_ID: Final = re.compile(r"[0-9a-f]{12}")

Model = Annotated[str, typer.Option("--model", "-m", help="Bundle, folder or hub id.")]
Adapter = Annotated[
    str | None, typer.Option("--adapter-of", "--adapter", help="A fine-tune of the model, a LoRA, that is patched.")
]
Saes = Annotated[list[str] | None, typer.Option("--sae", "-s", help="Whose features; by default what the edits name.")]
OverrideGuard = Annotated[bool, typer.Option("--override-guard", help="Allow SAEs of another model.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
DType = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the ``patch`` group."""
    live_patches.register(group)
    patch_suggest.register(group)
    app.add_typer(group, name="patch", rich_help_panel="Workbench")


@group.command("export")
def export(
    context: typer.Context,
    patch: Annotated[str, typer.Argument(help="Edits in a .yaml or .json, an exported folder, or a live patch's id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or that of an earlier export.")],
    model: Model = "raylens/pico",
    adapter: Adapter = None,
    patch_only: Annotated[
        bool, typer.Option("--patch-only", help="Leave the fine-tune's own LoRA out: both are then loaded together.")
    ] = False,
    sae: Saes = None,
    override_guard: OverrideGuard = False,
    text: Annotated[
        str | None, typer.Option("--text", help="What divergence is measured on. Default: stdlib:held_out.")
    ] = None,
    fit_text: Annotated[
        str | None, typer.Option(help="What biases are fitted to: other text. Default: stdlib:train.")
    ] = None,
    n_tokens: Annotated[int, typer.Option(min=64, help="Of either.")] = 8192,
    ctx_len: Annotated[int, typer.Option(min=4, help="Tokens a window.")] = 128,
    form: Annotated[str | None, typer.Option(help="Write this form, and not the best.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also edits of some tokens only, as edits of all.")
    ] = False,
    revision: Revision = None,
    dtype: DType = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a patch as a LoRA adapter in peft's format, with its measured divergence from the patch.

    A vector that is added on every token, and a direction that is projected out of what one sublayer gives, have
    weights that do exactly that. Of all else several forms are tried and measured; see docs/patches.md.
    """
    from raylens.catalog import Catalog
    from raylens.catalog.user import find_user_file
    from raylens.workbench.patch_export import ExportSettings
    from raylens.workbench.patch_text import FITTED_TO, MEASURED_ON
    from raylens_jobs.patches import run_export

    state = state_of(context)
    found = _kept(state, patch) or _read(patch)
    with progress("exporting", None) as bar:
        settings = ExportSettings(
            text=text or MEASURED_ON,
            fit_text=fit_text or FITTED_TO,
            n_tokens=n_tokens,
            ctx_len=ctx_len,
            approximate=approximate,
            form=form,
            report=lambda what, done, total: bar(done, total, what),
        )
        if settings.text == settings.fit_text:
            raise InputError(
                f"{settings.text} is fitted to and measured on, so that forms would look better than they are.",
                hint="name other text for one of them: --text, --fit-text.",
            )
        record = run_export(
            _subject(model, adapter, sae, override_guard, revision, dtype, device, patch_only=patch_only),
            found.spec,
            out,
            settings,
            Catalog.load(find_user_file(None, state.workspace)),
            _maxima(state, found),
            note,
        )
    if as_json:
        print_json(record.model_dump(mode="json") | {"out": str(out)})
        return
    _print(record, out)


@group.command("import")
def import_(
    context: typer.Context,
    patch: Annotated[str, typer.Argument(help="Edits in a .yaml or .json, or an exported folder.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Whether it fits this one.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="Have this session of the running services take it, at once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a patch that somebody else made, say what it is, and use it live where a session is named.

    Pickles are never opened; what is too large, damaged, or for another model is refused.
    """
    found = _read(patch)
    if model is not None:
        _require_fits(found, model, state_of(context).workspace)
    taken = live_patches.take(context, session, found.spec, model) if session is not None else None
    if as_json:
        record = None if found.record is None else found.record.model_dump(mode="json")
        told = {"spec": found.spec.model_dump(mode="json"), "record": record}
        print_json(told | ({"id": taken.id, "session": taken.session} if taken is not None else {}))
        return
    spec = found.spec
    if taken is not None:
        print_text(taken.id)
    print_text(f"{spec.name or patch}: {_several(len(spec.edits), 'edit', 'edits')} of {spec.model or 'a model'}")
    for edit in spec.edits:
        print_text(f"  {edit}")
    if found.record is not None:
        _print(found.record, Path(patch))


@group.command("verify")
def verify(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An exported patch.")],
    model: Model = "raylens/pico",
    adapter: Adapter = None,
    sae: Saes = None,
    override_guard: OverrideGuard = False,
    revision: Revision = None,
    dtype: DType = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Load an exported patch by plain peft and measure it again; exit code 1 where it is worse than it says."""
    from raylens.catalog import Catalog
    from raylens.catalog.user import find_user_file
    from raylens_jobs.patches import run_verify

    found = _read(str(folder))
    if adapter is None and found.record is not None and found.record.adapter is not None:
        adapter = found.record.adapter.name
    asked = _subject(model, adapter, sae, override_guard, revision, dtype, device)
    catalog = Catalog.load(find_user_file(None, state_of(context).workspace))
    with progress("measuring", None, unit="predictions") as bar:
        record, verified = run_verify(asked, folder, found, catalog, note, bar)
    if as_json:
        measured = verified.measured.model_dump(mode="json")
        print_json({"holds": not verified.worse, "worse": verified.worse, "measured": measured})
    else:
        print_text(f"{folder}: {verified.worse or 'as good as it says'}")
        figures, stated = verified.figures, record.figures
        print_text(
            f"KL {figures.kl.value:.3g} nats (stated {stated.kl.value:.3g}), misses {figures.missed:.1%} of the effect "
            f"(stated {stated.missed:.1%})"
        )
    if verified.worse:
        raise typer.Exit(1)


def _read(patch: str) -> ImportedPatch:
    from raylens.workbench.patch_import import import_patch

    return import_patch(from_home(patch))


def _kept(state: State, patch: str) -> ImportedPatch | None:
    """A live patch of the workspace, strengths as activations; None where that is no id of one."""
    from raylens.store.patches import Patches
    from raylens.workbench.patch_import import ImportedPatch

    if not _ID.fullmatch(patch) or Path(patch).exists():
        return None
    for session in Patches(state.open_workspace()).sessions().values():
        if patch in session.patches:
            return ImportedPatch(session.patches[patch].absolute())
    raise UnknownNameError(
        f"no session of this workspace has a patch {patch}.", hint="raylens patch list shows those of a session."
    )


def _require_fits(found: ImportedPatch, model: str, workspace: str) -> None:
    from raylens.catalog import Catalog
    from raylens.catalog.user import find_user_file
    from raylens.engine.load import describe_model
    from raylens.workbench.patch_adapter import require_shape
    from raylens.workbench.patch_import import require_fits

    info = describe_model(model)
    require_fits(found.spec, info, Catalog.load(find_user_file(None, workspace)).aliases)
    if found.record is not None:
        require_shape(found.record, info)


def _maxima(state: State, found: ImportedPatch) -> dict[str, FeatureMax]:
    """Those that an exported patch was made with, else those of the workspace's caches."""
    from raylens_jobs.patches import cached_maxima

    if found.record is not None:
        return dict(found.record.maxima)
    try:
        return cached_maxima(state.open_workspace(), found.spec)
    except WorkspaceError:  # there is none
        return {}


def _subject(
    model: str,
    adapter: str | None,
    sae: list[str] | None,
    override_guard: bool,
    revision: str | None,
    dtype: str,
    device: str,
    *,
    patch_only: bool = False,
) -> PatchedSubject:
    from raylens_jobs.patches import PatchedSubject

    if patch_only and adapter is None:
        raise InputError("--patch-only is of a fine-tune.", hint="name it with --adapter-of, or leave that out.")
    return PatchedSubject(
        model=model,
        adapter=adapter,
        patch_only=patch_only,
        saes=tuple(sae or ()),
        override_guard=override_guard,
        revision=revision,
        dtype=dtype,
        device=device,
    )


def _print(record: PatchRecord, folder: Path) -> None:
    figures, measured = record.figures, record.measured
    how = "it does what the edits do" if record.exact else f"no weights do the same: {record.why_not}"
    parts = [f"rank {figures.rank}"] if figures.rank else []
    what = " and ".join(parts + (["a bias"] if figures.biased else []))
    print_text(f"{folder}: form {record.form}, {what} on {_several(figures.modules, 'matrix', 'matrices')}; {how}")
    print_table(
        _rows(measured, record.form),
        [
            Column("form", style="bold"),
            Column("kl", "KL (nats)", align="right"),
            Column("p95", "95 %", align="right"),
            Column("agree", "same token", align="right"),
            Column("missed", "effect missed", align="right"),
            Column("loss", align="right"),
        ],
        title=f"from the hooks, on {measured.n_predictions:,} predictions of {measured.n_documents:,} documents of "
        f"{measured.text}; loss untouched {measured.untouched_loss.value:.4f}, hooks {measured.hook_loss.value:.4f}",
    )
    for target, reached in zip(measured.targets, figures.targets, strict=True):
        print_text(
            f"{target.name} ({target.reads}, root mean square): untouched {target.untouched.rms:.4g}, hooks "
            f"{target.hooked.rms:.4g}, adapter {reached.rms:.4g}"
        )
    with_adapter = record.adapter
    if with_adapter is not None and not with_adapter.included:
        note(f"load it beside {with_adapter.name}, both active: it is the patch alone.")
    if not record.exact and figures.missed > 0.5:
        note(f"it misses {figures.missed:.0%} of the effect; name text that the edit is about with --text and see.")


def _several(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"


def _rows(measured: Measured, chosen: str) -> list[dict[str, Any]]:
    return [
        {
            "form": f"{form.name} ←" if form.name == chosen else form.name,
            "kl": f"{form.kl.value:.2g}" if form.kl.value < 1e-4 else _FOUR(form.kl.value),
            "p95": _FOUR(form.kl_p95),
            "agree": f"{form.agreement.value:.1%}",
            "missed": f"{form.missed:.1%}",
            "loss": _FOUR(form.loss.value),
        }
        for form in measured.forms
    ]
