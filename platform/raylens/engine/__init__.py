"""Running models and SAEs: load, name points, tap, encode, read weights. Torch lives here.

Submodules are imported by name (``raylens.engine.load``, ``.tap``, ``.saes``, ``.encode`` …), so that
importing this package costs nothing. What must be set before the libraries are imported is set here.
"""

from __future__ import annotations

import logging
import os

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # the hub client reads it once, on import
# On import, bitsandbytes warns of an optional kernel package that it would download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
