"""Options that say which language model is asked, shared by the commands that ask one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from raylens.errors import InputError

if TYPE_CHECKING:
    from raylens.llm.settings import ChatSettings
    from raylens.llm.spend import Usage

T = TypeVar("T")

PANEL: Final = "The language model"

ProviderName = Literal["openai", "openrouter", "offline"]

Provider = Annotated[
    ProviderName | None,
    typer.Option(
        help="openai: any OpenAI-compatible endpoint (vLLM, Ollama, TGI, LM Studio) at --base-url, or OpenAI itself; "
        "openrouter; offline: a model of your own, asked at the services of this workspace where they serve it, else "
        "loaded on this cluster. Default: offline for a local folder, openai with --base-url.",
        rich_help_panel=PANEL,
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="The endpoint, up to and with /v1; its key is read from OPENAI_API_KEY.", rich_help_panel=PANEL),
]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Calls at a time [32].", rich_help_panel=PANEL)]
Rate = Annotated[float | None, typer.Option(help="Calls a minute, at most.", rich_help_panel=PANEL)]
Timeout = Annotated[float | None, typer.Option(help="Seconds for one answer [120].", rich_help_panel=PANEL)]
BudgetUsd = Annotated[
    float | None, typer.Option(help="Stop before more is spent; needs prices.", rich_help_panel=PANEL)
]
MaxCalls = Annotated[
    int | None,
    typer.Option(min=0, help="Stop before more calls; 0 uses stored answers alone.", rich_help_panel=PANEL),
]
PromptPrice = Annotated[float | None, typer.Option(help="USD for a million prompt tokens.", rich_help_panel=PANEL)]
AnswerPrice = Annotated[float | None, typer.Option(help="USD for a million answer tokens.", rich_help_panel=PANEL)]
Quantization = Annotated[
    Literal["bnb-8bit", "bnb-4bit"] | None, typer.Option(help="How an offline model is loaded.", rich_help_panel=PANEL)
]
PromptDir = Annotated[
    str | None,
    typer.Option(
        help="Folder of prompt files that take the place of the package's of the same name.", rich_help_panel=PANEL
    ),
]


def chat_settings(
    model: str | None,
    flag: str,
    *,
    provider: ProviderName | None,
    base_url: str | None,
    **limits: Any,
) -> ChatSettings | None:
    """Settings of the model named, None where none is.

    Args:
        model: Its name, or a folder.
        flag: The option that names it, for errors.
        provider: As given.
        base_url: As given.
        limits: ``max_concurrency``, ``requests_per_minute``, ``timeout_s``, ``budget_usd``, ``max_calls``,
            ``prompt_price``, ``answer_price``, ``quantization``, ``max_model_len``; None where not given.

    Raises:
        InputError: Options do not go together, or one is out of range.
    """
    from raylens.llm.settings import EndpointSettings, OfflineSettings

    given = {name: value for name, value in limits.items() if value is not None}
    if model is None:
        others = {"provider": provider, "base_url": base_url, **given}
        named = [name for name, value in others.items() if value is not None and name != "max_model_len"]
        if named:
            raise InputError(
                f"--{named[0].removesuffix('_s').replace('_', '-')} is about a language model, and none is named.",
                hint=f"add {flag}.",
            )
        return None
    if provider is None:
        if base_url is None and not (Path(model).is_dir() or model == "raylens/pico"):
            raise InputError(
                f"it is not said where {model} runs.",
                hint="add --base-url URL of its endpoint, or --provider openai, openrouter or offline.",
            )
        provider = "openai" if base_url is not None else "offline"
    if provider == "offline":
        wrong = [name for name in given if name not in OfflineSettings.model_fields]
        if wrong or base_url is not None:
            name = "base_url" if base_url is not None else wrong[0].removesuffix("_s")
            raise InputError(
                f"--{name.replace('_', '-')} is for endpoints, and --provider is offline.",
                hint="leave one of them out.",
            )
        return _by_flag(OfflineSettings.of, {"model": model, **given})
    if "quantization" in given:
        raise InputError(
            "--quantization is for offline models.", hint="an endpoint decides itself how its model is loaded."
        )
    prices = {
        name: given.pop(option, 0.0)
        for option, name in (("prompt_price", "prompt_usd_per_million"), ("answer_price", "completion_usd_per_million"))
        if {"prompt_price", "answer_price"} & limits_given(limits)
    }
    values = {"model": model, "provider": provider, "base_url": base_url or "", **given}
    return _by_flag(EndpointSettings.of, values | ({"prices": prices} if prices else {}))


def require_asking(explainer: str, asked: ChatSettings | None) -> None:
    """Refuse a model for an explainer that asks nobody.

    Raises:
        InputError: A model is named for the lexical explainer.
    """
    if asked is not None and explainer == "lexical":
        raise InputError(
            "the lexical explainer asks nobody, and --explainer-model names a model.",
            hint="add --explainer default, or leave the model out.",
        )


_FLAGS: Final = {
    "timeout_s": "timeout",
    "prices.prompt_usd_per_million": "prompt-price",
    "prices.completion_usd_per_million": "answer-price",
}


def _by_flag(make: Callable[[Mapping[str, Any]], T], values: Mapping[str, Any]) -> T:
    """Make settings; what is wrong with a value is said of the option that gave it."""
    try:
        return make(values)
    except InputError as error:
        field, says, problem = error.message.partition(" is not valid")
        if not says or field == "model":
            raise
        flag = _FLAGS.get(field, field.replace("_", "-"))
        message, hint = f"--{flag} is not valid{problem}", f"--help says what --{flag} takes."
    raise InputError(message, hint=hint)


def limits_given(limits: dict[str, Any]) -> set[str]:
    """Names of those that are not None."""
    return {name for name, value in limits.items() if value is not None}


def spending(usage: Usage | None) -> str:
    """What was asked and spent so far, for beside a progress bar."""
    if usage is None:
        return ""
    parts = [f"{usage.calls:,} calls"]
    if usage.cached:
        parts.append(f"{usage.cached:,} from the cache")
    if usage.retries:
        parts.append(f"{usage.retries:,} retries")
    if usage.usd or usage.lost_usd:
        parts.append(f"${usage.usd + usage.lost_usd:,.2f}")
    return ", ".join(parts)
