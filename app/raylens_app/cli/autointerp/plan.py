"""What a command line of the one-command form asks for, checked as far as it can be before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raylens.errors import InputError
from raylens_app.cli.output import note

if TYPE_CHECKING:
    from raylens.config import CacheConfig, ExplainConfig, ScoreConfig
    from raylens.ids import SaeId
    from raylens.llm.settings import ChatSettings
    from raylens.store.results import ResultsTree, Stage
    from raylens_app.cli.autointerp.parser import Parsed
    from raylens_jobs.cache import CachePlan
    from raylens_jobs.hookpoints import Placed

_SUFFIXES: Final = (".txt", ".jsonl", ".parquet", ".csv", ".gz", ".zst", ".json")


@dataclass(frozen=True)
class Job:
    """A checked request.

    Attributes:
        parsed: The flags.
        name: Of the results.
        tree: Where they go.
        settings: What ``run_config.json`` says.
        cache, explain, score: What each part is told.
        plan: The checked cache.
        saes: Each SAE, with the word that its files begin with.
        chat: Who is asked.
    """

    parsed: Parsed
    name: str
    tree: ResultsTree
    settings: dict[str, Any]
    cache: CacheConfig
    explain: ExplainConfig
    score: ScoreConfig
    plan: CachePlan
    saes: tuple[tuple[str, SaeId], ...]
    chat: ChatSettings | None


def plan(parsed: Parsed, workspace_url: str) -> Job:
    """Check all that can be checked; nothing is written.

    Raises:
        RaylensError: As the commands that it stands for, and where the folder of results holds other ones.
    """
    from raylens.catalog.lookup import Catalog
    from raylens.catalog.user import find_user_file
    from raylens.explain.explainers import explainer_for
    from raylens.store.ranges import range_of
    from raylens.store.results import ResultsTree, file_word
    from raylens_app.cli.autointerp.chat import chat_of, refuse_early, scorers_of
    from raylens_app.cli.autointerp.parser import flags
    from raylens_jobs.cache import plan_cache
    from raylens_jobs.hookpoints import saes_at

    config = parsed.config
    if config.example_ctx_len > config.cache_ctx_len:
        raise InputError(
            f"an excerpt of {config.example_ctx_len} tokens does not fit in a window of {config.cache_ctx_len}.",
            hint="lower --example_ctx_len, or raise --cache_ctx_len.",
        )
    chat = chat_of(parsed)
    explain, score = _explain_config(parsed), _score_config(parsed, scorers_of(parsed))
    name = config.name or default_name(config.model, config.sparse_model)
    tree = ResultsTree(config.results_dir, name)
    text = text_source(parsed)
    catalog = Catalog.load(find_user_file(config.catalog_file, workspace_url))
    placed = saes_at(config.sparse_model, config.hookpoints, catalog)
    settings = config.model_dump(mode="json", exclude={"hf_token", "workspace", "as_json"})
    settings |= {
        "name": name,
        "hookpoints": [one.word for one in placed],
        "scorers": list(score.scorers),
        "explainer": explainer_for(config.explainer, config.non_activating_source),
        "explainer_model": chat.model if chat else None,
        "explainer_provider": chat.provider if chat else None,
    }
    stages: dict[str, Stage] = {flag.field: flag.about.stage for flag in flags() if flag.about.stage}
    tree.refuse_unless_mine(settings, stages, config.overwrite)
    if chat:
        refuse_early(chat, named="explainer_model" in parsed.given)
    cache = _cache_config(parsed, placed, text)
    _check_prompts(explain)
    checked = plan_cache(cache, workspace_url, note)
    for _, spec in checked.saes:
        for latent in explain.features or ():
            range_of(spec.d_sae, latent)  # refuses what the SAE does not have
    words = [file_word(one.word) for one in placed]
    if len(set(words)) < len(words):
        words = [spec.id.key for _, spec in checked.saes]
    saes = tuple((word, spec.id) for word, (_, spec) in zip(words, checked.saes, strict=True))
    return Job(parsed, name, tree, settings, cache, explain, score, checked, saes, chat)


def _check_prompts(explain: ExplainConfig) -> None:
    """Read the user's prompt files, which are first needed hours later."""
    if explain.prompt_dir is None:
        return
    from raylens.explain.explainers import EXPLAINERS
    from raylens.score.questions import score_prompts

    folder = Path(explain.prompt_dir)
    for explainer in EXPLAINERS.values():
        explainer.prompts(folder)
    score_prompts(folder)


