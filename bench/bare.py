"""The floor a cache is measured against: the early-stopped forward and sae-lens's own encode, nothing else.

Run as a process: ``python -m bench.bare MODEL SAE TOKENS THREADS FOLDER``. It reads windows that are
cut already from the cache in FOLDER, waits for a line on stdin once it is ready, and prints
``{"tokens", "seconds"}``. Nothing is extracted from the dense result and nothing is stored.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from raylens.engine.load import load_model
from raylens.engine.saes import load_sae
from raylens.engine.tap import tap
from raylens.store.windows import read_windows_shard, windows_shards
from raylens.store.workspace import Workspace
from raylens_jobs.encoder import batches_of, token_lists


def main(model_ref: str, sae_ref: str, n_tokens: int, threads: int, folder: Path) -> None:
    """Load, wait for the word, run, report."""
    torch.set_num_threads(threads)
    model, sae = load_model(model_ref, device="cpu"), load_sae(sae_ref, device="cpu")
    workspace = Workspace.open(folder)
    cache = workspace.cache(workspace.caches()[0])
    windows = [w for row in windows_shards(cache) for w in token_lists(read_windows_shard(cache, row.index))]
    print("ready", flush=True)
    sys.stdin.readline()
    began, tokens = time.perf_counter(), 0
    with torch.inference_mode():
        for _, ids, mask in batches_of(windows, 32):
            states = tap(model, [sae.spec.hook], ids, mask)[sae.spec.hook]
            sae.sae.encode(states[mask.bool()])
            tokens += int(mask.sum()) - len(mask)  # BOS is not counted, as the cache does not count it
            if tokens >= n_tokens:
                break
    print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
