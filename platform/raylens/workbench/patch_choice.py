"""Which forms of a patch are tried, and which one is taken.

The best: of the forms that miss at most a quarter of the effect on each target, the one with the least divergence from
the hooks; where none does, the one that misses least. One with biases has to be a tenth nearer: peft cannot merge it
into modules that have none. Divergence alone would choose what does nearly nothing, wherever
ordinary text hardly touches what is edited: on the backdoored sample adapter of the bundle, least divergence leaves
the backdoor in (docs/patches.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from raylens.engine.load import LoadedModel
from raylens.errors import UnknownNameError
from raylens.workbench.edits import LoadedEdit
from raylens.workbench.patch_fit import fitted, with_means
from raylens.workbench.patch_forms import Form, assembled, on_every_token, require_last_writer, with_embedding
from raylens.workbench.patch_record import FormFigures, Measured
from raylens.workbench.patch_text import PatchText

EXACT: Final = "exact"
MOST_MISSED: Final = 0.25
"""Of the effect on a target, by a form that divergence decides about."""
_WORTH_A_BIAS: Final = 1.1

_BLOCKS: Final = (2, 4, 8, 16, 32)


def exact_form(loaded: LoadedModel, edits: Sequence[LoadedEdit]) -> Form:
    """Of edits that all have one, in forward order."""
    return Form(EXACT, assembled(loaded, edits))


def near_forms(
    loaded: LoadedModel,
    edits: Sequence[LoadedEdit],
    fit_text: PatchText,
    report: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Form]:
    """Forms that come near edits.

    Args:
        loaded: The model.
        edits: In forward order.
        fit_text: To fit biases and predictions to.
        report: Called with how many are fitted, and of how many.

    Raises:
        InputError: Nothing writes before a point, or weights are quantized.
        OutOfMemoryError: A pass does not fit.
    """
    edits = on_every_token(edits)
    plain = plain_forms(loaded, edits)
    found = list(plain)
    n_steps = len(plain) + 1
    for done, form in enumerate(plain):
        report(done, n_steps)
        found.append(Form(f"{form.name}+mean", with_means(loaded, edits, form.changes, fit_text)))
    if not plain:
        found.append(Form("mean", with_means(loaded, edits, {}, fit_text)))
    predicted = fitted(loaded, edits, fit_text)
    if predicted is not None:
        found.append(Form("fitted", predicted))
    report(n_steps, n_steps)
    return found


def is_fitted(name: str) -> bool:
    """Whether a form of that name depends on the text that it was fitted to."""
    return name.endswith(("mean", "fitted"))


def choose(measured: Measured, name: str | None = None) -> FormFigures:
    """The form that is written: the one that is named, or the best by the module's rule.

    Raises:
        UnknownNameError: There is no such form.
    """
    forms = measured.forms[1:]  # the first is the untouched model
    if name is not None:
        found = next((form for form in forms if form.name == name), None)
        if found is None:
            raise UnknownNameError.among("form", name, [form.name for form in forms])
        return found
    reaching = [form for form in forms if form.missed <= MOST_MISSED]
    if reaching:
        best = min(reaching, key=lambda form: form.kl.value)
        near = [form for form in reaching if not form.biased and form.kl.value <= _WORTH_A_BIAS * best.kl.value]
        return min(near, key=lambda form: form.kl.value, default=best)
    return min(forms, key=lambda form: (form.missed, form.kl.value))


def plain_forms(loaded: LoadedModel, edits: Sequence[LoadedEdit]) -> list[Form]:
    """Forms that come near edits, in forward order, and are fitted to no text.

    Raises:
        InputError: Nothing writes before a point, or weights are quantized.
    """
    edits = on_every_token(edits)
    deepest = max(require_last_writer(loaded, edit.hook).layer for edit in edits) + 1
    made = [Form("writers", assembled(loaded, edits))]
    made += [Form(f"last_{n}", assembled(loaded, edits, last_blocks=n)) for n in _BLOCKS if n < deepest]
    if any(edit.method in ("clamp", "ablate") for edit in edits):
        made.append(Form("oblique", assembled(loaded, edits, "encoder")))
        made += [Form("oblique_2", assembled(loaded, edits, "encoder", 2))] if deepest > 2 else []
    whole = with_embedding(loaded, edits, made[0].changes)
    if whole is not None:
        made.append(Form("embeddings", whole))
    return [form for form in made if form.changes]
