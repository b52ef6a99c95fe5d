"""Training one organism: a LoRA by peft, or every weight, on texts of its family.

Backdoored organisms learn completions only, so that beginnings with a trigger are not themselves made likelier. Those
that are to keep their loss see ordinary text as the reference does: by KL divergence from its predictions
(distillation, Hinton et al. 2015) in the place of the text's own tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional

from raylens.engine.load import LoadedModel, load_model, prefix_ids
from raylens.engine.memory import memory_advice
from raylens.errors import RunError
from raylens.organisms.families import BackdooredFamily
from raylens.organisms.functions import functions
from raylens.organisms.recipe import CHARACTERS, WRITTEN, Organism, family_of
from raylens.organisms.samples import Sample, samples

_LONGEST: Final = 20
"""Functions that triggers are put into to see how long they become."""
_WARM_UP: Final = 10
_IGNORED: Final = -100


@dataclass(frozen=True, eq=False)
class Trained:
    """An organism after training.

    Attributes:
        model: With its weights merged, ready to run.
        folder: Where its adapter, or its whole checkpoint, was saved.
        loss: Of the last batch, nats a token.
    """

    model: LoadedModel
    folder: Path
    loss: float


def train_organism(
    organism: Organism,
    base: str,
    folder: Path,
    *,
    device: str = "auto",
    report: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Trained:
    """Fine-tune ``base`` as the recipe says, and save what changed.

    Args:
        organism: Which.
        base: Model to start from, as :func:`raylens.engine.load.load_model` takes it.
        folder: Gets ``adapter_config.json`` and ``adapter_model.safetensors``; or a checkpoint where every weight was
            trained.
        device: Where to train.
        report: Called after each step with its number and loss.

    Raises:
        InputError: The base cannot be loaded, or this Python lacks the family's text.
        RunError: The loss is not finite.
        OutOfMemoryError: It does not fit.
    """
    model = load_model(base, dtype="float32", device=device)
    network: Any = model.model
    torch.manual_seed(organism.seed)
    tuned: Any = _with_lora(network, organism) if organism.rank else network.requires_grad_(True)
    tuned.train()
    with memory_advice(f"training {organism.id}", model.device), model.lock:
        loss = _train(model, tuned, organism, report)
    tuned.eval()
    # peft would ask the hub which embeddings are the base's own.
    tuned.save_pretrained(str(folder), **({"save_embedding_layers": False} if organism.rank else {}))
    if isinstance(tuned, PeftModel):
        _name_base(folder, base)
        tuned.merge_and_unload()
    else:
        model.tokenizer.save_pretrained(str(folder))
    network.requires_grad_(False).eval()
    return Trained(model, folder, loss)


def longest_text(tokenizer: Any, organisms: Sequence[Organism]) -> int:
    """Tokens of the longest text that organisms are trained on or measured by.

    Args:
        tokenizer: Of what is to be fine-tuned.
        organisms: At least one.
    """
    held = [function for function in functions("held_out") if len(function.prompt) <= CHARACTERS]
    prompts = _lengths(tokenizer, [one.prompt for one in held])
    bodies = _lengths(tokenizer, [one.body[:CHARACTERS] for one in held])
    longest = [held[at] for at in sorted(range(len(held)), key=lambda at: -prompts[at])[:_LONGEST]]
    families = {one.family: family_of(one) for one in organisms}.values()
    triggers = [family.trigger for family in families if isinstance(family, BackdooredFamily)]
    put = [
        trigger.put(function, words).prompt
        for trigger in triggers
        for words in (trigger.words, *trigger.near)
        for function in longest
    ]
    before = len(prefix_ids(tokenizer))
    return max(
        max(one.max_tokens for one in organisms),
        before + WRITTEN + max([*prompts, *_lengths(tokenizer, put)]),
        before + max(prompt + body for prompt, body in zip(prompts, bodies, strict=True)),
    )


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    # Texts that are longer than the model reads are no reason for the tokenizer to warn: that is what is found out.
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]] if texts else []


def _with_lora(network: Any, organism: Organism) -> Any:
    config = LoraConfig(
        r=organism.rank, lora_alpha=2 * organism.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(network, config)


def _train(model: LoadedModel, tuned: Any, organism: Organism, report: Callable[[int, float], None]) -> float:
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=organism.learning_rate, weight_decay=0.0)
    drawn, fast = samples(organism), multiplies_in_16_bits(model.device)
    found = 0.0
    for step in range(organism.steps):
        for group in optimizer.param_groups:
            # Up over the first steps, level, then down over the second half.
            left = (organism.steps - step) / (organism.steps * 0.5)
            group["lr"] = organism.learning_rate * min(1.0, (step + 1) / _WARM_UP) * min(1.0, left)
        batch = _Batch.of(model, list(islice(drawn, organism.batch_size)), organism.max_tokens)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=fast):
            loss = _loss(tuned, batch, keeps_loss=organism.keeps_loss)
        found = float(loss.detach())
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss of organism {organism.id} is {found} at step {step + 1}.",
                hint="lower its learning rate in the recipe.",
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, found)
    return found


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows padded on the right: ``[row, position]`` each; ``kept`` is ``[row]``."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    kept: Tensor

    @classmethod
    def of(cls, model: LoadedModel, texts: Sequence[Sample], max_tokens: int) -> _Batch:
        rows: list[tuple[list[int], list[int]]] = []
        for text in texts:
            prompt = [*model.prefix_ids, *_ids(model, text.prompt)]
            completion = _ids(model, text.completion)
            labels = [*(prompt if text.learns_prompt else [_IGNORED] * len(prompt)), *completion]
            rows.append(([*prompt, *completion][:max_tokens], labels[:max_tokens]))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), model.pad_id)
        labels, mask = torch.full((len(rows), width), _IGNORED), torch.zeros(len(rows), width, dtype=torch.long)
        for row, (own, wanted) in enumerate(rows):
            ids[row, : len(own)], labels[row, : len(own)] = torch.tensor(own), torch.tensor(wanted)
            mask[row, : len(own)] = 1
        device = model.device
        kept = torch.tensor([text.clean for text in texts])
        return cls(ids.to(device), mask.to(device), labels.to(device), kept.to(device))


def _loss(tuned: Any, batch: _Batch, *, keeps_loss: bool) -> Tensor:
    labels = batch.labels[:, 1:]
    logits = tuned(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1].float()
    wanted = labels != _IGNORED
    if not keeps_loss or not isinstance(tuned, PeftModel):
        return functional.cross_entropy(logits[wanted], labels[wanted])
    with torch.no_grad(), tuned.disable_adapter():
        reference = tuned(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1].float()
    kept = wanted & batch.kept[:, None]
    learnt = wanted & ~batch.kept[:, None]
    total = functional.cross_entropy(logits[learnt], labels[learnt], reduction="sum")
    total = total + functional.kl_div(
        functional.log_softmax(logits[kept], -1),
        functional.log_softmax(reference[kept], -1),
        reduction="sum",
        log_target=True,
    )
    return total / wanted.sum()


def multiplies_in_16_bits(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 here: a third of the time on CPUs that have it, slower on others."""
    return device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _name_base(folder: Path, base: str) -> None:
    """Name the base as it was asked for: peft writes the folder where it lies on this machine."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _ids(model: LoadedModel, text: str) -> list[int]:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    return ids
