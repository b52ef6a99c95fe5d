"""SAEs that go together: of one release, one a layer."""

from __future__ import annotations

from raylens.catalog.lookup import Catalog
from raylens.errors import UnknownNameError
from raylens.ids import SaeId


def earlier_in_release(catalog: Catalog, sae: SaeId, layer: int) -> list[SaeId]:
    """SAEs of an SAE's release that read earlier layers; none where the release has several of a layer.

    Which one of several widths or sparsities is meant, nobody but who asks can say.

    Args:
        catalog: Knows releases.
        sae: One of them.
        layer: That it reads.
    """
    try:
        release = catalog.release(sae.release)
    except UnknownNameError:
        return []
    mates = [one for one in release if one.layer is not None and one.layer < layer]
    return [one.sae for one in mates] if len({one.layer for one in mates}) == len(mates) else []
