"""``raylens cache --dry-run``: what a run will take, before anything runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from raylens.store.windows import windows_shards
from raylens.store.workspace import CacheStore
from raylens_jobs.cache import CachePlan
from raylens_jobs.cluster import available_cpus


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, before it runs. Bytes are powers of ten apart, not promises."""

    tokens: int
    windows: int
    tokens_stored: int
    activations: int
    stored_bytes: int
    memory_bytes_per_worker: int
    workers: int
    flops: float
    hours: float
    basis: str


def estimate_cache(plan: CachePlan, cache: CacheStore | None) -> Estimate:
    """Estimate tokens, bytes, memory and hours on the workers that this machine or ``--workers`` gives.

    Floating-point work: 2 × the parameters of the blocks up to the last tapped one, plus 2 × d_in ×
    d_sae an SAE, a token. The speed is measured here in a tenth of a second of matrix products, and
    half of it is what transformers of this kind reach. Parameters are counted as 12 d_model² a block
    (Kaplan et al. 2020), activations as 64 a token where an SAE does not say its k.
    """
    config, model, saes = plan.config, plan.model, [spec for _, spec in plan.saes]
    tokens = config.n_tokens
    stored = sum(b.n_text_tokens for b in windows_shards(cache)) if cache is not None and cache.exists() else 0
    layers = max((sae.hook.layer_index if sae.hook.layer_index is not None else model.n_layers - 1) for sae in saes)
    block = 12 * model.d_model**2
    widths = sum(sae.d_in * sae.d_sae for sae in saes)
    flops = 2.0 * tokens * ((layers + 1) * block + widths)
    gpus = torch.cuda.device_count() if config.num_gpus is None else min(torch.cuda.device_count(), config.num_gpus)
    workers = min(config.workers or gpus or available_cpus(), gpus or available_cpus())
    speed = 0.5 * matmul_speed("cuda" if gpus else "cpu")
    activations = tokens * 64 * len(saes)
    weights = 4 * (model.n_layers * block + model.vocab_size * model.d_model + 2 * widths)
    batch = config.batch_size * config.ctx_len * 4 * (8 * model.d_model + 2 * max(sae.d_sae for sae in saes))
    shard = config.shard_windows * config.ctx_len * 64 * 15 * 3 * len(saes)
    return Estimate(
        tokens=tokens,
        windows=-(-tokens // max(1, config.ctx_len - 1)),
        tokens_stored=stored,
        activations=activations,
        stored_bytes=2 * 4 * activations + 8 * tokens,
        memory_bytes_per_worker=weights + batch + shard + 600_000_000,
        workers=workers,
        flops=flops,
        hours=max(0.0, 1 - stored / tokens) * flops / (speed * workers) / 3600,
        basis=f"{speed / 1e9:.0f} GFLOP/s a worker, half of what a matrix product reaches here",
    )


def matmul_speed(device: str) -> float:
    """Floating-point operations a second of one float32 matrix product, on one thread or one GPU."""
    threads, side = torch.get_num_threads(), 512 if device == "cpu" else 8192
    torch.set_num_threads(1)
    try:
        a = torch.randn(side, side, device=device)
        runs, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < 0.1:
            (a @ a)[0, 0].item()
            runs += 1
    finally:
        torch.set_num_threads(threads)
    return runs * 2.0 * side**3 / seconds
