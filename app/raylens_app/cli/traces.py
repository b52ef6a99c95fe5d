"""``raylens traces``: send spans to the services, look at them, and read their features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli.output import Column, note, print_json, print_table, print_text
from raylens_app.cli.services import client_of
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.api.extraction import ExtractAnswer

_LONGEST_BAR: Final = 20
_SHOWN: Final = 400

group = typer.Typer(help="Spans of traces, and the features of their models.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
SpanId = Annotated[str, typer.Argument(metavar="SPAN", help="Id of a span.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, name="traces", rich_help_panel="Services")


@group.command("send")
def send(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help='JSON: {"spans": [{"model", "input", "output"} …]}; - for stdin.'),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Send the traces that ship with RayLens.")] = False,
    as_json: Json = False,
) -> None:
    """Send spans to the services; they are on disk when this returns."""
    if sample == (file is not None):
        raise InputError("name one file, or --sample.", hint="raylens traces send --sample sends what ships.")
    spans = _sample() if file is None else _spans(file)
    with client_of(state_of(context)) as client:
        ids = client.traces.add(spans)
    if as_json:
        print_json({"span_ids": ids})
    else:
        for one in ids:
            print_text(one)
        note(f"{len(ids)} spans are kept")


@group.command("list")
def list_(
    context: typer.Context,
    model: Annotated[str | None, typer.Option("--model", "-m", help="That called this model.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="That hold this text.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List traces, the latest first."""
    with client_of(state_of(context)) as client:
        page = client.traces.list(model=model, text=text, limit=limit, offset=offset)
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    rows = [
        {
            "trace": one.trace_id,
            "name": one.name,
            "started": f"{one.started_at:%Y-%m-%d %H:%M:%S}",
            "spans": one.n_spans,
            "errors": one.n_errors,
            "models": ", ".join(one.models),
        }
        for one in page.traces
    ]
    print_table(
        rows, ["trace", "name", "started", Column("spans", align="right"), Column("errors", align="right"), "models"]
    )
    note(f"{len(rows)} of {page.total} traces")


@group.command("show")
def show(
    context: typer.Context,
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="Id of a trace.")],
    as_json: Json = False,
) -> None:
    """Show the spans of a trace as a tree."""
    from rich.text import Text

    from raylens.traces.span import plain

    with client_of(state_of(context)) as client:
        found = client.traces.trace(trace)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    known = {one.span_id for one in found.spans}
    depth: dict[str, int] = {}
    for span in found.spans:
        depth[span.span_id] = depth.get(span.parent_id or "", -1) + 1 if span.parent_id in known else 0
        indent = "  " * depth[span.span_id]
        print_text(Text(f"{indent}{span.span_id}  {span.kind}  {span.name}  {span.model or '(no model)'}", "bold"))
        for word, said in (("in", span.input), ("out", span.output)):
            if shown := plain(said):
                print_text(Text(f"{indent}  {word}: {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}"))
    if found.next_offset is not None:
        note(f"{len(found.spans)} of {found.total} spans")


@group.command("extract")
def extract(
    context: typer.Context,
    span: SpanId,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=256, help="Features shown.")] = 20,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Default: the first that is served.")] = None,
    override_guard: Annotated[
        bool, typer.Option("--override-guard", help="Also with an SAE that was trained on another model.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Read anew what is kept already.")] = False,
    as_json: Json = False,
) -> None:
    """Which features of its model fire on a span: the largest over what went in and came out."""
    with client_of(state_of(context)) as client:
        found = client.sae.extract(span, top_k, sae=sae, override_guard=override_guard, again=again)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _show_features(found)


@group.command("effects")
def effects(
    context: typer.Context,
    span: SpanId,
    n_tokens: Annotated[int, typer.Option("--n-tokens", min=1, max=512, help="Tokens taken out at most.")] = 64,
    sae: Annotated[str | None, typer.Option("--sae", "-s", help="Show effects on features of it too.")] = None,
    as_json: Json = False,
) -> None:
    """What each token that went in does for what came out: taken out, and replaced."""
    with client_of(state_of(context)) as client:
        found = client.sae.span_effects(span, n_tokens=n_tokens, sae=sae)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    if found.effects is None:
        note(f"{found.reason} {found.hint}")
        return
    both = [*found.effects.ablations, *found.effects.counterfactuals]
    rows = [
        {
            "place": one.position,
            "token": repr(one.token),
            "change": "taken out" if one.substitute is None else repr(one.substitute),
            "nats": f"{one.effect:+.2f}",
        }
        for one in sorted(both, key=lambda one: one.effect)
    ]
    print_table(
        rows, [Column("place", align="right"), "token", "change", Column("nats", "effect, nats", align="right")]
    )
    note(f"log-probability of what came out: {found.effects.log_prob:.2f} nats")


@group.command("delete")
def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of traces; of spans with --spans.")],
    spans: Annotated[bool, typer.Option("--spans", help="The ids are those of spans.")] = False,
    as_json: Json = False,
) -> None:
    """Delete traces or spans with all that was read of them."""
    with client_of(state_of(context)) as client:
        deleted = sum(client.traces.delete_span(one) if spans else client.traces.delete_trace(one) for one in ids)
    if as_json:
        print_json({"deleted": deleted})
    else:
        note(f"{deleted} spans are deleted")


def _show_features(found: ExtractAnswer) -> None:
    from raylens.labels.span_labels import feature_line

    largest = max((one.activation for one in found.features), default=0.0)
    for one in found.features:
        bar = "█" * max(1, round(_LONGEST_BAR * one.activation / largest)) if largest > 0 else ""
        link = f"  {one.neuronpedia_url}" if one.neuronpedia_url else ""
        print_text(f"{bar:<{_LONGEST_BAR}}  {feature_line(one)}{link}")
    note(f"{found.model or 'no model'}, {found.sae or 'no SAE'}: {found.reason}")
    for said in (found.hint, f"fallback: {', '.join(found.fallback)}" if found.fallback else ""):
        if said:
            note(said)


def _sample() -> list[dict[str, Any]]:
    from raylens.bundle.traces import sample_spans

    return [one.model_dump(mode="json") for one in sample_spans()]


def _spans(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        said = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{file} cannot be read ({reason.lower()}).", hint="name a file of JSON.") from error
    except ValueError as error:
        raise InputError(
            f"{file} is no JSON ({error}).", hint='write {"spans": [{"model", "input", "output"}]}.'
        ) from error
    spans = said.get("spans") if isinstance(said, dict) else said
    if not isinstance(spans, list) or not all(isinstance(one, dict) for one in spans):
        raise InputError(f"{file} holds no spans.", hint='write {"spans": [{"model": …, "input": …, "output": …}]}.')
    return spans
