"""Checking an audit before any weights are read: models, SAE, suite and settings, and what its scores are of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from raylens.audit.calibration import AuditIdentity
from raylens.audit.draws import SEED
from raylens.audit.scores import SCORE_METHODS, ScoreMethod, score_method
from raylens.bundle.paths import PICO
from raylens.catalog.lookup import Catalog
from raylens.catalog.user import find_user_file
from raylens.config import AuditConfig
from raylens.engine.candidates import Candidate, locate_candidate
from raylens.engine.comparable import require_comparable
from raylens.engine.load import choose_device, load_tokenizer, own_dtype, prefix_ids
from raylens.engine.models import ModelFiles, describe_files, locate
from raylens.engine.sae_choice import SaeChoice, choose
from raylens.engine.text_windows import cut_windows
from raylens.engine.trigger_search import SearchSettings
from raylens.errors import InputError
from raylens.home import from_home
from raylens.ids import digest
from raylens.labels.guard import require_labels
from raylens.sources import check_sources, parse_source
from raylens.sources.calibrations import CalibrationFile, load_calibrations
from raylens.sources.suites import load_suite
from raylens.specs import ModelInfo, SaeSpec
from raylens.store.files import Files
from raylens.suites.suite import Suite
from raylens_jobs.audit_actor import Subjects
from raylens_jobs.audit_evidence import Task
from raylens_jobs.audit_forms import forms_of
from raylens_jobs.audit_scores import VERSION, identity_of

_PANEL_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """A checked request, of any candidate.

    Attributes:
        config: What was asked, its ``dtype`` said where it can be: scores of another are not to be compared.
        method: That gives the verdict.
        reference: Its name, revision and shape.
        sae: How to load it, and what it is; None without one.
        suite: The prompts.
        task: What is measured.
        catalog: For labels.
        calibrations: Those that were named; None for those of the workspace, or of the bundle.
    """

    config: AuditConfig
    method: ScoreMethod
    reference: ModelInfo
    sae: tuple[SaeChoice, SaeSpec] | None
    suite: Suite
    task: Task
    catalog: Catalog
    calibrations: CalibrationFile | None = None

    @property
    def subjects(self) -> Subjects:
        """What actors load."""
        config = self.config
        return Subjects(config.model, config.revision, config.dtype, config.device, self.sae[0] if self.sae else None)

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        """All that scores depend on besides models, SAE and suite."""
        config = self.config
        return {
            "version": VERSION,
            "dtype": config.dtype,
            "pooling": config.pooling,
            "k": config.k,
            "max_new_tokens": config.max_new_tokens,
            "trigger_search": config.trigger_search,
        }

    @property
    def reference_key(self) -> str:
        """Of all that determines what is kept of the reference."""
        sae = self.sae[1] if self.sae else None
        return digest(
            {
                "version": VERSION,
                "model": self.reference.revision,
                "sae": [str(sae.id), sae.fingerprint, str(sae.hook)] if sae else None,
                "suite": self.suite.inputs_digest,
                "max_new_tokens": self.config.max_new_tokens,
                "dtype": self.config.dtype,
                "quantization": self.config.quantization,
                "panel": [list(window) for window in self.task.panel],
            }
        )[:24]

    def identity(self, method: str | None = None) -> AuditIdentity:
        """What a score must share with others to be compared; by default of the method that gives the verdict."""
        return identity_of(
            method or self.method.name,
            model=f"{self.reference.name}@{self.reference.revision}",
            sae=f"{self.sae[1].id}@{self.sae[1].fingerprint}" if self.sae else None,
            suite=self.suite.inputs_digest,
            settings=self.settings,
            search=self.task.search,
        )

    @property
    def scoring(self) -> str:
        """16 hex of all that moves any method's score, the candidate apart."""
        return digest({name: self.identity(name).model_dump(mode="json") for name in SCORE_METHODS})[:16]

    def pieces_key(self, candidate: Candidate) -> str:
        """24 hex of all that determines what is measured of a candidate."""
        made_from = {"reference": self.reference_key, "scoring": self.scoring, "candidate": candidate.revision}
        return digest(made_from)[:24]

    def candidate(self, ref: str) -> Candidate:
        """Find a candidate and hold it against the reference, before its weights are read.

        Raises:
            MismatchError: They cannot be compared.
            UnknownNameError, InputError, DamagedFileError: It is no candidate.
        """
        found = locate_candidate(ref, base=self.reference)
        if found.files is not None:
            require_comparable(locate(self.config.model, revision=self.config.revision, weights=False), found.files)
        return found


