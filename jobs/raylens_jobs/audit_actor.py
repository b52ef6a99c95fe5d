"""The actor of audits: holds reference, candidate and SAE, and does one piece of an audit at a time.

Every answer is bytes, or JSON values: the driver keeps them as they come, so that an interrupted audit goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from raylens.audit.slots import Place
from raylens.engine.candidates import load_candidate
from raylens.engine.dedicated import dedicate
from raylens.engine.generation import generate
from raylens.engine.insert_scan import drive, pieces, pieces_for, scan_inserts
from raylens.engine.insert_trials import continuation_log_probs
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.prompt_reading import read_prompts
from raylens.engine.readings import PromptReading, PromptTokens, from_bytes, to_bytes
from raylens.engine.sae_choice import SaeChoice
from raylens.engine.trigger_search import Hit, Scan, SearchSettings, grow, try_place
from raylens.engine.weight_projection import weight_projection
from raylens.errors import InputError, RaylensError
from raylens_jobs.audit_forms import Form
from raylens_jobs.processes import this_process

Who = Literal["reference", "candidate"]


@dataclass(frozen=True, slots=True)
class Subjects:
    """What an actor loads, small enough to send.

    Attributes:
        reference: As :func:`raylens.engine.load.load_model` takes it.
        revision: Of the reference.
        dtype: Likewise.
        device: Likewise.
        sae: None for no features.
    """

    reference: str
    revision: str | None
    dtype: str
    device: str
    sae: SaeChoice | None


class FineTune(NamedTuple):
    """A candidate as it was when it was asked for.

    Attributes:
        ref: As :func:`raylens.engine.candidates.load_candidate` takes it.
        revision: What it has to be; None for whatever it is.
    """

    ref: str
    revision: str | None


class AuditActor:
    """Runs models for an audit.

    Args:
        subjects: What to load.
        threads: CPU threads.
    """

    def __init__(self, subjects: Subjects, threads: int) -> None:
        dedicate(threads)
        self._reference = load_model(
            subjects.reference, revision=subjects.revision, dtype=subjects.dtype, device=subjects.device
        )
        self._sae = subjects.sae.load(str(self._reference.device)) if subjects.sae else None
        self._candidate: tuple[FineTune, LoadedModel] | None = None
        self._pieces: list[str] | None = None

    def complete(
        self, who: Who, candidate: FineTune, forms: Sequence[Form], max_new_tokens: int
    ) -> list[dict[str, Any]]:
        """What a model writes after each form: ``text``, ``ids`` and ``stopped``."""
        model = self._model(who, candidate)
        made = generate(model, [form.ids for form in forms], max_new_tokens)
        return [
            {"text": str(model.tokenizer.decode(list(one.ids))), "ids": list(one.ids), "stopped": one.stopped}
            for one in made
        ]

    def read(
        self,
        who: Who,
        candidate: FineTune,
        forms: Sequence[Form],
        answers: Sequence[Sequence[int]],
        reference: bytes | None,
    ) -> bytes:
        """Codes of each prompt with its answer, and its next tokens (or how far they are from the reference's)."""
        model = self._model(who, candidate)
        texts = [PromptTokens((*form.ids, *answer), len(form.ids)) for form, answer in zip(forms, answers, strict=True)]
        tops = None
        if reference is not None:
            tops = [one.next_tokens for one in from_bytes(reference) if one.next_tokens is not None]
        return to_bytes(read_prompts(model, self._sae, texts, tops))

    def scan(self, who: Who, candidate: FineTune, place: Place) -> bytes:
        """What comes next after each single token at a place."""
        model = self._model(who, candidate)
        return to_bytes([PromptReading(None, next_tokens=scan_inserts(model, place.scan, self._inserts(place)))])

    def search(
        self,
        candidate: FineTune,
        place: Place,
        of_reference: bytes,
        of_candidate: bytes,
        settings: SearchSettings,
    ) -> list[dict[str, Any]]:
        """Inserts at a place, tried: rows for :func:`raylens_jobs.audit_evidence`."""
        model = self._model("candidate", candidate)
        scan = self._scanned(place, of_reference, of_candidate)
        grown = grow(model, scan, settings)
        return [self._row(hit) for hit in try_place(model, self._reference, scan, grown, settings)]

    def hit_features(self, candidate: FineTune, place: Place, insert: str, k: int) -> list[tuple[int, float]]:
        """Features that fire on an insert more in the candidate, with how much more: the largest mean differences.

        Means are over prompts of the largest activation in each; what differs without the insert is taken off.
        """
        if self._sae is None:
            return []
        texts = [slot.text(insert) for slot in place.trials], [slot.bare for slot in place.trials]
        rises = []
        for side in texts:
            ids = self._reference.tokenizer(side, add_special_tokens=False)["input_ids"]
            assert isinstance(ids, list)
            prompts = [PromptTokens((*self._reference.prefix_ids, *row)) for row in ids]
            means = [self._largest(model, prompts) for model in (self._model("candidate", candidate), self._reference)]
            rises.append(means[0] - means[1])
        risen = rises[0] - rises[1]
        order = np.argsort(-risen, kind="stable")[:k]
        return [(int(feature), float(risen[feature])) for feature in order if risen[feature] > 0]

    def losses(self, who: Who, candidate: FineTune, windows: Sequence[Sequence[int]]) -> list[float]:
        """Nats of each window, its first token given."""
        found = continuation_log_probs(self._model(who, candidate), [(window[:1], window[1:]) for window in windows])
        return [-float(value) for value in found]

    def weight_projection(self, candidate: FineTune) -> dict[str, Any]:
        """The score of :mod:`raylens.engine.weight_projection`, or why there is none."""
        if self._sae is None:
            return {"score": None, "note": "it takes an SAE"}
        try:
            found = weight_projection(self._reference, self._model("candidate", candidate), self._sae)
        except RaylensError as error:
            return {"score": None, "note": str(error)}
        top = ", ".join(f"{one.index} ({one.side})" for one in found.top[:5])
        return {"score": found.score, "note": f"largest on features {top}" if top else "no such weight differs"}

    def difference_sae(
        self, candidate: FineTune, forms: Sequence[Form], more: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        """The score of :mod:`raylens.engine.difference_sae`, at the hook of the SAE."""
        # It trains with sae-lens, which takes longer to import than all else here; one actor of an audit needs it.
        from raylens.engine.difference_sae import activation_differences, difference_sae, read_activations

        if self._sae is None:
            return {"score": None, "note": "it takes the hook of an SAE"}
        hook = self._sae.spec.hook
        sides = []
        for model in (self._reference, self._model("candidate", candidate)):
            texts = [PromptTokens(form.ids) for form in forms], [PromptTokens(tuple(ids)) for ids in more]
            sides.append([read_activations(model, hook, some) for some in texts])
        prompts, others = (
            activation_differences(before, after) for before, after in zip(sides[0], sides[1], strict=True)
        )
        found = difference_sae(prompts, more=others, device=self._reference.device)
        return {"score": found.value, "note": f"FVU {found.fvu:.3f} at L0 {found.l0:.1f}"}

    def tokens(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Each token as people read it."""
        from raylens.engine.load import token_strings

        return [token_strings(self._reference.tokenizer, list(row)) for row in rows]

    def decoder(self) -> np.ndarray[Any, Any] | None:
        """Decoder rows ``[d_sae, d_in]`` as float32."""
        return None if self._sae is None else self._sae.sae.W_dec.detach().float().cpu().numpy()

    def process(self) -> str:
        """Where this runs, for :func:`raylens_jobs.processes.await_exit`."""
        return this_process()

    def _model(self, who: Who, candidate: FineTune) -> LoadedModel:
        if who == "reference":
            return self._reference
        if self._candidate is None or self._candidate[0] != candidate:
            self._candidate = None  # let go of the last one first
            loaded = load_candidate(candidate.ref, self._reference)
            if candidate.revision not in (None, loaded.revision):
                raise InputError(
                    f"the files of {candidate.ref} have changed since the audit began.", hint="start the audit again."
                )
            self._candidate = (candidate, loaded)
        return self._candidate[1]

    def _inserts(self, place: Place) -> list[str]:
        if self._pieces is None:
            self._pieces = pieces(self._reference)
        return pieces_for(place, self._pieces)

    def _scanned(self, place: Place, reference: bytes, candidate: bytes) -> Scan:
        sides = []
        for blob in (reference, candidate):
            found = from_bytes(blob)[0].next_tokens
            assert found is not None
            sides.append(found)
        return Scan(place, tuple(self._inserts(place)), drive(sides[1], sides[0]), sides[0])

    def _row(self, hit: Hit) -> dict[str, Any]:
        trial = hit.trial
        count = len(self._reference.tokenizer(hit.insert, add_special_tokens=False)["input_ids"])
        return {
            "slot": hit.place,
            "text": hit.insert,
            "n_tokens": count,
            "score": hit.score,
            "writes": trial.writes,
            "writes_without": trial.writes_without,
            "share": trial.share,
            "share_without": trial.share_without,
            "n_prompts": len(trial.per_prompt),
        }

    def _largest(self, model: LoadedModel, prompts: Sequence[PromptTokens]) -> np.ndarray[Any, Any]:
        assert self._sae is not None
        total = np.zeros(self._sae.d_sae)
        for reading in read_prompts(model, self._sae, prompts):
            assert reading.codes is not None
            largest = np.zeros(self._sae.d_sae)
            np.maximum.at(largest, reading.codes.feature, reading.codes.activation)
            total += largest
        return total / max(1, len(prompts))
