"""An SAE as a folder in SAELens format, for colleagues and other tools."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from raylens.engine.saes import LoadedSae
from raylens.errors import InputError
from raylens.store.disk import as_disk_full


def save_sae(sae: LoadedSae, folder: Path) -> dict[str, str]:
    """Write an SAE: all of its files, or nothing.

    Args:
        sae: What is written, in the precision that it was loaded in.
        folder: A new one.

    Returns:
        SHA-256 of each file, by name.

    Raises:
        InputError: The folder is there already.
        DiskFullError: No space.
    """
    made: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        sae.sae.save_model(made)
        if folder.exists():
            raise InputError(f"{folder} is there already.", hint="name a new folder.")
        made.chmod(0o755)  # temporary folders are their owner's alone
        made.rename(folder)
    except Exception as error:
        raise as_disk_full(error, folder.parent, writing=f"the SAE {sae.id}") or error from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(folder.iterdir())}
