"""A model's modules without its weights: what it would be made of, at no cost of memory."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from raylens.engine.models import ModelFiles
from raylens.errors import InputError


def skeleton(files: ModelFiles) -> nn.Module:
    """The architecture that a configuration names, its parameters on torch's ``meta`` device.

    Raises:
        InputError: transformers has no such causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{files.name} cannot be run as a causal language model ({' '.join(str(error).split())[:200]}).",
            hint="name a text-generating model of an architecture that transformers has.",
        ) from error
