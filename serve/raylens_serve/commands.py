"""What a request asks for, as words of the command line; refused here where it cannot be, before anything is started.

Whatever a client writes is one word, behind ``--option=``, so that it is never an option itself. Paths come out
absolute, inside the base directory, with links followed (A2.16); a name that is no path is none anywhere that the
command looks, since it runs in an empty folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raylens.api.audit_request import AuditRequest
from raylens.api.runs import ASK_NOBODY, ExplainRequest
from raylens.audit.scores import SCORE_METHODS
from raylens.bundle.paths import list_saes
from raylens.catalog.refs import model_ref, sae_ref
from raylens.errors import InputError, UnknownNameError
from raylens.llm.settings import BASE_URLS, ChatSettings, EndpointSettings
from raylens.sources.suites import load_suite
from raylens.store.audit_paths import checked_name
from raylens.store.base_dir import inside_base
from raylens.store.selection import Readable, one_feature, readables
from raylens.store.workspace import Workspace
from raylens.suites.shipped import shipped_names

LanguageModels = Mapping[str, ChatSettings]
"""What requests may name, as the services were configured: a client can name neither an address nor a folder."""


@dataclass(frozen=True, slots=True)
class Explaining:
    """Features to be explained, and then scored.

    Attributes:
        explain: Words of the first command.
        score: Of the second one; None for no scores.
    """

    explain: list[str]
    score: list[str] | None


def audit_words(asked: AuditRequest, base: Path) -> list[str]:
    """``audit run`` with all that a request says.

    Raises:
        UnknownNameError: There is no such suite or score method.
        InputError: A path leads out of the base directory; a name cannot be one; or no SAE was named for a model that
            has none in the bundle.
    """
    if asked.score_method is not None and asked.score_method not in SCORE_METHODS:
        raise UnknownNameError.among("score method", asked.score_method, SCORE_METHODS)
    candidate = model_ref(asked.candidate, "candidate", base)
    reference = model_ref(asked.reference, "reference", base)
    load_suite(asked.suite, base)
    suite = asked.suite if asked.suite in shipped_names() else str(inside_base(asked.suite, "suite", base))
    optional = {
        "sae": _sae(asked, base),
        "score-method": asked.score_method,
        "run": checked_name(asked.run, "run") if asked.run is not None else None,
        "title": asked.title,
    }
    flags = {
        "no-sae": asked.no_sae,
        "again": asked.again,
        "no-trigger-search": not asked.trigger_search,
        "no-explain": not asked.explain,
        "override-guard": asked.override_guard,
    }
    return [
        "audit",
        "run",
        f"--candidate={candidate}",
        f"--reference={reference}",
        f"--suite={suite}",
        f"--session={checked_name(asked.session, 'session')}",
        f"--target-fpr={asked.target_fpr!r}",
        f"--top-k={asked.top_k}",
        f"--pooling={asked.pooling}",
        f"--max-new-tokens={asked.max_new_tokens}",
        *(f"--{name}={value}" for name, value in optional.items() if value is not None),
        *(f"--{name}" for name, wanted in flags.items() if wanted),
    ]


def explain_words(asked: ExplainRequest, workspace: Workspace, models: LanguageModels) -> Explaining:
    """``explain`` and ``score`` of the features that a request names.

    Raises:
        UnknownNameError: There is no such cache, feature or language model.
        InputError: Features are of several SAEs or caches; or a language model is needed and none is named.
    """
    one, indices = _features(asked, workspace)
    model = _model(asked, models)
    place = [
        f"--sae={one.sae}",
        f"--cache={one.cache_id}",
        *(f"--feature={index}" for index in indices),
    ]
    explain = [
        "explain",
        *place,
        f"--explainer={asked.explainer}",
        f"--min-examples={asked.min_examples}",
        f"--seed={asked.seed}",
        *(_asking(model, "explainer-model") if model is not None and asked.explainer != "lexical" else ()),
    ]
    if not asked.scorers:
        return Explaining(explain, None)
    asks = bool(set(asked.scorers) - ASK_NOBODY)
    score = [
        "score",
        *place,
        *(f"--scorer={name}" for name in asked.scorers),
        *(_asking(model, "judge-model") if model is not None and asks else ()),
    ]
    return Explaining(explain, score)


def _sae(asked: AuditRequest, base: Path) -> str | None:
    if asked.sae is not None:
        return sae_ref(asked.sae, base)
    if asked.no_sae or any(sae.model == asked.reference for sae in list_saes()):
        return None
    raise InputError(
        f"no SAE was named for {asked.reference}.",
        hint="GET /api/v1/sae/supported-models lists those that fit; no_sae does without.",
    )


def _features(asked: ExplainRequest, workspace: Workspace) -> tuple[Readable, tuple[int, ...]]:
    known = readables(workspace, asked.cache)
    found = [one_feature(known, name, cache_option="and cache=") for name in asked.named]
    places = {(one.cache_id, one.sae): one for one, _ in found}
    if len(places) > 1:
        listed = ", ".join(sorted(f"{sae} in cache {cache}" for cache, sae in places))
        raise InputError(f"these features are of {len(places)} SAEs: {listed}.", hint="ask for each by itself.")
    return found[0][0], tuple(dict.fromkeys(index for _, index in found))


def _model(asked: ExplainRequest, models: LanguageModels) -> ChatSettings | None:
    if asked.model is not None and asked.model not in models:
        raise UnknownNameError.among(
            "language model", asked.model, models, hint="those that may be asked stand in the services' config."
        )
    if not asked.asks:
        return None
    if asked.model is None:
        raise InputError(
            "this explainer, or one of these scorers, asks a language model, and none is named.",
            hint=f"name one of {', '.join(models)} as model."
            if models
            else "explainer lexical and scorers rule and embedding ask nobody; the config says whom others may ask.",
        )
    return models[asked.model]


def _asking(settings: ChatSettings, option: str) -> list[str]:
    """Options that stand for a model of the configuration; its key is in the environment of the cluster."""
    words = [f"--{option}={settings.model}", f"--provider={settings.provider}"]
    if isinstance(settings, EndpointSettings):
        prices = settings.prices
        given = {
            "base-url": settings.base_url if settings.base_url != BASE_URLS[settings.provider] else None,
            "max-concurrency": settings.max_concurrency,
            "requests-per-minute": settings.requests_per_minute,
            "timeout": settings.timeout_s,
            "budget-usd": settings.budget_usd,
            "max-calls": settings.max_calls,
            "prompt-price": prices.prompt_usd_per_million if prices else None,
            "answer-price": prices.completion_usd_per_million if prices else None,
        }
    else:
        given = {"quantization": settings.quantization}
    return [*words, *(f"--{name}={value}" for name, value in given.items() if value is not None)]
