"""The actor of ``raylens provenance``: holds a model and its SAEs, and follows a feature back in one text at a time."""

from __future__ import annotations

import os

import torch

from raylens.api.provenance import Provenance
from raylens.engine.dedicated import dedicate
from raylens.errors import InputError
from raylens.workbench.followed_text import feature_values
from raylens.workbench.provenance import provenance
from raylens_jobs.processes import this_process
from raylens_jobs.provenance_plan import ProvenancePlan


class ProvenanceActor:
    """Runs a model with SAEs.

    Args:
        plan: What to load, and which feature.
        threads: CPU threads.
    """

    def __init__(self, plan: ProvenancePlan, threads: int) -> None:
        dedicate(threads)
        visible = torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        self._plan = plan
        self._loaded, self._saes = plan.load("cpu" if plan.config.device == "auto" and not visible else None)

    def follow(self, ids: list[int], token: int) -> Provenance | None:
        """The feature on a token of a text; None where it does not fire there.

        What was cached may have been read in another precision, or by another model.
        """
        plan = self._plan
        try:
            return provenance(
                self._loaded,
                self._saes,
                plan.target,
                ids,
                token,
                top=plan.config.top,
                integrated=plan.config.integrated,
            )
        except InputError:
            if feature_values(self._loaded, self._saes[0], plan.target.index, ids)[token] > 0:
                raise
            return None

    def process(self) -> str:
        """Where this runs, for :func:`raylens_jobs.processes.await_exit`."""
        return this_process()
