"""Which weights a list of edits has: exact ones where there are, and else those that come near.

Exact are a vector that is added on all tokens (a bias of the last writer before the point) and directional ablation of
what one sublayer gives (rank 1 on its writer). Nothing else is, for these reasons:

* The residual stream at a point is a sum over the embedding and all writers before it. To project a direction out of
  the sum, every one of them would have to be projected; those before the last are read on the way, which the hook
  leaves alone, and an embedding that is tied is the unembedding too.
* How strongly a feature fires is no linear function of what the writers read, and that it does not fire even less.
* An adapter acts on every token.

What comes near, one or more of:

=================  =================================================================================================
form               what is done
=================  =================================================================================================
``writers``        the direction is projected out of every writer before the point
``last_4``         the same of the last four blocks before it only; so 2, 8, 16 and 32
``oblique``        u (w · o) is taken off every writer's output, u the feature's decoder and w its encoder direction;
                   it leaves out the SAE's bias, threshold and rivals; ``oblique_2``, of the last two blocks only
``embeddings``     as ``writers``, and of the embedding, where it is untied
``…+mean``         besides, the last writer gets a bias, so that the stream has the mean that the hook gives it
``fitted``         what the hook does, predicted by least squares from what the last MLP's writer reads
=================  =================================================================================================

The last two are fitted to text (:mod:`raylens.workbench.patch_fit`). All are this project's own, ``writers`` apart
(weight orthogonalisation, Arditi et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from raylens.engine.load import LoadedModel
from raylens.engine.saes import LoadedSae
from raylens.engine.stream_writers import MLP, Writer, reach, writers
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint
from raylens.workbench.edits import LoadedEdit, require_editable
from raylens.workbench.feature_activation import direction
from raylens.workbench.patch_factors import Changes, Factors, OutputChange

Reads = Literal["direction", "encoder"]

_STAGES: Final = ("resid_pre", "attn_out", "attn_out_post", "resid_mid", "mlp_out", "mlp_out_post", "resid_post")
_AFTER_NORM: Final = ("attn_out_post", "mlp_out_post")


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """Weights that stand for edits.

    Attributes:
        name: See the module's table; ``exact`` of exact ones.
        changes: By module.
    """

    name: str
    changes: Changes


def in_forward_order(loaded: LoadedModel, edits: Sequence[LoadedEdit]) -> list[LoadedEdit]:
    """As a pass comes to them; at one point in their own order.

    Raises:
        MismatchError: A point is none of the residual stream, or an edit of another width.
        InputError: It cannot be changed.
        UnknownNameError: The model has no such point.
    """
    for edit in edits:
        require_editable(loaded, edit)
        width = edit.sae.spec.d_in if edit.sae is not None else len(edit.vector) if edit.vector is not None else 0
        if width != loaded.d_model:
            raise MismatchError(
                f"an edit at {edit.hook} is {width} wide, and {loaded.name} is {loaded.d_model}.",
                hint="it was made for another model.",
            )

    def key(edit: LoadedEdit) -> tuple[int, str, int]:
        place, _ = reach(loaded, edit.hook)
        name = edit.hook.name if edit.hook.name in _STAGES else "resid_post"
        return *place, _STAGES.index(name)

    return sorted(edits, key=key)


def on_every_token(edits: Sequence[LoadedEdit]) -> list[LoadedEdit]:
    """The same edits without a choice of tokens by place, which no weights can make."""
    return [replace(edit, where="all") if edit.where in ("prompt", "generated") else edit for edit in edits]


def why_not_exact(loaded: LoadedModel, edit: LoadedEdit) -> str:
    """Why no weights do what an edit does, as half a sentence; empty where some do.

    Raises:
        MismatchError: The point is none of the residual stream.
    """
    if edit.where in ("prompt", "generated"):
        those = "of the prompt" if edit.where == "prompt" else "that are written"
        return f"an adapter acts on every token, and the edit on those {those}"
    if edit.where == "firing" or edit.method in ("clamp", "ablate"):
        return "whether and how strongly a feature fires is no linear function of what is read"
    if edit.method == "add" and edit.sae is not None and not constant_scale(edit.sae):
        return f"{edit.sae.id} scales what it writes by the norm of each token"
    place, whole = reach(loaded, edit.hook)
    last = last_writer(loaded, edit.hook)
    if edit.hook.name == "resid_mid":
        return f"{edit.hook} is edited where the MLP reads it, and the stream beside the MLP goes on as it was"
    if last is None or last.place != place:
        return f"what writes last before {edit.hook} is no single matrix"
    if last.gain is not None and (whole or edit.hook.name in _AFTER_NORM):
        return f"{loaded.name} norms what is written before it is added to the stream"
    if edit.method == "project_out" and whole:
        return (
            f"{edit.hook} holds what the embedding and every block before it wrote, and earlier blocks read that, "
            "which the hook leaves as it is"
        )
    return ""


def assembled(
    loaded: LoadedModel, edits: Sequence[LoadedEdit], reads: Reads = "direction", last_blocks: int | None = None
) -> Changes:
    """Weights for edits; exact where each has an exact form, and then ``reads`` and ``last_blocks`` do not count.

    Args:
        loaded: The model.
        edits: In forward order, each on all tokens or where its feature fires.
        reads: What is taken off by how far a feature fires: what lies along its decoder direction, or what its
            encoder reads.
        last_blocks: Only writers of so many blocks before a point; None for all.

    Raises:
        InputError: Nothing writes before a point, or weights are quantized.
    """
    changes: dict[tuple[int, str], OutputChange] = {}
    found = {writer.place: writer for layer in range(loaded.n_layers) for writer in writers(loaded, layer)}
    for edit in edits:
        last = require_last_writer(loaded, edit.hook)
        place, whole = reach(loaded, edit.hook)
        pair, constant = taken_off(edit, reads), added(edit)
        in_stream = whole or edit.hook.name in _AFTER_NORM
        for at in sorted(found):
            near = last_blocks is None or at[0] > last.layer - last_blocks
            if pair is not None and ((at <= place and near) if whole else at == place):
                changes.setdefault(at, OutputChange(found[at])).take_off(*pair, in_stream=in_stream)
        if constant is not None:
            changes.setdefault(last.place, OutputChange(last)).add(constant, in_stream=in_stream)
    names = {id(module): name for name, module in loaded.model.named_modules()}
    return {names[id(found[at].module)]: change.factors() for at, change in sorted(changes.items())}


def with_embedding(loaded: LoadedModel, edits: Sequence[LoadedEdit], changes: Changes) -> Changes | None:
    """Directions projected out of the embedding too; None where that is no form.

    That is so where it is tied, is scaled on its way into the stream, or where biases are needed, which peft does not
    have beside an embedding.
    """
    network: Any = loaded.model
    embed, unembed = network.get_input_embeddings(), network.get_output_embeddings()
    pairs = [taken_off(edit, "direction") for edit in edits if reach(loaded, edit.hook)[1]]
    tied = unembed is None or embed.weight is unembed.weight
    if tied or type(embed) is not nn.Embedding or any(one.bias is not None for one in changes.values()):
        return None
    if not pairs or any(pair is None for pair in pairs) or len(pairs) != len(edits):
        return None
    table = embed.weight.detach().cpu().double()
    a, b = [], []
    for pair in pairs:
        assert pair is not None
        u, w = (one.detach().cpu().double() for one in pair)
        a.append(table @ w + sum((w @ one) * row for one, row in zip(b, a, strict=True)))
        b.append(-u)
    name = next(name for name, module in loaded.model.named_modules() if module is embed)
    return {**changes, name: Factors(torch.stack(a).float(), torch.stack(b, dim=1).float())}


def taken_off(edit: LoadedEdit, reads: Reads) -> tuple[Tensor, Tensor] | None:
    """``u`` and ``w`` of what an edit takes off, ``u (w · h)``; None of one that only adds."""
    if edit.method == "add":
        return None
    if edit.sae is None:
        assert edit.vector is not None
        return edit.vector, edit.vector
    row = edit.sae.sae.W_dec[edit.feature].float()
    unit = row / row.norm()
    if reads == "direction" or edit.method == "project_out":
        return unit, unit
    return direction(edit.sae, edit.feature).float(), _encoder(edit.sae, edit.feature)


def added(edit: LoadedEdit) -> Tensor | None:
    """The vector that an edit adds on every token, ``[d_model]`` float32; None where it adds none, or not on every."""
    if edit.where == "firing" or edit.method not in ("add", "clamp"):
        return None
    if edit.sae is None:
        assert edit.vector is not None
        return edit.value * edit.vector
    return edit.value * direction(edit.sae, edit.feature).float() if constant_scale(edit.sae) else None


def constant_scale(sae: LoadedSae) -> bool:
    """Whether a unit of activation adds the same vector to every token."""
    return sae.sae.cfg.normalize_activations in ("none", "expected_average_only_in")


def last_writer(loaded: LoadedModel, hook: HookPoint) -> Writer | None:
    """The last one before a point, or of the sublayer that it is of; None where there is none."""
    place, whole = reach(loaded, hook)
    return next(
        (one for one in _backwards(loaded, place[0]) if (one.place <= place if whole else one.place == place)), None
    )


def require_last_writer(loaded: LoadedModel, hook: HookPoint) -> Writer:
    """Likewise.

    Raises:
        InputError: There is none.
    """
    last = last_writer(loaded, hook)
    if last is None:
        raise InputError(
            f"no matrix of a block of {loaded.name} writes before {hook}, so that no adapter stands for an edit there.",
            hint="edit a point after a block: resid_post.N.",
        )
    return last


def last_mlp(loaded: LoadedModel, hook: HookPoint) -> Writer | None:
    """The writer that a fitted form is of: the last before a point of the stream, where no norm follows it."""
    last = last_writer(loaded, hook)
    return last if last is not None and last.kind == MLP and last.gain is None and reach(loaded, hook)[1] else None


def _backwards(loaded: LoadedModel, layer: int) -> Iterator[Writer]:
    for one in range(min(layer, loaded.n_layers - 1), -1, -1):
        yield from reversed(list(writers(loaded, one)))


def _encoder(sae: LoadedSae, feature: int) -> Tensor:
    """What a feature's activation grows by along each input, where it fires and inputs are not normalised."""
    model: Any = sae.sae
    column = model.W_enc[:, feature].float()
    if getattr(model.cfg, "rescale_acts_by_decoder_norm", False):
        column = column * sae.decoder_norms[feature].float()
    if model.cfg.architecture() == "gated":
        column = column * model.r_mag[feature].exp().float()
    return column
