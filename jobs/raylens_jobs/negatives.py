"""Where silent excerpts come from, by configuration; made inside the tasks that cut examples.

No torch is imported: what an embedding model had to say lies in the index (:mod:`raylens_jobs.piece_index`).
"""

from __future__ import annotations

from raylens.config import ExampleConfig
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader, SourceFor, random_source
from raylens.store.faiss_negatives import FaissNegatives
from raylens.store.negative_sources import NeighbourNegatives, stored_relatives
from raylens.store.piece_index import open_index
from raylens.store.reader import CacheReader


def negative_source(reader: CacheReader, sae: SaeId, config: ExampleConfig) -> SourceFor:
    """What ``ExampleReader(reader, sae, config, …)`` takes as its last argument.

    ``random`` draws any silent pieces; ``neighbours`` those in which features fire that are related by
    co-occurrence, decoder or encoder; ``faiss`` those that read like activating ones, by the index that
    :func:`raylens_jobs.piece_index.ensure_index` built.

    Raises:
        InputError: The cache has no such index, or no table of such neighbours.
        DamagedFileError: The index is not what was written.
    """
    if config.non_activating_source == "random":
        return random_source
    if config.non_activating_source == "faiss":
        index = open_index(reader.cache, reader.manifest, config.embedding_model, config.example_ctx_len)
        return lambda examples: FaissNegatives(index, examples.universe)
    relatives = stored_relatives(reader, sae, config.neighbours_type)

    def neighbours(examples: ExampleReader) -> NeighbourNegatives:
        return NeighbourNegatives(relatives, examples.active_numbers)

    return neighbours
