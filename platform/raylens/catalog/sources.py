"""Where labels live: Neuronpedia source ids, and whether one belongs to an SAE.

A Neuronpedia id is ``<model>/<source>``, a source ``<layer>-<words>``: ``gemma-2-2b/20-gemmascope-res-16k``.
Taking another SAE's labels is silent and total nonsense (feature 17 there is not feature 17 here), so
everything an id says is compared with what is known of the SAE.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from raylens.catalog.reading import source_width
from raylens.errors import InputError
from raylens.ids import HookPoint

_SOURCE: Final = re.compile(r"([^/\s]+)/(?:([0-9]+|e)-)?([^/\s]+)")
_WORDS: Final = re.compile(r"(?:^|[-_])(res|resid|att|attn|mlp|transcoder|clt)(?=[-_]|$)")
_L0: Final = re.compile(r"__l0-([0-9]+)$")
_READS: Final = {
    "res": frozenset({"resid_pre", "resid_mid", "resid_post"}),
    "resid": frozenset({"resid_pre", "resid_mid", "resid_post"}),
    "att": frozenset({"z", "attn_out", "attn_out_post"}),
    "attn": frozenset({"z", "attn_out", "attn_out_post"}),
    "mlp": frozenset({"mlp_out", "mlp_out_post", "mlp_in", "mlp_act"}),
    "transcoder": frozenset({"mlp_in", "resid_mid"}),
    "clt": frozenset({"mlp_in", "resid_mid"}),
}

_AFTER_LAST: Final = frozenset({("openai-community/gpt2", 12)})
"""Models and numbers of blocks, where Neuronpedia numbers a residual source by the block it would enter."""


@dataclass(frozen=True, slots=True)
class LabelSource:
    """What a Neuronpedia id says; each part None where it does not."""

    model: str
    layer: int | None
    kind: str | None
    width: int | None
    l0: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<model>/<source>``.

        Raises:
            InputError: it is not of that form.
        """
        match = _SOURCE.fullmatch(text)
        if not match:
            raise InputError(
                f"{text!r} is not a label source.", hint="write <model>/<source>, as gemma-2-2b/20-gemmascope-res-16k."
            )
        kind = _WORDS.search(match[3])
        l0 = _L0.search(match[3])
        # Neuronpedia writes e for the embedding, which is what enters block 0.
        layer = None if match[2] is None else 0 if match[2] == "e" else int(match[2])
        return cls(match[1], layer, kind[1] if kind else None, source_width(text), int(l0[1]) if l0 else None)


def label_problem(
    source: LabelSource,
    *,
    model: str,
    canonical: Callable[[str], str],
    layer: int | None,
    hook: HookPoint | None,
    width: int | None,
    l0: int | None = None,
) -> str | None:
    """What ``source`` says that is not true of the SAE, as the end of a sentence; None where all fits.

    Unknown on either side is no problem.

    Args:
        source: What the Neuronpedia id says.
        model: Model the SAE was trained on, canonical.
        canonical: Gives a model's one name.
        layer: The SAE's layer.
        hook: The tensor it reads.
        width: Its number of latents.
        l0: Latents active a token, where its id states them.
    """
    if canonical(source.model) != canonical(model):
        return f"is of model {canonical(source.model)}, not {canonical(model)}"
    if source.layer is not None and layer is not None and source.layer != layer:
        # A source numbered like a block after the last is what leaves the last: gpt2-small/12-res-jb.
        leaves = (canonical(model), source.layer) in _AFTER_LAST and hook == HookPoint("resid_post", source.layer - 1)
        if not leaves:
            return f"is of layer {source.layer}, not {layer}"
    if source.kind and hook is not None and not hook.is_module_path and hook.name not in _READS[source.kind]:
        return f"is of {source.kind} activations, not {hook.name}"
    if source.width and width and source.width != width:
        return f"has {source.width} features, not {width}"
    if source.l0 is not None and l0 is not None and source.l0 != l0:
        return f"is of the SAE with an L0 of {source.l0}, not {l0}"
    return None
