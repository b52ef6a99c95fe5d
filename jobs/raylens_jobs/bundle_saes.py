"""The embedded SAEs: recorded, trained, fitted once more, evaluated as they are stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.bundle import paths
from raylens.bundle.paths import PICO
from raylens.config import EvaluateConfig, RecordConfig, SaeRecipe, TrainConfig
from raylens.engine.sae_pruning import firing_rates, keep_latents
from raylens.engine.sae_refit import JumpRelu, fit_thresholds, refit_decoder
from raylens.engine.sae_training import TrainProgress
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

_ROWS: Final = 4096
"""Tokens that are looked at together once an SAE is trained."""


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done to a trained SAE before it is stored, without gradient steps."""

    l0: tuple[float, ...]
    """Mean number of active latents a token on the text trained on, which thresholds are fitted to: a round each, in
    which rare latents are left out and the decoder is fitted too."""
    min_firing_rate: float = 0.0
    """Latents that fire on a smaller share of the text trained on are rare."""
    threshold_tokens: int = 1_000_000
    decoder_tokens: int = 5_500_000


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
    finish: Finish | None = None
    n_tokens: int = 1_000_000
    """Held-out tokens to evaluate on, at most."""


_RECIPE: Final = SaeRecipe(
    architecture="topk",
    d_sae=2048,
    k=32,
    learning_rate=3e-3,
    tokens=2_500_000,
    batch_size=1024,
    warmup_share=0.02,
    decay_share=0.5,
    aux_coef=1 / 32,
    dead_after=80_000,
    seed=0,
)
_LATE: Final = _RECIPE.model_copy(update={"architecture": "batchtopk", "d_sae": 8192, "k": 31.8, "tokens": 9_000_000})
"""Wider and longer, for the late layer: there is more in its residual stream."""

PLANS: Final = (
    SaePlan({1: _RECIPE, 3: _RECIPE}),
    # A wide SAE needs more text than pico was trained on: as much again of another kind.
    SaePlan(
        {5: _LATE},
        texts=("stdlib:train", "stdlib:tests"),
        seed=-1,
        max_samples=22_500,
        finish=Finish(l0=(30.7, 30.7, 30.4, 30.88), min_firing_rate=6e-6),
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
    finished = {"finish": finish(folder, record, hook, plan.finish)} if plan.finish else {}
    n_recorded = sum(shard.n_text for shard in record.shards())
    about = {"ctx_len": plan.ctx_len, "recorded_tokens": n_recorded, "texts": list(plan.texts)}
    return {"weights_dtype": config.weights_dtype, "recipe": settings, "train": {**trained, **about, **finished}}


def finish(folder: Path, record: DenseRecord, hook: str, how: Finish) -> dict[str, Any]:
    """Fit thresholds and decoder of the SAE in ``folder`` to ``record`` and leave rare latents out; what was done."""

    def some(n_tokens: int, seed: int) -> Iterator[NDArray[np.float32]]:
        rows = ShuffledRows(record, hook, batch_size=_ROWS, seed=seed, buffer_bytes=2**28)
        return islice(rows.batches(), max(1, min(n_tokens, rows.n_rows) // _ROWS))

    left_out = 0
    for i, l0 in enumerate(how.l0):
        log.info("%s: fitting, round %d of %d", folder.name, i + 1, len(how.l0))
        sae = JumpRelu.load(folder)
        replace(sae, threshold=fit_thresholds(sae, some(how.threshold_tokens, 3 * i), l0)).save(folder)
        keep = firing_rates(load_sae(folder), some(how.threshold_tokens, 3 * i + 1)) >= how.min_firing_rate
        keep_latents(folder, keep)
        left_out += int((~keep).sum())
        sae = JumpRelu.load(folder)
        replace(sae, w_dec=refit_decoder(sae, some(how.decoder_tokens, 3 * i + 2))).save(folder)
    return {**asdict(how), "left_out": left_out}


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
