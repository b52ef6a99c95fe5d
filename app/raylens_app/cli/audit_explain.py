"""Options of an audit that say how features are explained that nothing is said of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.explain import ExplainerName

if TYPE_CHECKING:
    from raylens_jobs.audit_explain import OnDemand

_PANEL: Final = "Explanations"

Explain = Annotated[
    bool,
    typer.Option(
        "--explain/--no-explain",
        help="Explain listed features that nothing is said of, from a cache of the reference with this SAE.",
        rich_help_panel=_PANEL,
    ),
]
Explainer = Annotated[
    ExplainerName,
    typer.Option(help="As of raylens explain; all but lexical ask --explainer-model.", rich_help_panel=_PANEL),
]
MinExamples = Annotated[
    int, typer.Option(min=1, help="Skip a feature that fires in fewer excerpts of the cache.", rich_help_panel=_PANEL)
]
ExplainerModel = Annotated[
    str | None,
    typer.Option(help="The language model: its name at the endpoint, or a folder.", rich_help_panel=chat.PANEL),
]
ExplainerModelMaxLen = Annotated[
    int,
    typer.Option(min=256, help="Tokens of its context; longer requests are trimmed.", rich_help_panel=chat.PANEL),
]


def on_demand(
    explain: bool,
    explainer: ExplainerName,
    model: str | None,
    *,
    max_model_len: int,
    min_examples: int,
    prompt_dir: str | None,
    **options: Any,
) -> OnDemand | None:
    """What was asked for; None for no explaining.

    Args:
        explain: Whether to.
        explainer: Which.
        model: The language model; None where none is named.
        max_model_len: Tokens of its context.
        min_examples: Excerpts in which a feature must fire.
        prompt_dir: Of prompts that take the place of the package's.
        options: As :func:`raylens_app.cli.chat_options.chat_settings` takes them.

    Raises:
        InputError: Options do not go together, or a prompt file cannot be used.
    """
    from raylens.config import ExplainConfig
    from raylens_jobs.audit_explain import OnDemand

    if not explain:
        if model is not None or explainer != "lexical":
            flag = "--explainer-model" if model is not None else "--explainer"
            raise InputError(f"{flag} says how to explain, and --no-explain not to.", hint="leave one of them out.")
        return None
    asked = chat.chat_settings(model, "--explainer-model", **options)
    chat.require_asking(explainer, asked)
    values = {
        "explainer": explainer,
        "max_model_len": max_model_len,
        "min_examples": min_examples,
        "prompt_dir": prompt_dir,
    }
    return OnDemand(ExplainConfig.of(values), asked)
