"""Training ``raylens/pico``: a Llama-architecture causal LM of 3.4 M parameters.

It is narrow and deep (eight layers of width 128) because its SAEs must explain the residual stream
with 32 active latents: what a sparse code leaves over grows quickly with the number of dimensions.

The recipe is sized for two CPU cores and about half an hour: Muon (Jordan et al. 2024, as in
``torch.optim.Muon``) on the matrices, AdamW on the tied embedding and the norms, bfloat16
autocast, a linear decay to zero. Every window starts with BOS, as every cached window will.
Training checkpoints every ``CHECKPOINT_EVERY`` steps and resumes from the last one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

CHECKPOINT_EVERY = 200


@dataclass(frozen=True, slots=True)
class PicoRecipe:
    """Everything that determines the model and the training run; lengths are in tokens, BOS included."""

    hidden_size: int = 128
    intermediate_size: int = 768
    layers: int = 8
    heads: int = 4
    steps: int = 2400
    tokens_per_step: int = 8192
    window: int = 256
    long_window: int = 512
    long_share: float = 0.2
    """The last share of steps uses ``long_window``."""
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    seed: int = 0

    def window_at(self, step: int) -> int:
        return self.window if step < self.steps * (1 - self.long_share) else self.long_window

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, then linear decay to zero."""
        return self.learning_rate * min((step + 1) / self.warmup_steps, (self.steps - step) / self.steps)


def pico_config(recipe: PicoRecipe, vocab_size: int, bos_token_id: int, pad_token_id: int) -> LlamaConfig:
    """The architecture that ``recipe`` names, with tied embeddings."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=bos_token_id,
        eos_token_id=bos_token_id,
        pad_token_id=pad_token_id,
    )


def batches(
    documents: Sequence[NDArray[np.int64]], bos: int, recipe: PicoRecipe, start: int
) -> Iterator[NDArray[np.int64]]:
    """Yield int64 token batches ``[rows, window]``, one a step, from step ``start`` on.

    Documents are shuffled anew each epoch, joined by BOS and cut into windows that begin with BOS.
    Step k is the same whether or not the run was resumed.
    """
    step, epoch = 0, 0
    while step < recipe.steps:
        rng = np.random.default_rng((recipe.seed, epoch))
        order = rng.permutation(len(documents))
        stream = np.concatenate([np.append(documents[i], bos) for i in order])
        stream = np.roll(stream, -int(rng.integers(recipe.long_window)))
        at = 0
        while step < recipe.steps:
            window = recipe.window_at(step)
            rows = recipe.tokens_per_step // window
            need = rows * (window - 1)
            if at + need > len(stream):
                break
            if step >= start:
                body = stream[at : at + need].reshape(rows, window - 1)
                yield np.concatenate([np.full((rows, 1), bos), body], axis=1)
            at += need
            step += 1
        epoch += 1


def train_pico(
    documents: Sequence[NDArray[np.int64]],
    config: LlamaConfig,
    recipe: PicoRecipe,
    checkpoint: Path,
    report: Callable[[str], None],
    checkpoint_every: int = CHECKPOINT_EVERY,
) -> LlamaForCausalLM:
    """Train from ``documents`` (int64 token ids without BOS), resuming from ``checkpoint`` if it exists.

    ``report`` is called with the mean loss every 50 steps.
    """
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(config)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    step = _resume(checkpoint, model, optimizers)
    began, losses = time.monotonic(), []
    for tokens in batches(documents, _bos(model), recipe, step):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate_at(step)
        ids = torch.from_numpy(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, config.vocab_size).float(), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            report(f"step {step}/{recipe.steps}  loss {np.mean(losses[-50:]):.3f}  {time.monotonic() - began:.0f} s")
        if step % checkpoint_every == 0 or step == recipe.steps:
            _checkpoint(checkpoint, model, optimizers, step)
    return model.eval()


def _checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def save_pico(model: LlamaForCausalLM, folder: Path) -> None:
    """Save config and weights in transformers format, rounded to float16 and computed with in float32.

    float16 halves the file; ``config.json`` names float32, so that every loader widens the weights
    (exactly) and activations do not depend on how a device rounds in 16 bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Tied weights are one parameter, so the embedding is stored once.
    tensors = {name: weight.detach().to(torch.float16).contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.float32
    config.save_pretrained(folder)


@torch.no_grad()
def document_bits(model: LlamaForCausalLM, ids: NDArray[np.int64], window: int = 512) -> float:
    """Bits that ``model`` needs for one document: Σ −log2 p(token), ``ids`` ``[n]`` without BOS.

    Every token is scored once, with at least half a window of context once a document is that long.
    """
    bos = _bos(model)
    nats, scored = 0.0, 0
    while scored < len(ids):
        start = max(0, scored - window // 2)
        body = ids[start : start + window - 1]
        tokens = torch.from_numpy(np.concatenate([[bos], body]))[None]
        logits = model(tokens, use_cache=False).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, tokens[0, 1:], reduction="none")[scored - start :].sum())
        scored = start + len(body)
    return nats / math.log(2)


def bits_per_byte(
    model: LlamaForCausalLM, documents: Sequence[tuple[str, NDArray[np.int64]]], window: int = 512
) -> float:
    """Compression of ``documents`` (text, ids without BOS) by ``model``: Σ bits / Σ UTF-8 bytes."""
    bits = sum(document_bits(model, ids, window) for _, ids in documents)
    return bits / sum(len(text.encode()) for text, _ in documents)


def _bos(model: LlamaForCausalLM) -> int:
    bos = model.config.bos_token_id
    if not isinstance(bos, int):
        raise ValueError("the model's config names no BOS token")
    return bos
