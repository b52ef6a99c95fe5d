"""The embedded SAEs: recorded, trained, rid of latents that next to never fire, evaluated as they are stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from raylens.bundle import paths
from raylens.bundle.paths import PICO
from raylens.config import EvaluateConfig, RecordConfig, SaeRecipe, TrainConfig
from raylens.engine.sae_pruning import firing_rates, keep_latents
from raylens.engine.sae_training import BUNDLE_LATE_SAE_RECIPE, BUNDLE_SAE_RECIPE, TrainProgress
from raylens.engine.saes import load_sae
from raylens.ids import digest
from raylens.store.dense import DenseRecord
from raylens.store.dense_shuffle import ShuffledRows
from raylens.store.files import Files
from raylens.store.runs import RunJournal
from raylens_jobs.bundle_folders import Folders, provenance, write_metrics
from raylens_jobs.evaluate import run_evaluate
from raylens_jobs.record import plan_record, run_record
from raylens_jobs.train import run_train

log = logging.getLogger(__name__)

_RATE_BATCHES: Final = 256
_RATE_ROWS: Final = 4096
"""Firing rates are measured on so many batches of so many tokens, about a million."""


@dataclass(frozen=True, slots=True)
class SaePlan:
    """SAEs that are trained on one record of activations."""

    recipes: Mapping[int, SaeRecipe]
    """By layer."""
    texts: tuple[str, ...] = ("stdlib:train",)
    seed: int = 22
    """Of the order of documents; a negative one keeps it, several texts in equal shares."""
    ctx_len: int = 256
    max_samples: int | None = None
    """Windows to train on; by default all there are."""
    min_firing_rate: float = 0.0
    """Latents that fire on a smaller share of the text trained on are left out of what is stored."""
    n_tokens: int = 1_000_000
    """Held-out tokens to evaluate on, at most."""


PLANS: Final = (
    SaePlan({1: BUNDLE_SAE_RECIPE, 3: BUNDLE_SAE_RECIPE}),
    # A wide SAE needs more text than pico was trained on: as much again of another kind.
    SaePlan(
        {5: BUNDLE_LATE_SAE_RECIPE},
        texts=("stdlib:train", "stdlib:tests"),
        seed=-1,
        max_samples=22_500,
        min_firing_rate=1e-5,
    ),
)


def build_saes(folders: Folders, plans: Sequence[SaePlan] = PLANS) -> None:
    """Record pico's activations, train an SAE on each layer, evaluate it on held-out text as it is stored.

    Needs about 3 GB under ``work`` for the activations.
    """
    # The package's own pico goes by its name, so that a record of it is known as such.
    model = PICO if folders.out == paths.ROOT else str(folders.out / "pico")
    for plan in plans:
        files, record = _recorded(folders, plan, model)
        for layer, recipe in plan.recipes.items():
            name = f"layer_{layer}"
            metrics = _made(files, record, plan, f"resid_post.{layer}", recipe, folders.out / "saes" / name)
            evaluate = EvaluateConfig(model=model, texts=("stdlib:held_out",), n_tokens=plan.n_tokens)
            measured = run_evaluate(str(folders.out / "saes" / name), evaluate)
            identity = {"sae": f"{paths.PICO_SAES}/{name}", "model": PICO}
            metrics = {**provenance(), "id": identity["sae"], "model": PICO, **metrics}
            write_metrics(folders.out / "saes" / name, metrics | {"held_out": {**measured, **identity}})
            log.info(
                "%s: FVU %.4f, CE recovered %.4f", name, measured["fvu"]["value"], measured["ce_recovered"]["value"]
            )


def _recorded(folders: Folders, plan: SaePlan, model: str) -> tuple[Files, DenseRecord]:
    request = RecordConfig(
        model=model,
        hooks=tuple(f"resid_post.{layer}" for layer in plan.recipes),
        texts=plan.texts,
        seed=plan.seed,
        ctx_len=plan.ctx_len,
        max_samples=plan.max_samples,
    )
    planned = plan_record(request)
    asked = request.model_dump(mode="json")
    files = Files.open(folders.work / f"saes-{digest({'record': asked, 'revision': planned.model.revision})[:8]}")
    with RunJournal.start(files, "record", asked) as journal:
        run_record(planned, files, "activations", journal, lambda p: log.info("%d tokens", p.tokens))
    return files, DenseRecord.open(files, "activations")


def _made(
    files: Files, record: DenseRecord, plan: SaePlan, hook: str, recipe: SaeRecipe, folder: Path
) -> dict[str, Any]:
    """Train on ``hook`` and store the result in ``folder``; what the card says of that."""
    settings = recipe.model_dump(mode="json")
    config = TrainConfig.of({**settings, "hook": hook, "weights_dtype": "float16"})
    made = f"{folder.name}-{digest(settings)[:8]}"
    with RunJournal.start(files, "train", config.model_dump(mode="json")) as journal:
        trained = run_train(config, record, files, made, journal, sparsely(log_training))
    store_sae(Path(files.native(made)), folder)
    left_out = strip(folder, record, hook, plan.min_firing_rate) if plan.min_firing_rate else 0
    n_recorded = sum(shard.n_text for shard in record.shards())
    about = {"ctx_len": plan.ctx_len, "recorded_tokens": n_recorded, "texts": list(plan.texts)}
    rare = {"left_out": left_out, "min_firing_rate": plan.min_firing_rate}
    return {"weights_dtype": config.weights_dtype, "recipe": settings, "train": {**trained, **about, **rare}}


def strip(folder: Path, record: DenseRecord, hook: str, min_firing_rate: float) -> int:
    """Leave out of the SAE in ``folder`` what fires too rarely on ``record``; how many latents that were."""
    rows = ShuffledRows(record, hook, batch_size=_RATE_ROWS, seed=1, buffer_bytes=2**28)
    rates = firing_rates(load_sae(folder), islice(rows.batches(), min(_RATE_BATCHES, rows.n_rows // _RATE_ROWS)))
    keep = rates >= min_firing_rate
    keep_latents(folder, keep)
    log.info("%s: %d of %d latents left out", folder.name, (~keep).sum(), len(keep))
    return int((~keep).sum())


def store_sae(made: Path, folder: Path) -> None:
    """Copy an SAE out of its training folder; its config names the bundled model, wherever that was built."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((made / "cfg.json").read_text())
    config["metadata"]["model_name"] = PICO
    (folder / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "sae_weights.safetensors").write_bytes((made / "sae_weights.safetensors").read_bytes())


def log_training(progress: TrainProgress) -> None:
    """One line of where a training run is."""
    log.info("step %d/%d  FVU %.4f  dead %d", progress.step, progress.steps, progress.fvu, progress.dead)


def sparsely(report: Callable[[TrainProgress], None], times: int = 20) -> Callable[[TrainProgress], None]:
    """Call ``report`` about ``times`` times in a run."""
    last = -1

    def maybe(progress: TrainProgress) -> None:
        nonlocal last
        if (part := progress.step * times // progress.steps) != last:
            last = part
            report(progress)

    return maybe
