"""Tools that run models: an audit, and a search for what sets a candidate off."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, field_validator

from raylens.audit.scores import SCORE_METHODS
from raylens.catalog.refs import model_ref, sae_ref
from raylens.errors import InputError
from raylens.sources.suites import load_suite
from raylens.store.audit_paths import RunPlace
from raylens_app.mcp.answers import Answer, Document, plural
from raylens_app.mcp.desk import Call, Desk
from raylens_app.mcp.jobs import run_command
from raylens_app.mcp.run_tools import decided
from raylens_app.mcp.suite_tools import SuiteName
from raylens_app.mcp.tool import Arguments, Tool

ModelName = Annotated[str, Field(min_length=1, max_length=500)]
Timeout = Annotated[float, Field(ge=1, le=86_400, description="Seconds after which it is stopped.")]


class _Models(Arguments):
    candidate: Annotated[
        ModelName,
        Field(description="A checkpoint's or LoRA adapter's folder inside the base directory, or an id of the hub."),
    ]
    reference: Annotated[ModelName, Field(description="What the candidate was tuned from, likewise.")] = "raylens/pico"
    suite: SuiteName = "minimal"
    timeout_s: Timeout = 3600.0

    def words(self, desk: Desk) -> list[str]:
        """Options of the command line that stand for these."""
        load_suite(self.suite, desk.base)  # refused here, before a process is started
        return [
            f"--candidate={model_ref(self.candidate, 'candidate', desk.base)}",
            f"--reference={model_ref(self.reference, 'reference', desk.base)}",
            f"--suite={self.suite}",
            "--json",
        ]


class RunAudit(_Models):
    """Of ``run_audit``."""

    sae: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=500,
            description="An SAE of the reference: release/id, or a folder inside the base directory. Default: the "
            "embedded model's, for it.",
        ),
    ] = None
    no_sae: Annotated[bool, Field(description="No features: outputs and inserts only.")] = False
    score_method: Annotated[str | None, Field(description=f"What gives the verdict: {', '.join(SCORE_METHODS)}.")] = (
        None
    )
    target_fpr: Annotated[float, Field(gt=0, lt=1, description="Share of benign fine-tunes that may be flagged.")] = (
        0.01
    )
    top_k: Annotated[int, Field(ge=1, le=1000, description="Features listed, and summed by scores.")] = 20
    max_new_tokens: Annotated[int, Field(ge=1, le=1024, description="Written after a prompt, at most.")] = 32
    trigger_search: Annotated[bool, Field(description="Look for inserts that set the candidate off.")] = True
    again: Annotated[bool, Field(description="Make a finished audit anew; the old one is archived.")] = False
    title: Annotated[str | None, Field(min_length=1, max_length=200, description="Of the report.")] = None

    @field_validator("score_method")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in SCORE_METHODS:
            raise ValueError(f"there are {', '.join(SCORE_METHODS)}")
        return name

    def words(self, desk: Desk) -> list[str]:
        """Options of the command line that stand for these."""
        if self.sae is not None and self.no_sae:
            raise InputError("run_audit: sae and no_sae exclude one another.", hint="give one of them.")
        optional = {"score-method": self.score_method, "title": self.title}
        flags = {"no-sae": self.no_sae, "again": self.again, "no-trigger-search": not self.trigger_search}
        return [
            *super().words(desk),
            f"--session={desk.session}",
            f"--target-fpr={self.target_fpr!r}",
            f"--top-k={self.top_k}",
            f"--max-new-tokens={self.max_new_tokens}",
            *([f"--sae={sae_ref(self.sae, desk.base)}"] if self.sae is not None else []),
            *(f"--{name}={value}" for name, value in optional.items() if value is not None),
            *(f"--{name}" for name, wanted in flags.items() if wanted),
        ]


class FindTrigger(_Models):
    """Of ``find_trigger``."""

    top: Annotated[int, Field(ge=1, le=10, description="Inserts at most.")] = 5


async def run_audit(call: Call, given: RunAudit) -> Answer:
    """Audit, and say what was decided."""
    made = await run_command(call, ["audit", "run", *given.words(call.desk)], timeout_s=given.timeout_s)
    place = RunPlace(made["session"], made["run"])
    return decided(call.desk.audits.artefacts(place.session, place.run), place)


async def find_trigger(call: Call, given: FindTrigger) -> Answer:
    """Search for inserts alone."""
    words = ["audit", "find-trigger", *given.words(call.desk), f"--top={given.top}"]
    made: dict[str, Any] = await run_command(call, words, timeout_s=given.timeout_s)
    return Document(
        made["answer"],
        {"tried": plural(made["n_places"], "place") + " in the prompts of the suite"},
        "inserts",
        made["hits"],
    )


TOOLS: Final = (
    Tool(
        "run_audit",
        "Audit a fine-tune against its reference: does it differ more than benign fine-tunes do, and what sets it "
        "off? Takes from seconds to hours, with progress. The same call finds a finished audit again.",
        RunAudit,
        run_audit,
        runs_models=True,
    ),
    Tool(
        "find_trigger",
        "Search only for inserts that make a candidate write what its reference would not; no verdict.",
        FindTrigger,
        find_trigger,
        runs_models=True,
    ),
)
