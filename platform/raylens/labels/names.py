"""Which Neuronpedia model and source an SAE's labels live under, and which SAEs a source is of.

Three places say so, the first that does counts: a config's own mapping, the catalogue (sae-lens's table as checked by
:mod:`raylens.catalog.snapshot`, and the user's ``catalog.yaml``), and the SAE's own config. Features of SAEs that
Neuronpedia does not have go by a name of the same form, under which the local endpoint serves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from raylens.catalog import Catalog
from raylens.errors import InputError
from raylens.ids import SaeId, digest

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class NeuronpediaId:
    """A source of labels: ``gemma-2-2b/20-gemmascope-res-16k``.

    Attributes:
        model: Neuronpedia's id of the model.
        source: Of the SAE: its layer, its makers, what it reads, its width.
    """

    model: str
    source: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<model>/<source>``.

        Raises:
            InputError: It is not of that form, or holds characters that do not belong into an address.
        """
        model, slash, source = text.partition("/")
        if not slash or not is_part(model) or not is_part(source):
            raise InputError(
                f"{text!r} is not a label source.", hint="write <model>/<source>, as gemma-2-2b/20-gemmascope-res-16k."
            )
        return cls(model, source)

    def __str__(self) -> str:
        return f"{self.model}/{self.source}"


def is_part(text: str) -> bool:
    """Whether ``text`` can be a model or source id: letters, digits and ``. _ -``, so that it is safe in a path."""
    return _PART.fullmatch(text) is not None


def label_source(
    sae: SaeId, catalog: Catalog, *, given: Mapping[str, str] | None = None, own: str | None = None
) -> NeuronpediaId | None:
    """Where the labels of ``sae`` live; None where nothing says so.

    Args:
        sae: Which SAE.
        catalog: What is known of SAEs.
        given: A config's mapping, SAE id → ``<model>/<source>``; it comes before the others.
        own: What the SAE's own config says (:attr:`raylens.specs.SaeSpec.neuronpedia_id`).

    Raises:
        InputError: The id found is no label source.
    """
    entry = catalog.get(sae)
    # The catalogue's ids are checked, and corrected to none; a loaded config repeats sae-lens's table.
    stated = entry.neuronpedia_id if entry is not None else own
    text = (given or {}).get(str(sae), stated)
    return NeuronpediaId.parse(text) if text else None


def page_url(source: NeuronpediaId, index: int) -> str:
    """A feature's page for people (A0.19)."""
    return f"https://www.neuronpedia.org/{source.model}/{source.source}/{index}"


def saes_of(source: NeuronpediaId, catalog: Catalog) -> tuple[SaeId, ...]:
    """The SAEs of the catalogue whose labels ``source`` has; sae-lens lists some weights under two ids."""
    return tuple(sorted(entry.sae for entry in catalog.entries if entry.neuronpedia_id == str(source)))


def local_source(sae: SaeId, model: str, layer: int | None) -> NeuronpediaId:
    """A name of the same form for an SAE that Neuronpedia does not have: ``pico/3-raylens-pico-res--layer_3``.

    Args:
        sae: Which SAE; two of them never get one name.
        model: Any reference to its model; the last part of it is shown.
        layer: The block it reads, where known.
    """
    text = str(sae)
    words = _UNSAFE.sub("-", text.replace("/", "--")).lstrip("-._")
    if words.replace("--", "/") != text or len(words) > 150:
        words = f"{words[:140] or 'sae'}-{digest(text)[:8]}"
    number = "" if layer is None else f"{layer}-"
    last = _UNSAFE.sub("-", model.rstrip("/").rpartition("/")[2]).strip("-._")[:100]
    return NeuronpediaId(last or "model", f"{number}{words}")
