"""The parts of a patch's weights that are fitted to text: biases that restore a mean, and what a last MLP can predict.

* A mean: weights that only come near leave the stream at the hook point off by some vector on average. That vector,
  measured, goes into the bias of the last writer. A norm after the writer makes that approximate; it is done twice.
* ``fitted``: what an edit adds to a token lies in the span of few directions, D. Its coordinates are predicted from
  what the last MLP's writer reads, x, by ridge regression, ŷ = βᵀx + c: a change of that writer of rank |D|, with
  B = D, A = βᵀ and the bias D c. Nothing before the hook point changes, as with the hook. The penalty is the best of
  three on every second document.

Both are of the text that they are fitted to: what happens elsewhere (a trigger) they may do badly, which is why
effects are measured beside divergences. Special tokens (BOS) are left out of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Final

import torch
from torch import Tensor, nn

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.stream_writers import Writer
from raylens.engine.text_windows import Batch
from raylens.errors import RunError
from raylens.ids import HookPoint
from raylens.workbench.edits import LoadedEdit, edited
from raylens.workbench.feature_activation import direction
from raylens.workbench.patch_factors import Changes, Factors, applied, for_stream
from raylens.workbench.patch_forms import assembled, last_mlp, require_last_writer, why_not_exact
from raylens.workbench.patch_text import PatchText, states

PENALTIES: Final = (1e-3, 1e-2, 1e-1)
"""Of the ridge regression, in mean variances of what is read."""
WIDEST: Final = 16_384
"""Inputs of a writer that is fitted: the normal equations hold the square of that."""

Context = Callable[[], AbstractContextManager[None]]


def with_means(loaded: LoadedModel, edits: Sequence[LoadedEdit], changes: Changes, text: PatchText) -> Changes:
    """Weights with biases that give the stream, at each edit's point, the mean that the edits give it.

    Args:
        loaded: The model.
        edits: In forward order.
        changes: To begin with; may be empty.
        text: To measure means on.
    """
    for hook, _ in _by_point(edits):
        writer = require_last_writer(loaded, hook)
        name = _name(loaded, writer)
        for _ in range(1 if writer.gain is None else 2):
            wanted, _ = _mean(loaded, text, lambda: edited(loaded, edits), hook, writer)
            found, rms = _mean(loaded, text, lambda now=changes: applied(loaded, now), hook, writer)
            bias = for_stream(writer, wanted - found) * (1.0 if writer.gain is None else rms)
            changes = joined(changes, {name: _only_bias(writer, bias.float())})
    return changes


def fitted(loaded: LoadedModel, edits: Sequence[LoadedEdit], text: PatchText) -> Changes | None:
    """Weights of last MLPs that predict what edits do; None where a point has no such writer, or too wide a one.

    Edits with an exact form keep that.

    Args:
        loaded: The model.
        edits: In forward order.
        text: To fit to.
    """
    exact = [edit for edit in edits if not why_not_exact(loaded, edit)]
    changes = assembled(loaded, exact) if exact else {}
    before: list[LoadedEdit] = []
    for hook, some in _by_point(edits):
        others = [edit for edit in some if why_not_exact(loaded, edit)]
        writer = last_mlp(loaded, hook)
        if others and (writer is None or writer.weight.shape[1] > WIDEST):
            return None
        if others and writer is not None:
            known = before + [edit for edit in some if edit not in others]
            own = _regressed(loaded, text, hook, writer, known, before + some, _span(others))
            changes = joined(changes, {_name(loaded, writer): own})
        before += some
    return changes


def joined(first: Changes, second: Changes) -> Changes:
    """Both, on every module of either."""
    both = {name: first[name].joined(second[name]) for name in first if name in second}
    return {**first, **second, **both}


def _regressed(
    loaded: LoadedModel,
    text: PatchText,
    hook: HookPoint,
    writer: Writer,
    before: Sequence[LoadedEdit],
    after: Sequence[LoadedEdit],
    span: Tensor,
) -> Factors:
    """What ``after`` does more than ``before``, in the span of its columns ``[d_model, k]``, from what is read."""
    sums = [_Sums(), _Sums()]
    coordinates = torch.linalg.pinv(span.double()).float()
    for batch in text.batches(loaded):
        with _seen(writer) as seen:
            without = states(loaded, batch, edited(loaded, before), [hook])[hook]
        read = _text_rows(batch, seen[0][0])
        more = states(loaded, batch, edited(loaded, after), [hook])[hook] - without
        wanted = (more @ coordinates.T.to(more.device)).to(read.device)
        odd = torch.tensor([window.doc_id % 2 for window in batch.windows], dtype=torch.bool)
        odd = odd[:, None].expand_as(batch.text)[batch.text].to(read.device)
        for side, rows in zip(sums, (~odd, odd), strict=True):
            side.add(read[rows], wanted[rows])
    with memory_advice("fitting a patch", loaded.device):
        beta, constant = _ridge(*sums)
    scale = 1 / writer.factor
    return Factors(beta.T.cpu(), span.cpu() * scale, span.cpu() @ constant.cpu() * scale)


class _Sums:
    """What a regression of y on x needs, with a column of ones at the end of x."""

    def __init__(self) -> None:
        self.n = 0
        self.xx: Tensor | float = 0.0
        self.xy: Tensor | float = 0.0
        self.yy: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self.n += len(x)
        self.xx, self.xy, self.yy = self.xx + x.T @ x, self.xy + x.T @ y, self.yy + y.square().sum()


def _ridge(first: _Sums, second: _Sums) -> tuple[Tensor, Tensor]:
    """β ``[inputs, k]`` and c ``[k]`` of all, with the penalty that does best on the second part after the first."""
    best = PENALTIES[1]
    if first.n and second.n:
        losses = {one: _squared_error(second, _solved(first, one)) for one in PENALTIES}
        best = min(losses, key=lambda one: losses[one])
    both = _Sums()
    both.n, both.xx, both.xy = first.n + second.n, first.xx + second.xx, first.xy + second.xy
    found = _solved(both, best)
    if not bool(torch.isfinite(found).all()):
        raise RunError("the fit of a patch gives no finite numbers.", hint="name more text to fit to.")
    return found[:-1], found[-1]


def _solved(sums: _Sums, penalty: float) -> Tensor:
    assert isinstance(sums.xx, Tensor)
    assert isinstance(sums.xy, Tensor)
    diagonal = sums.xx.diagonal()
    weights = torch.full_like(diagonal, penalty * float(diagonal[:-1].mean()) + 1e-12)
    weights[-1] = 1e-6 * sums.n  # the constant is not kept small
    return torch.linalg.solve(sums.xx + weights.diag(), sums.xy)


def _squared_error(sums: _Sums, beta: Tensor) -> float:
    assert isinstance(sums.xx, Tensor)
    assert isinstance(sums.xy, Tensor)
    return float(sums.yy - 2 * (beta * sums.xy).sum() + (beta * (sums.xx @ beta)).sum())


def _span(edits: Sequence[LoadedEdit]) -> Tensor:
    """Directions that edits move a token along, as columns of length 1: float32 ``[d_model, k]``."""
    columns = []
    for edit in edits:
        row = edit.vector if edit.sae is None else direction(edit.sae, edit.feature)
        assert row is not None
        columns.append(nn.functional.normalize(row.float().cpu(), dim=0))
    return torch.stack(columns, dim=1)


def _mean(
    loaded: LoadedModel, text: PatchText, context: Context, hook: HookPoint, writer: Writer
) -> tuple[Tensor, float]:
    """Of the stream at a point, ``[d_model]``, and the root mean square of what its last writer gives."""
    total, n, squares = torch.zeros(loaded.d_model, dtype=torch.float64), 0, 0.0
    for batch in text.batches(loaded):
        with context(), _seen(writer) as seen:
            found = states(loaded, batch, nullcontext(), [hook])[hook]
        total += found.sum(dim=0).cpu().double()
        given = _text_rows(batch, seen[0][1])
        squares += float(given.square().mean(dim=-1).sqrt().sum())
        n += len(found)
    return total / max(n, 1), squares / max(n, 1)


@contextmanager
def _seen(writer: Writer) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What a writer reads and gives in passes of this block, changes that are hooked in before included."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((args[0], output))

    handle = writer.module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _text_rows(batch: Batch, values: Tensor) -> Tensor:
    """Of text tokens, ``[tokens, width]`` float32, of ``[rows, positions, width]``."""
    return values.reshape(*batch.text.shape, -1)[batch.text.to(values.device)].float()


def _only_bias(writer: Writer, bias: Tensor) -> Factors:
    n_out, n_in = writer.weight.shape
    return Factors(torch.zeros(0, n_in), torch.zeros(n_out, 0), bias)


def _by_point(edits: Sequence[LoadedEdit]) -> list[tuple[HookPoint, list[LoadedEdit]]]:
    return [(hook, list(some)) for hook, some in groupby(edits, key=lambda edit: edit.hook)]


def _name(loaded: LoadedModel, writer: Writer) -> str:
    return next(name for name, module in loaded.model.named_modules() if module is writer.module)
