"""The merge's task that needs the model and the SAE: what their weights alone say about features."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache as cache_result
from typing import Any, Final

import pyarrow as pa
import ray
import torch

from raylens.engine.sae_choice import SaeChoice
from raylens.engine.saes import LoadedSae
from raylens.engine.unembedding_weights import load_unembedding
from raylens.engine.weights import decoder_map, decoder_neighbours, encoder_neighbours, feature_logits
from raylens.ids import SaeId
from raylens.store.manifest import FileEntry, Kind
from raylens.store.publish import copied_feature_table, feature_table, write_feature_table
from raylens.store.workspace import Workspace
from raylens_jobs.merge_tasks import TASK_CPUS

_VERSIONS: Final[dict[Kind, int]] = {"map": 2}
"""Raised when the same weights would give another table: a merge makes it anew."""


@ray.remote(num_cpus=TASK_CPUS)
def weight_tables(
    url: str, cache_id: str, sae: str, model: str, revision: str, settings: dict[str, Any]
) -> list[FileEntry]:
    """Logits, neighbours and map of one SAE; on the CPU, since they are made once an SAE.

    What another cache of the workspace has is copied: the text says nothing about weights.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    workspace, sae_id = Workspace.open(url), SaeId.parse(sae)
    cache, others = workspace.cache(cache_id), [workspace.cache(one) for one in workspace.caches() if one != cache_id]
    made_from = {"fingerprint": settings["spec"]["fingerprint"], "revision": revision}

    @cache_result
    def sae_of() -> LoadedSae:
        return SaeChoice(**settings["choice"]).load("cpu")

    makers: dict[Kind, Callable[[], pa.Table]] = {
        "logits": lambda: feature_logits(load_unembedding(model, revision=revision), sae_of()),
        "neighbours": lambda: decoder_neighbours(sae_of()),
        "encoder_neighbours": lambda: encoder_neighbours(sae_of()),
        "map": lambda: decoder_map(sae_of()),
    }
    entries = []
    for kind, make in makers.items():
        own = made_from | ({"version": _VERSIONS[kind]} if kind in _VERSIONS else {})
        entries.append(
            feature_table(cache, sae_id, kind, own)
            or copied_feature_table(cache, others, sae_id, kind, own)
            or write_feature_table(cache, sae_id, kind, make(), own)
        )
    return entries
