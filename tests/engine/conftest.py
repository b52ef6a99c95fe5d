"""The tiny models and SAEs."""

from __future__ import annotations

from tiny_models import (
    hub_cache,
    llama,
    loaded,
    loaded_models,
    make_sae,
    model_folders,
    one_thread,
    sae_folder,
    sae_folders,
    save_sae,
    text,
)

__all__ = (
    "hub_cache",
    "llama",
    "loaded",
    "loaded_models",
    "make_sae",
    "model_folders",
    "one_thread",
    "sae_folder",
    "sae_folders",
    "save_sae",
    "text",
)
