"""Explaining, on demand, the features that an audit lists and that nothing else is said of.

The explain job does it, from a cache of the reference with this SAE, after the audit has given its cores back: they
are what the job's tasks would wait for. Whatever keeps a feature from being explained is counted and never fails the
audit; the feature keeps its proxy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raylens.audit.own_explanations import OwnExplanations
from raylens.config import ExplainConfig
from raylens.errors import DamagedFileError, InputError, RaylensError, StoppedError
from raylens.labels.explanations import one_line
from raylens.labels.lookup import Lookup
from raylens.llm.settings import ChatSettings
from raylens.specs import ModelInfo, SaeSpec
from raylens.store.example_reader import require_examples
from raylens.store.findings import Findings
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.audit_plan import AuditPlan, shown
from raylens_jobs.explain import explanations_of, require_explainer, run_explain

_REASON_LIMIT: Final = 300
_COLUMNS: Final = ("feature", "explanation_id", "status", "error")


@dataclass(frozen=True, slots=True)
class OnDemand:
    """How features are explained that nothing is said of.

    Attributes:
        config: Which explainer and which examples; its features and its address are the audit's.
        chat: The language model that is asked; None for the lexical explainer, which asks nobody.

    Raises:
        InputError: Explainer and model do not go together, a prompt file cannot be used, or the examples need an
            index of the whole text.
    """

    config: ExplainConfig = field(default_factory=ExplainConfig)
    chat: ChatSettings | None = None

    def __post_init__(self) -> None:
        require_explainer(self.config, self.chat)
        if self.config.non_activating_source == "faiss":
            raise InputError(
                "an audit does not embed a whole cache for its silent excerpts.",
                hint="choose random or neighbours, or run raylens explain by itself before the audit.",
            )

    @property
    def model(self) -> str | None:
        """The language model as people recognise it."""
        return None if self.chat is None else shown(self.chat.model)

    def asked(self) -> dict[str, Any]:
        """For the record of a run: what is not as it is by default."""
        config = self.config.model_dump(mode="json", exclude_defaults=True, exclude={"features", "address"})
        chat = {} if self.chat is None else {"asked": self.chat.model_dump(mode="json", exclude_none=True)}
        return {"explainer": self.config.explainer, **config, **chat}


def explain_listed(
    how: OnDemand,
    plan: AuditPlan,
    workspace: Workspace,
    labels: Lookup,
    listed: Sequence[int],
    journal: RunJournal,
    release: Callable[[], None] = lambda: None,
) -> OwnExplanations:
    """Explain those of the listed features that nothing but this explainer says anything of.

    What it has said before is found and not made again, and counts: the outcome depends on what is known in the end,
    not on which run made it.

    Args:
        how: Which explainer, and whom it asks.
        plan: Of the audit, for reference, SAE and cluster.
        workspace: Where caches and explanations are.
        labels: What is said of features already.
        listed: Features, in the order in which they are listed.
        journal: Of the audit's run.
        release: Called before anything is explained, to give back the cores that the audit holds.

    Raises:
        StoppedError: The run was asked to stop; what is explained is kept.
    """
    assert plan.sae is not None
    sae, chat = plan.sae[1], how.chat
    config = how.config.model_copy(update={"features": None, "max_latents": None, "address": plan.config.address})
    said = labels.look(listed)
    findings, why = _pass_of(config, chat, workspace, labels, plan.reference, sae)
    found = _rows(findings, listed)
    mine = {row["explanation_id"] for row in found.values()}
    wanted = [feature for feature in listed if all(one.source_id in mine for one in said[feature])]
    missing = tuple(feature for feature in wanted if feature not in found)
    if findings is not None and missing:
        asking = config.model_copy(update={"features": missing})
        try:
            release()
            made = run_explain(asking, workspace, findings.cache.cache_id, sae.id, journal, lambda _: None, chat)
            found = _rows(findings, listed)
            why = _lost(made, found)
        except StoppedError:
            raise
        except RaylensError as error:
            found, why = _rows(findings, listed), _said(error)
    ids = {feature: row["explanation_id"] for feature, row in found.items() if row["status"] == "ok"}
    explained = {feature: ids[feature] for feature in wanted if feature in ids}
    reasons = Counter(
        _reason(found[feature]["status"], config) if feature in found else one_line(why, _REASON_LIMIT).rstrip(".")
        for feature in wanted
        if feature not in explained
    )
    return OwnExplanations.counted(
        config.explainer,
        explained,
        reasons,
        model=how.model,
        cache_id=findings.cache.cache_id if findings is not None else None,
        pass_id=findings.pass_id if findings is not None else None,
    )


def _pass_of(
    config: ExplainConfig,
    chat: ChatSettings | None,
    workspace: Workspace,
    labels: Lookup,
    reference: ModelInfo,
    sae: SaeSpec,
) -> tuple[Findings | None, str]:
    """The pass that explains from a cache of the reference with this SAE, the one merged last; or why there is none."""
    why = "no cache of this SAE in the workspace, raylens cache makes one"
    for held in reversed(labels.held):
        try:
            reader = CacheReader(workspace, held.cache_id)
            if _is_of(reader, reference, sae):
                require_examples(reader)
                return explanations_of(config, reader, sae.id, chat), ""
            why = "this SAE's caches in the workspace are of another model, or of other weights"
        except RaylensError as error:
            why = _said(error)
    return None, why


def _is_of(reader: CacheReader, reference: ModelInfo, sae: SaeSpec) -> bool:
    """Whether a cache is of these weights; what was imported does not know its revision, and names its model."""
    revision = reader.info.get("revision")
    same_model = reader.info.get("model") == reference.name if revision is None else revision == reference.revision
    spec = reader.cache.saes().get(sae.id, {}).get("spec") or {}
    return same_model and spec.get("fingerprint") in (None, sae.fingerprint)


def _rows(findings: Findings | None, features: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What a pass has settled of some features."""
    if findings is None:
        return {}
    return {row["feature"]: row for row in findings.read(_COLUMNS, features).to_pylist()}


def _said(error: RaylensError) -> str:
    """What an artefact may say of an error: no place on a disk, which is another one elsewhere."""
    return "the cache is damaged, raylens explain says where" if isinstance(error, DamagedFileError) else error.message


def _lost(made: Mapping[str, Any], found: Mapping[int, Mapping[str, Any]]) -> str:
    """Why features are still open: what was lost most often, apart from answers that could not be read."""
    lost = Counter(made.get("lost", {}))
    lost.subtract(row["error"] for row in found.values() if row["status"] == "failed")
    reason, n = max(lost.items(), key=lambda one: (one[1], one[0]), default=("", 0))
    return reason if n > 0 else "no answer came"


def _reason(status: str, config: ExplainConfig) -> str:
    return {
        "not_found": "no rule over tokens tells when they fire",
        "failed": "the answer could not be read",
        "dead": "never fire in the cache",
        "too_few": f"fire in fewer than {config.min_examples} excerpts of the cache",
        "one_sided": "fire in documents of one half only",
    }.get(status, status)
