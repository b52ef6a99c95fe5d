"""A model's modules without its weights: what it would be made of, at no cost of memory."""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from raylens.engine.checkpoint_files import weight_files
from raylens.engine.model_config import read_model_config
from raylens.engine.models import ModelFiles
from raylens.errors import InputError, RaylensError


def skeleton(files: ModelFiles) -> nn.Module:
    """The architecture that a configuration names, its parameters on torch's ``meta`` device.

    Raises:
        InputError: transformers has no such causal language model.
    """
    config = read_model_config(files.folder, files.name)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # of whatever the architecture makes of such a configuration
        raise InputError(
            f"{files.name} cannot be run as a causal language model ({' '.join(str(error).split())[:200]}).",
            hint="name a text-generating model of an architecture that transformers has.",
        ) from error


def misfit(files: ModelFiles) -> str | None:
    """A weight that is stored in another shape than the configuration gives it, said in words; None where all fit.

    Of weights that have the model's own names; transformers renames and joins others as it reads them.
    """
    try:
        wanted = {name: tuple(one.shape) for name, one in skeleton(files).state_dict().items()}
        for path in weight_files(files.folder):
            with safe_open(path, framework="pt") as file:
                for key in sorted(wanted.keys() & set(file.keys())):
                    shape = tuple(file.get_slice(key).get_shape())
                    if shape != wanted[key]:
                        return f"{key} is {list(wanted[key])} by its configuration, and {list(shape)}"
    except (RaylensError, SafetensorError, OSError):
        return None  # said by who asked
    return None
