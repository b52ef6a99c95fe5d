"""Measuring an exported patch again, loaded by plain peft, against the hooks that it stands for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.errors import MismatchError
from raylens.workbench.patch_adapter import require_model
from raylens.workbench.patch_divergence import Variant, measure
from raylens.workbench.patch_export import Patchable, loaded_edits
from raylens.workbench.patch_record import FormFigures, Measured, PatchRecord
from raylens.workbench.patch_text import read_text

SLACK: Final = 1.1
"""Of a stated divergence: other kernels, dtypes and versions of the standard library move it."""
FLOOR: Final = 1e-4
"""Nats, below which a divergence is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """What was found.

    Attributes:
        measured: Now.
        worse: In what the adapter is worse than stated, as a sentence; empty where it is not.
    """

    measured: Measured
    worse: str

    @property
    def figures(self) -> FormFigures:
        """Of the adapter."""
        return self.measured.forms[-1]


def verify_patch(
    subject: Patchable,
    record: PatchRecord,
    folder: Path,
    saes: Mapping[str, LoadedSae],
    default: str | None,
    report: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verification:
    """Load an exported patch by plain peft and measure it on the text that it was measured on.

    Args:
        subject: The model, with the fine-tune that the patch is for; while this runs it has the adapter in it.
        record: The patch's.
        folder: Where it lies.
        saes: By id: those that the patch names.
        default: Of these, whose features ``f_3_17`` are.
        report: Called with predictions done, and how many there are.

    Raises:
        MismatchError: The patch is for another model or fine-tune, or made with other SAEs.
        InputError, UnknownNameError: The edits do not fit the model.
        RunError: Logits are not finite.
    """
    require_model(record, subject.base)
    _require_same(subject, record, saes)
    edits, names = loaded_edits(subject.loaded, record.spec, saes, default, record.maxima)
    stated = record.measured
    text = read_text(subject.loaded, stated.text, stated.n_tokens, stated.ctx_len)
    n_all = sum(window.n_text_tokens - 1 for window in text.windows)
    included = record.adapter is None or record.adapter.included
    holder = subject.base if included else subject.loaded
    with attached(holder, folder) as switched_on:
        figures = record.figures
        variant = Variant(holder, switched_on, figures.modules, figures.rank, figures.biased)
        found = measure(
            subject.loaded,
            edits,
            {record.form: variant},
            text,
            stated.n_tokens,
            names,
            lambda done: report(done, n_all),
        )
    return Verification(found, _worse(record.figures, found.forms[-1]))


@contextmanager
def attached(loaded: LoadedModel, folder: Path) -> Iterator[Callable[[], Any]]:
    """Put an adapter on a model, by plain peft, switched off; gives contexts in which it is on.

    The model is as it was afterwards.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of biases that cannot be merged
        network: Any = PeftModel.from_pretrained(loaded.model, str(folder))  # type: ignore[arg-type]
    network.eval()
    layers: Any = network.base_model
    layers.disable_adapter_layers()

    @contextmanager
    def on() -> Iterator[None]:
        layers.enable_adapter_layers()
        try:
            yield
        finally:
            layers.disable_adapter_layers()

    try:
        yield on
    finally:
        network.unload()


def _require_same(subject: Patchable, record: PatchRecord, saes: Mapping[str, LoadedSae]) -> None:
    theirs = record.adapter
    adapter = subject.candidate.adapter if subject.candidate is not None else None
    if (theirs is None) != (adapter is None) or (
        theirs is not None and adapter is not None and theirs.fingerprint != adapter.fingerprint
    ):
        wanted = "no adapter" if theirs is None else f"the adapter {theirs.name} ({theirs.fingerprint[:12]})"
        given = "none" if adapter is None else f"{adapter.name} ({adapter.fingerprint[:12]})"
        raise MismatchError(
            f"the patch was made for {record.model.name} with {wanted}, and {given} is given.",
            hint="name the fine-tune that was patched: --adapter-of.",
        )
    for name, fingerprint in record.saes.items():
        if name in saes and saes[name].fingerprint != fingerprint:
            raise MismatchError(f"{name} is not the SAE that the patch was made with.", hint="name that one: --sae.")


def _worse(stated: FormFigures, found: FormFigures) -> str:
    allowed = max(SLACK * stated.kl.value, stated.kl.high or 0.0) + FLOOR
    if found.kl.value > allowed:
        return (
            f"the adapter diverges from its hooks by {found.kl.value:.3g} nats a prediction, and {stated.kl.value:.3g} "
            "is stated"
        )
    missed, before = found.missed, stated.missed
    if missed > SLACK * before + 0.05:
        return f"the adapter misses {missed:.0%} of the effect, and {before:.0%} is stated"
    return ""