def _examples(parsed: Parsed) -> dict[str, Any]:
    from raylens.config import ExampleConfig

    known = set(ExampleConfig.model_fields)
    return parsed.config.model_dump(include=known) | {"seed": parsed.config.seed}


def _explain_config(parsed: Parsed) -> ExplainConfig:
    from raylens.config import ExplainConfig

    config = parsed.config
    return ExplainConfig.of(
        {
            **_examples(parsed),
            "explainer": config.explainer,
            "max_model_len": config.explainer_model_max_len,
            "prompt_dir": config.prompt_dir,
            "features": config.feature_num or None,
            "max_latents": config.max_latents,
            "address": config.address,
        }
    )


def _score_config(parsed: Parsed, scorers: Sequence[str]) -> ScoreConfig:
    from raylens.config import ScoreConfig

    config = parsed.config
    return ScoreConfig.of(
        {
            **_examples(parsed),
            "scorers": tuple(dict.fromkeys(scorers)),
            "num_examples_per_scorer_prompt": config.num_examples_per_scorer_prompt,
            "log_probs": config.log_probs,
            "prompt_dir": config.prompt_dir,
            "address": config.address,
        }
    )


def _cache_config(parsed: Parsed, placed: Sequence[Placed], text: str) -> CacheConfig:
    from raylens.config import CacheConfig

    config = parsed.config
    return CacheConfig.of(
        {
            "model": config.model,
            "saes": tuple(one.ref for one in placed),
            "texts": (text,),
            "column": config.dataset_column,
            "n_tokens": config.n_tokens,
            "ctx_len": config.cache_ctx_len,
            "batch_size": config.batch_size,
            "num_gpus": config.num_gpus,
            "device": config.device,
            "dtype": config.dtype,
            "quantization": "bnb-8bit" if config.load_in_8bit else None,
            "revision": config.revision,
            "filter_bos": config.filter_bos,
            "seed": config.seed,
            "address": config.address,
            "override_guard": config.override_guard,
            "catalog_file": config.catalog_file,
        }
    )


def text_source(parsed: Parsed) -> str:
    """The data set as ``raylens cache --text`` takes it."""
    config, repo = parsed.config, parsed.config.dataset_repo
    local = repo.partition(":")[0] == "stdlib" or _is_path(repo)
    if local or repo.startswith("hf:"):
        named = next((name for name in ("dataset_split", "dataset_name") if name in parsed.given), None)
        if named is not None:
            raise InputError(
                f"--{named} is about a data set of the hub, and {repo} is none.",
                hint="leave it out; --n_tokens bounds how much is read." if local else "write it in one place.",
            )
        return repo
    return f"hf:{repo}:{config.dataset_name}:{config.dataset_split}"


def _is_path(repo: str) -> bool:
    return (
        repo.startswith(("/", "~", "."))
        or any(mark in repo for mark in "*?")
        or repo.endswith(_SUFFIXES)
        or Path(repo).exists()
    )


def default_name(model: str, sparse_model: str) -> str:
    """What results are called where nobody says: ``<model>--<SAE>``, the last part of each."""
    from raylens.store.results import file_word

    last = [file_word(text.rstrip("/").rpartition("/")[2]) for text in (model, sparse_model)]
    return "--".join(last)[:100]
