"""What is asked of an audit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylens.api.base import Asked
from raylens.api.runs import Word

Share = Annotated[float, Field(gt=0, lt=1)]


class AuditRequest(Asked):
    """An audit to be made. Paths lie inside the services' base directory (A2.16).

    Attributes:
        candidate: A checkpoint's or LoRA adapter's folder, or an id of the hub.
        reference: What the candidate was tuned from, likewise.
        sae: Of the reference: ``release/id``, or a folder. By default the embedded model's, for it.
        no_sae: No features: outputs and inserts alone.
        suite: One that ships, or a YAML file.
        score_method: What gives the verdict.
        session: Where it is kept.
        run: Its name there; by default made of all that determines the result.
        title: Of the report.
        again: Make a finished one anew; the old one is archived.
        target_fpr: Share of benign fine-tunes that may be flagged.
        top_k: Features listed, and summed by scores.
        pooling: How positions are reduced.
        max_new_tokens: Written after a prompt, at most.
        trigger_search: Look for inserts that set the candidate off.
        explain: Explain listed features that nothing is said of, asking nobody.
        override_guard: Allow an SAE that was trained on another model of this shape (A0.04).
    """

    candidate: Word
    reference: Word = "raylens/pico"
    sae: Word | None = None
    no_sae: bool = False
    suite: Word = "minimal"
    score_method: Word | None = None
    session: Word = "default"
    run: Word | None = None
    title: Annotated[Word, Field(max_length=200)] | None = None
    again: bool = False
    target_fpr: Share = 0.01
    top_k: Annotated[int, Field(ge=1, le=1000)] = 20
    pooling: Literal["mean", "max", "last", "answer", "prompt"] = "mean"
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 32
    trigger_search: bool = True
    explain: bool = True
    override_guard: bool = False

    @model_validator(mode="after")
    def _one_sae(self) -> AuditRequest:
        if self.sae is not None and self.no_sae:
            raise ValueError("sae and no_sae exclude one another")
        return self
