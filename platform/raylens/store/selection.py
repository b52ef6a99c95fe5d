"""Which cache, SAE and feature a name means, for the command line, HTTP and tools alike.

Reading guesses only where there is one answer. ``f_3_17`` names a feature of every SAE on layer 3 that is wide
enough, in every cache that holds one: where that is more than one feature, the error lists them (A0.16).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId, ShortFeature
from raylens.store.workspace import CacheStore, Workspace

_LAYER = re.compile(r"(?:^|[^a-z])(?:layer|blocks|l)[_.]?([0-9]+)(?![0-9])")
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Readable:
    """One SAE of one merged cache.

    Attributes:
        cache_id: Which cache.
        name: The name it was given, or empty.
        sae: Which SAE.
        layer: The layer it reads; None where neither its hook point nor its id says.
        d_sae: Its width.
    """

    cache_id: str
    name: str
    sae: SaeId
    layer: int | None
    d_sae: int

    def short(self, index: int) -> str:
        """How one of its features is shown: ``f_3_17``, or the full id where no layer is known."""
        return str(FeatureId(self.sae, index) if self.layer is None else ShortFeature(self.layer, index))


def readables(workspace: Workspace, cache: str | None = None) -> list[Readable]:
    """Every SAE that can be read, of one cache or of all, caches merged last coming last.

    Raises:
        UnknownNameError: ``cache`` names none, or nothing has been merged yet.
    """
    stores = [workspace.resolve_cache(cache)] if cache else [workspace.cache(one) for one in workspace.caches()]
    found: list[tuple[str, list[Readable]]] = []
    for store in stores:
        manifest = store.manifest()
        if manifest is None:
            continue
        name, known = str(store.info().get("name") or ""), store.saes()
        of_cache = [
            Readable(store.cache_id, name, sae, _layer(sae, known.get(sae, {})), int(totals["d_sae"]))
            for sae, totals in ((SaeId.parse(text), totals) for text, totals in manifest.sae_totals.items())
        ]
        found.append((manifest.generation, of_cache))
    if not found:
        raise UnknownNameError(f"there is nothing to read in {workspace.url} yet.", hint=_way_to_read(stores))
    return [one for _, of_cache in sorted(found, key=lambda pair: pair[0]) for one in of_cache]


def _way_to_read(stores: Sequence[CacheStore]) -> str:
    if not stores:
        return "raylens cache makes a cache; raylens runs shows what is being made."
    unmerged = ", ".join(store.cache_id for store in stores[:_LISTED])
    return f"not merged yet: {unmerged}; raylens runs shows whether that goes on, raylens merge CACHE does it."


def of_sae(candidates: Sequence[Readable], name: str) -> list[Readable]:
    """Those of one SAE: its id, or the end of it where only one ends so (``layer_3``).

    Raises:
        UnknownNameError: It names none, or several.
    """
    saes = {one.sae for one in candidates}
    matching = {sae for sae in saes if str(sae) == name} or {sae for sae in saes if str(sae).endswith(f"/{name}")}
    if not matching:
        raise UnknownNameError.among("SAE", name, map(str, saes))
    if len(matching) > 1:
        listed = ", ".join(sorted(map(str, matching)))
        raise UnknownNameError(f"{name!r} names {len(matching)} SAEs.", hint=f"write one of {listed}.")
    return [one for one in candidates if one.sae in matching]


def one_feature(
    candidates: Sequence[Readable], text: str, *, cache_option: str | None = "--cache "
) -> tuple[Readable, int]:
    """The feature that ``f_<layer>_<index>`` or ``<sae>/<index>`` means.

    Args:
        candidates: What can be read.
        text: The name.
        cache_option: How a cache is named where the name was given, for the error; None where none needs to be.

    Raises:
        InputError: It is neither, or it names several features.
        UnknownNameError: No such SAE or layer can be read, or its index is beyond the SAE's width.
    """
    if text.startswith("f_"):
        short = ShortFeature.parse(text)
        index = short.index
        matching = [one for one in candidates if one.layer == short.layer]
        if not matching:
            layers = {str(one.layer) for one in candidates if one.layer is not None}
            raise UnknownNameError.among("layer", str(short.layer), layers, hint="raylens features lists features.")
    else:
        feature = FeatureId.parse(text)
        index = feature.index
        matching = of_sae(candidates, str(feature.sae))
    wide_enough = [one for one in matching if index < one.d_sae]
    if not wide_enough:
        widths = {str(one.sae): one.d_sae for one in matching}
        spans = ", ".join(f"{sae} is {width:,} wide, 0 to {width - 1}" for sae, width in sorted(widths.items()))
        raise UnknownNameError(f"there is no feature {text}.", hint=f"{spans}.")
    if len(wide_enough) > 1:
        raise InputError(f"{text} names {len(wide_enough)} features.", hint=_which(wide_enough, index, cache_option))
    return wide_enough[0], index


def feature_of_any_cache(candidates: Sequence[Readable], text: str) -> tuple[Readable, int]:
    """As :func:`one_feature`, where it does not matter in which cache its SAE is read: the one merged last is given."""
    return one_feature(list({one.sae: one for one in candidates}.values()), text, cache_option=None)


def _which(candidates: Sequence[Readable], index: int, cache_option: str | None) -> str:
    several_caches = cache_option is not None and len({one.cache_id for one in candidates}) > 1
    ways = [
        f"{FeatureId(one.sae, index)}{f' {cache_option}{one.cache_id}' if several_caches else ''}"
        f"{f' ({one.name})' if several_caches and one.name else ''}"
        for one in candidates
    ]
    more = f" and {len(ways) - _LISTED} more" if len(ways) > _LISTED else ""
    return f"write one of {', '.join(ways[:_LISTED])}{more}."


def _layer(sae: SaeId, info: dict[str, object]) -> int | None:
    spec = info.get("spec")
    layer = spec.get("layer") if isinstance(spec, dict) else None
    if isinstance(layer, int):
        return layer
    match = _LAYER.search(sae.name)
    return int(match[1]) if match else None
