"""Decoder directions of SAEs whose weights lie on this machine, mapped from their file: no torch, and little memory.

For SAEs in SAELens's format: those of the bundle, and folders in the user's catalogue. The safetensors format is
eight bytes of length, a JSON header with type, shape and place of each tensor, and the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.bundle.paths import sae_path
from raylens.catalog import Catalog
from raylens.errors import DamagedFileError
from raylens.ids import SaeId
from raylens.labels.proxies import Decoder

_FILE: Final = "sae_weights.safetensors"
_NAME: Final = "W_dec"
_TYPES: Final = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_HEADER_BYTES: Final = 2**20
_ROWS: Final = 4096


def decoder_of(sae: SaeId, catalog: Catalog) -> Decoder | None:
    """``[d_sae, d_in]``, as :mod:`raylens.labels.proxies` takes it; None where its weights are not at hand.

    Raises:
        DamagedFileError: The file is there, and cannot be what it should be.
    """
    entry = catalog.get(sae)
    folder = sae_path(sae) or (Path(entry.path) if entry is not None and entry.path else None)
    file = folder / _FILE if folder is not None else None
    if file is None or not file.is_file():
        return None
    return _mapped(file)


def _mapped(file: Path) -> Decoder | None:
    try:
        with file.open("rb") as stream:
            n = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(n, _HEADER_BYTES)))
        tensor = dict(header).get(_NAME)
        if tensor is None or tensor["dtype"] not in _TYPES:
            return None
        kind, (rows, width) = _TYPES[tensor["dtype"]], tensor["shape"]
        begin, _ = tensor["data_offsets"]
        weights: Any = np.memmap(file, kind, "r", 8 + n + begin, (rows, width))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{file} is damaged ({error}).", hint="copy or download the SAE again.") from error
    # bfloat16, which NumPy does not have, is the upper half of a float32.
    return (lambda: _widened(weights)) if tensor["dtype"] == "BF16" else weights


def _widened(weights: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    for first in range(0, len(weights), _ROWS):
        yield (weights[first : first + _ROWS].astype(np.uint32) << 16).view(np.float32)
