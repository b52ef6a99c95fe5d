"""Who explains and judges, as flags of the one-command form say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raylens.errors import HubUnreachableError, InputError

if TYPE_CHECKING:
    from raylens.llm.settings import ChatSettings
    from raylens_app.cli.autointerp.flags import Autointerp
    from raylens_app.cli.autointerp.parser import Parsed

ASK_NOBODY: Final = ("rule", "embedding")
"""Scorers that need no language model."""
_QUANTISED: Final = ("awq", "gptq", "-int4", "-int8", "bnb-", "gguf", "w4a16", "fp8")
_ENDPOINT_ONLY: Final = (
    "base_url",
    "budget_usd",
    "max_calls",
    "prompt_price",
    "answer_price",
    "max_concurrency",
    "requests_per_minute",
    "timeout",
)


def scorers_of(parsed: Parsed) -> tuple[str, ...]:
    """The scorers to run: those named, or else what suits the explainer."""
    config = parsed.config
    named = "scorers" in parsed.given or config.preset is not None
    return ASK_NOBODY if config.explainer == "lexical" and not named else config.scorers


def chat_of(parsed: Parsed) -> ChatSettings | None:
    """The language model that is asked; None where nobody is.

    Raises:
        InputError: Nobody is named, or the flags do not go together.
    """
    from raylens.llm.settings import EndpointSettings, OfflineSettings

    config = parsed.config
    judged = [scorer for scorer in scorers_of(parsed) if scorer not in ASK_NOBODY]
    if config.explainer == "lexical":
        if not judged:
            return None
        if "explainer_model" not in parsed.given:
            raise InputError(
                f"the scorer {judged[0]} asks a language model, and the lexical explainer names none.",
                hint="add --explainer_model (with --explainer_provider), or score with --scorers rule embedding.",
            )
    if config.explainer_provider == "offline":
        _refuse_endpoint_flags(parsed)
        eight = None if _quantised(config.explainer_model) else "bnb-8bit"
        return OfflineSettings.of(
            {
                "model": config.explainer_model,
                "max_model_len": config.explainer_model_max_len,
                "num_gpus": config.num_gpus,
                "device": config.device,
                "quantization": config.explainer_quantization or (eight if config.load_in_8bit else None),
            }
        )
    if config.explainer_quantization is not None:
        raise InputError(
            "--explainer_quantization is about a model that runs here, and an endpoint's does not.",
            hint="leave it out; an endpoint decides itself how its model is loaded.",
        )
    if "explainer_model" not in parsed.given:
        raise InputError(
            f"--explainer_provider {config.explainer_provider} needs to know which of its models to ask.",
            hint="add --explainer_model with the name that the endpoint has for it.",
        )
    if config.explainer_provider == "openrouter" and config.base_url:
        raise InputError(
            "--base_url is the address of an endpoint of your own, and openrouter has its own.",
            hint="use --explainer_provider openai with it, or leave it out.",
        )
    return EndpointSettings.of(
        {
            "provider": config.explainer_provider,
            "base_url": config.base_url or "",
            "model": config.explainer_model,
            "max_model_len": config.explainer_model_max_len,
            "max_concurrency": config.max_concurrency,
            "requests_per_minute": config.requests_per_minute,
            "timeout_s": config.timeout,
            "budget_usd": config.budget_usd,
            "max_calls": config.max_calls,
            "prices": _prices(config),
        }
    )


def refuse_early(chat: ChatSettings, *, named: bool) -> None:
    """Find out before hours of caching what can be known without asking: is there a key, can the model run here?

    Args:
        chat: Who is to be asked.
        named: Whether the user chose the model; else it is the default.

    Raises:
        InputError: No key is set for the endpoint, or nothing here runs the model.
        HubUnreachableError: A model that was named is not here, and there is no hub.
    """
    import asyncio

    from raylens.llm.client import ChatClient
    from raylens.llm.settings import EndpointSettings

    async def open_and_close() -> None:
        if isinstance(chat, EndpointSettings):
            async with ChatClient(chat):
                return
        from raylens_jobs.offline import OfflineClient

        async with OfflineClient(chat):
            return

    try:
        asyncio.run(open_and_close())
    except HubUnreachableError as error:
        if named:
            raise
        raise InputError(
            f"the default explainer cannot be had: {error.message}",
            hint="name a model with --explainer_model (a folder, say), an endpoint with --explainer_provider openai "
            "--base_url URL --explainer_model NAME, or use --explainer lexical, which asks nobody.",
        ) from error


def what_is_left(chat: ChatSettings | None, usage: dict[str, Any]) -> ChatSettings | None:
    """``chat`` with its limits lowered by what was used: one command has one budget, however many parts it has."""
    from raylens.llm.settings import EndpointSettings

    if not isinstance(chat, EndpointSettings):
        return chat
    left: dict[str, Any] = {}
    if chat.budget_usd is not None:
        left["budget_usd"] = max(0.0, chat.budget_usd - usage.get("usd", 0.0) - usage.get("lost_usd", 0.0))
    if chat.max_calls is not None:
        left["max_calls"] = max(0, chat.max_calls - usage.get("calls", 0))
    return chat.model_copy(update=left)


def _prices(config: Autointerp) -> dict[str, float] | None:
    prompt, answer = config.prompt_price, config.answer_price
    if prompt is None and answer is None:
        return None
    if prompt is None or answer is None:
        given, missing = ("prompt", "answer") if answer is None else ("answer", "prompt")
        raise InputError(
            f"--{given}_price is half of what a call costs.", hint=f"add --{missing}_price, 0 if it is free."
        )
    return {"prompt_usd_per_million": prompt, "completion_usd_per_million": answer}


def _refuse_endpoint_flags(parsed: Parsed) -> None:
    named = next((name for name in _ENDPOINT_ONLY if name in parsed.given), None)
    if named is not None:
        raise InputError(
            f"--{named} is about an endpoint, and --explainer_provider offline asks none.",
            hint="add --explainer_provider openai or openrouter, or leave it out.",
        )


def _quantised(model: str) -> bool:
    return any(mark in model.casefold() for mark in _QUANTISED)
