"""Frozen rows of the catalogue: one SAE, one release, one answer to "does this fit?"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from raylens.ids import HookPoint, SaeId

Source = Literal["bundle", "sae-lens", "user"]
OTHER_MODEL: Final = "trained on another model"
_LAST: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One SAE and what is known of it without loading it.

    Attributes:
        sae: Its id, as ``--sae`` takes it.
        model: Canonical name of the model it was trained on.
        hook: The tensor it reads; None where its id does not say, or no canonical point is that tensor.
        layer: Block of that tensor; known for some SAEs whose ``hook`` is not.
        width: Number of latents.
        architecture: ``topk``, ``jumprelu`` … as sae-lens loads it.
        neuronpedia_id: ``<model>/<source>`` where its labels live, checked to be of this model, layer,
            point and width; None without labels.
        source: Where this row comes from.
        note: What a person should know before using it; empty if nothing.
        repo: The hub repository with its weights.
        path: The local folder with its weights, for a user's own.
        d_in: Width of the tensor it reads.
        l0: Latents active a token, as its makers state.
    """

    sae: SaeId
    model: str
    hook: HookPoint | None = None
    layer: int | None = None
    width: int | None = None
    architecture: str | None = None
    neuronpedia_id: str | None = None
    source: Source = "user"
    note: str = ""
    repo: str | None = None
    path: str | None = None
    d_in: int | None = None
    l0: float | None = None

    @property
    def labels_available(self) -> bool:
        """Whether Neuronpedia has labels for it (A0.08)."""
        return self.neuronpedia_id is not None

    def order(self) -> tuple[str, int, int, str]:
        """A sort key: release, then layer and width as numbers (unknown ones last), then id."""
        layer = _LAST if self.layer is None else self.layer
        return self.sae.release, layer, self.width or _LAST, self.sae.name

    def preference(self) -> tuple[bool, bool, bool]:
        """A sort key for suggestions: near at hand, labelled and on the residual stream come first."""
        residual = self.hook is not None and self.hook.name in ("resid_post", "resid_pre")
        return self.source == "sae-lens", not residual, not self.labels_available

    def row(self) -> dict[str, object]:
        """A JSON-able form; every key is always there."""
        return {
            "sae": str(self.sae),
            "release": self.sae.release,
            "model": self.model,
            "hook": str(self.hook) if self.hook else None,
            "layer": self.layer,
            "width": self.width,
            "d_in": self.d_in,
            "l0": self.l0,
            "architecture": self.architecture,
            "neuronpedia_id": self.neuronpedia_id,
            "labels_available": self.labels_available,
            "source": self.source,
            "repo": self.repo,
            "path": self.path,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """The SAEs of one release that were trained on one model.

    ``layers``, ``points`` and ``widths`` are sorted and hold what is known; ``labelled`` counts the
    SAEs with labels.
    """

    model: str
    release: str
    source: Source
    repo: str | None
    saes: int
    labelled: int
    layers: tuple[int, ...]
    points: tuple[str, ...]
    widths: tuple[int, ...]
    note: str

    @classmethod
    def of(cls, entries: Sequence[CatalogEntry]) -> ReleaseSummary:
        """Summarise the entries of one release and model; there is at least one."""
        first = entries[0]
        notes = {entry.note for entry in entries}
        return cls(
            model=first.model,
            release=first.sae.release,
            source=first.source,
            repo=first.repo,
            saes=len(entries),
            labelled=sum(entry.labels_available for entry in entries),
            layers=tuple(sorted({entry.layer for entry in entries if entry.layer is not None})),
            points=tuple(sorted({entry.hook.name for entry in entries if entry.hook is not None})),
            widths=tuple(sorted({entry.width for entry in entries if entry.width is not None})),
            note=first.note if len(notes) == 1 else "",
        )

    def row(self) -> dict[str, object]:
        """A JSON-able form, a row of the supported-models list (A0.07)."""
        return {
            "model": self.model,
            "release": self.release,
            "source": self.source,
            "repo": self.repo,
            "saes": self.saes,
            "labels_available": self.labelled > 0,
            "labelled": self.labelled,
            "layers": list(self.layers),
            "points": list(self.points),
            "widths": list(self.widths),
            "note": self.note,
        }
