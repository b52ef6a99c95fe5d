"""One phrase for each of some features, to stand beside its id: what people call it, else what was explained last."""

from __future__ import annotations

from collections.abc import Iterable

from raylens.ids import FeatureId
from raylens.store.views import connect
from raylens.store.workspace import Workspace


def names_of(workspace: Workspace, features: Iterable[FeatureId]) -> dict[FeatureId, str]:
    """Phrases of those features of which something is said, in whatever cache.

    Raises:
        DamagedFileError: A file with explanations is damaged.
    """
    by_name = {(str(one.sae), one.index): one for one in features}
    if not by_name:
        return {}
    saes = sorted({sae for sae, _ in by_name})
    with connect(workspace, only=["explanations"]) as connection:
        rows = connection.execute(
            "SELECT sae, feature, explanation FROM explanations "
            "WHERE sae IN (SELECT unnest(?)) AND feature IN (SELECT unnest(?)) AND explanation IS NOT NULL "
            "QUALIFY row_number() OVER (PARTITION BY sae, feature "
            "ORDER BY explainer = 'human' DESC, created_at DESC NULLS LAST, explanation) = 1",
            [saes, sorted({index for _, index in by_name})],
        ).fetchall()
    return {by_name[sae, feature]: text for sae, feature, text in rows if (sae, feature) in by_name}