def plan_audit(
    config: AuditConfig,
    workspace_url: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] = os.environ,
) -> AuditPlan:
    """Check everything about an audit that is not about its candidate.

    Args:
        config: What is asked.
        workspace_url: Where the user's own catalogue may lie.
        say: Told what a person should know of what is allowed.
        environment: For ``RAYLENS_SCORE_METHOD``.

    Raises:
        InputError: Reference, SAE, suite, text, calibration or method do not exist or do not fit.
        MismatchError: The SAE, or what is said of its features, is of something else.
    """
    method = score_method(config.score_method, environment)
    given = load_calibrations(config.calibration) if config.calibration is not None else None
    suite = load_suite(config.suite)
    files = locate(config.model, revision=config.revision, weights=False)
    reference = describe_files(files)
    config = config.model_copy(update={"dtype": _dtype(config, files)})
    catalog = Catalog.load(find_user_file(config.catalog_file, workspace_url))
    sae = None
    if config.sae is not None:
        sae = choose([config.sae], reference, catalog, override=config.override_guard, say=say)[0]
        require_labels(sae[1], catalog, Files.open(workspace_url) if workspace_url is not None else None)
    _check_method(method, config)
    tokenizer = load_tokenizer(config.model, revision=config.revision)
    forms = forms_of(suite, tokenizer, prefix_ids(tokenizer))
    limit = reference.max_positions
    longest = max(len(form.ids) for form in forms) + config.max_new_tokens
    if limit is not None and longest > limit:
        raise InputError(
            f"the longest prompt of suite {suite.name} and {config.max_new_tokens} tokens after it are {longest}, more "
            f"than the {limit} that {reference.name} takes.",
            hint="lower --max-new-tokens, or shorten the prompt.",
        )
    task = Task(
        forms=forms,
        max_new_tokens=config.max_new_tokens,
        panel=_panel(config, tokenizer),
        search=SearchSettings() if config.trigger_search else None,
        methods=("weight_projection", "difference_sae") if sae is not None else (),
    )
    plan = AuditPlan(config, method, reference, sae, suite, task, catalog, given)
    if given is not None:
        given.require(plan.identity())
    return plan


def _dtype(config: AuditConfig, files: ModelFiles) -> str:
    """Not ``auto``: of a 16-bit model that is 16 bits on a GPU and 32 on a CPU, and workers may be of either kind."""
    if config.dtype != "auto":
        return config.dtype
    if config.num_gpus == 0:
        return own_dtype(files, "cpu")
    if config.address is not None and config.device == "auto":
        return own_dtype(files, "cuda")  # what workers have is not known here; GPUs, as a rule
    return own_dtype(files, choose_device(config.device) if config.address is None else config.device)


def _check_method(method: ScoreMethod, config: AuditConfig) -> None:
    if method.name == "trigger_search" and not config.trigger_search:
        raise InputError(
            "the verdict is to come from trigger_search, and the search is turned off.",
            hint="leave --no-trigger-search out, or name another --score-method.",
        )
    if method.name not in ("trigger_search", "logit_kl") and config.sae is None:
        free = ", ".join(name for name in SCORE_METHODS if name in ("trigger_search", "logit_kl"))
        raise InputError(
            f"{method.name} reads features, and no SAE is named.",
            hint=f"add --sae, or choose a --score-method that needs none: {free}.",
        )


def _panel(config: AuditConfig, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Windows of held-out text; none where it is not known what the model never saw."""
    texts = config.texts or (("stdlib:held_out",) if config.model == PICO else ())
    if not texts or not config.panel_windows:
        return ()
    sources = [parse_source(text, config.column) for text in texts]
    check_sources(sources)
    windows = cut_windows(tokenizer, sources, ctx_len=_PANEL_TOKENS, pack=False, seed=SEED)
    # As short as they come, files of a few lines say little; the whole window is wanted.
    whole = (
        tuple(int(one) for one in window.token_ids) for window in windows if len(window.token_ids) == _PANEL_TOKENS
    )
    return tuple(islice(whole, config.panel_windows))


def shown(ref: str) -> str:
    """A candidate or reference as people recognise it: of a local folder its name."""
    return Path(ref).name if from_home(ref).is_dir() else ref
