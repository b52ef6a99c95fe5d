"""Training an SAE on recorded activations, with sae-lens's trainers.

Batches come from :class:`raylens.store.dense_shuffle.ShuffledRows`; special tokens (BOS) are never
among them. Activations are scaled to a mean norm of √d_in and the decoder's bias starts at their
mean; both are folded away at the end, so that the saved SAE reads what the model computes. Decoder
rows are saved with norm 1, so that an activation is the length of what it adds.

A checkpoint holds everything the next step depends on (weights, optimizer, schedules, counters of
firing, generators), and batch k is a function of the seed and k: a run that was killed ends with
the weights of one that was not. Folder of one SAE::

    cfg.json, sae_weights.safetensors   SAELens's format, written at the end
    training/settings.json              what was asked; with the figures once done
    training/metrics.jsonl              losses along the way
    training/checkpoint.json            names the one folder below to resume from
    training/<step>/…                   that checkpoint
    training/lock/                      who trains
"""

from __future__ import annotations

import json
import math
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepOutput
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylens.config import TrainConfig
from raylens.engine.load import choose_device
from raylens.engine.memory import memory_advice
from raylens.engine.sae_building import build_sae, check_recipe, sae_metadata, to_inference
from raylens.errors import DamagedFileError, InputError, RunError, StoppedError
from raylens.ids import HookPoint
from raylens.store.dense import DenseRecord
from raylens.store.dense_shuffle import ShuffledRows
from raylens.store.files import Files
from raylens.store.lock import acquire

_SAMPLED_ROWS: Final = 65_536
_METRIC_ROWS: Final = 500
_WEIGHTS: Final = "weights.safetensors"
_GENERATORS: Final = "generators.pt"
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16}

# What torch, safetensors and json raise over files that are missing, truncated or not theirs.
_UNREADABLE: Final = (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, KeyError, ValueError)


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far training is; ``fvu`` and ``l0`` are of one training batch."""

    step: int
    steps: int
    tokens: int
    fvu: float
    l0: float
    dead: int
    learning_rate: float


def check_training(config: TrainConfig, record: DenseRecord, files: Files, folder: str = "") -> None:
    """Find what is wrong with a call of :func:`train_sae` before it starts; nothing is written.

    Raises:
        InputError: As :func:`train_sae`.
    """
    _Training(config, record, files, folder).finished()


def train_sae(
    config: TrainConfig,
    record: DenseRecord,
    files: Files,
    folder: str = "",
    *,
    owner: str = "train",
    report: Callable[[TrainProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train an SAE, or go on where an earlier run of the same settings ended.

    Args:
        config: What to train, and on what device.
        record: Activations to train on.
        files: Where the SAE goes.
        folder: Folder below the root of ``files``; empty for the root itself.
        owner: Run id, shown to whom the folder's lock keeps out.
        report: Called now and then.
        should_stop: Asked after every step; a checkpoint is written before leaving.

    Returns:
        Figures: ``steps``, ``tokens``, ``seconds`` of this run, and FVU, L0 and dead latents of the last batches.

    Raises:
        InputError: Nothing to train on, settings that cannot work, or the folder holds an SAE of other settings.
        BusyError: Another run trains there.
        StoppedError: ``should_stop`` said so.
        DamagedFileError: The checkpoint to go on from cannot be read.
        RunError: The loss is not finite.
    """
    run = _Training(config, record, files, folder)
    if (done := run.finished()) is not None:
        return done
    with (
        acquire(files, run.at("training/lock"), owner, what=f"SAE {files.native(folder)}"),
        memory_advice("training an SAE", run.device),
    ):
        # Another run may have finished between the look above and the lock.
        figures = run.finished() or run.train(report, should_stop)
    files.delete(run.at("training/lock"), recursive=True)
    return figures


class _Training:
    def __init__(self, config: TrainConfig, record: DenseRecord, files: Files, folder: str) -> None:
        self.config, self.record, self.files, self.folder = config, record, files, folder
        self.device = choose_device(config.device)
        _, width = record.info.column(config.hook)
        check_recipe(config, width)
        self.hook = HookPoint.parse(config.hook or record.info.hooks[0])
        self.shards = record.shards()
        self.rows = ShuffledRows(
            record,
            str(self.hook),
            batch_size=config.batch_size,
            seed=config.seed,
            buffer_bytes=config.buffer_bytes,
            shards=self.shards,
        )
        d_sae = config.d_sae or 8 * width
        # What the weights depend on; the device and the number of threads are the user's to change.
        free = {"device", "threads", "checkpoint_steps"}
        self.settings: dict[str, Any] = {
            **config.model_dump(mode="json", exclude=free),
            "d_in": width,
            "d_sae": d_sae,
            "hook": str(self.hook),
            "record": record.info.identity,
            "shards": [shard.name for shard in self.shards],
        }
        self.recipe = config.model_copy(update={"d_sae": d_sae, "hook": str(self.hook)})
        self.metrics: list[dict[str, Any]] = []
        self.width = width

    def at(self, rel: str) -> str:
        return f"{self.folder}/{rel}" if self.folder else rel

    def finished(self) -> dict[str, Any] | None:
        """Figures of a finished run of the same settings; refuses a folder of others."""
        try:
            known = self.files.read_json(self.at("training/settings.json"))
        except FileNotFoundError:
            if self.files.exists(self.at("cfg.json")):
                raise InputError(
                    f"{self.files.native(self.folder)} holds an SAE already.", hint="name another --out."
                ) from None
            return None
        asked, figures = known.get("settings"), known.get("figures")
        if not isinstance(asked, dict):
            raise DamagedFileError(
                f"{self.files.native(self.at('training/settings.json'))} does not say what was trained.",
                hint="name another --out, or remove that folder.",
            )
        if asked != self.settings:
            other = [name for name in self.settings.keys() | asked.keys() if asked.get(name) != self.settings.get(name)]
            raise InputError(
                f"{self.files.native(self.folder)} holds {'an SAE' if figures else 'the beginning of an SAE'} "
                f"trained with other {', '.join(sorted(other))}.",
                hint="name another --out, or remove that folder.",
            )
        return figures

    def train(self, report: Callable[[TrainProgress], None], should_stop: Callable[[], bool]) -> dict[str, Any]:
        config, began = self.config, time.monotonic()
        self.files.commit_json(self.at("training/settings.json"), {"settings": self.settings, "figures": None})
        trainer = self._trainer()
        resumed = self._resume(trainer)
        with closing(self.rows.batches(trainer.n_training_steps)) as batches:
            self._steps(trainer, batches, report, should_stop)
        self._save(trainer)
        last = self.metrics[-max(1, len(self.metrics) // 20) :]
        figures = {
            "steps": config.steps,
            "tokens": trainer.n_training_samples,
            "epochs": round(trainer.n_training_samples / self.rows.n_rows, 3),
            "resumed_at": resumed,
            "seconds": round(time.monotonic() - began, 3),
            "fvu": sum(row["fvu"] for row in last) / len(last),
            "l0": sum(row["l0"] for row in last) / len(last),
            "dead": last[-1]["dead"],
        }
        self.files.commit_json(self.at("training/settings.json"), {"settings": self.settings, "figures": figures})
        self._forget_checkpoints()
        return figures

    def _steps(
        self,
        trainer: SAETrainer[Any, Any],
        batches: Iterator[NDArray[np.float32]],
        report: Callable[[TrainProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        steps, every = self.config.steps, max(1, self.config.steps // _METRIC_ROWS)
        while trainer.n_training_steps < steps:
            output = trainer.step(torch.from_numpy(next(batches)))
            trainer.n_training_steps += 1
            step = trainer.n_training_steps
            if step % every == 0 or step == steps:
                report(self._measure(trainer, output))
            stop = should_stop()
            if stop or (step % self.config.checkpoint_steps == 0 and step < steps):
                self._checkpoint(trainer)
            if stop:
                raise StoppedError(
                    f"training was stopped at step {step:,} of {steps:,}.",
                    hint="run the same command again to go on from there.",
                )

    def _trainer(self) -> SAETrainer[Any, Any]:
        config, recipe = self.config, self.recipe
        sample = torch.from_numpy(self.rows.sample(_SAMPLED_ROWS))
        scale = math.sqrt(self.width) / float(sample.double().norm(dim=-1).mean())
        torch.manual_seed(config.seed)
        sae = build_sae(recipe, self.width, sae_metadata(self.record.info, self.hook, recipe), str(self.device))
        with torch.no_grad():
            sae.b_dec.copy_(sample.double().mean(dim=0) * scale)
        steps = config.steps
        decay = min(round(steps * config.decay_share), steps - 1)
        settings = SAETrainerConfig(
            total_training_samples=steps * config.batch_size,
            train_batch_size_samples=config.batch_size,
            lr=config.learning_rate,
            lr_end=config.learning_rate / 10,
            lr_warm_up_steps=min(round(steps * config.warmup_share), steps - decay),
            lr_decay_steps=decay,
            device=str(self.device),
            autocast=config.autocast,
            dead_feature_window=max(1, config.dead_after // config.batch_size),
        )
        trainer = SAETrainer(settings, sae, _nothing())
        trainer.activation_scaler.scaling_factor = scale
        return trainer

    def _measure(self, trainer: SAETrainer[Any, Any], output: TrainStepOutput) -> TrainProgress:
        with torch.no_grad():
            residual = (output.sae_out - output.sae_in).float().square().sum()
            spread = (output.sae_in - output.sae_in.mean(dim=0)).float().square().sum()
            l0 = float((output.feature_acts > 0).sum()) / len(output.sae_in)
        progress = TrainProgress(
            step=trainer.n_training_steps,
            steps=self.config.steps,
            tokens=trainer.n_training_samples,
            fvu=float(residual / spread),
            l0=l0,
            dead=int(trainer.dead_neurons.sum()),
            learning_rate=trainer.optimizer.param_groups[0]["lr"],
        )
        if not math.isfinite(progress.fvu):
            raise RunError(
                f"the loss is not finite at step {progress.step:,}.",
                hint="lower --lr, and train into another folder.",
            )
        losses = {name: float(loss.detach()) for name, loss in output.losses.items()}
        self.metrics.append({**asdict(progress), **losses})
        return progress

    # ------------------------------------------------------------------ checkpoints

    def _checkpoint(self, trainer: SAETrainer[Any, Any]) -> None:
        step = trainer.n_training_steps
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            # Not save_model, which may store another form of the parameters; buffers and all, bit for bit.
            save_file({name: value.contiguous() for name, value in trainer.sae.state_dict().items()}, local / _WEIGHTS)
            trainer.save_trainer_state(local)
            torch.save(_generators(self.device), local / _GENERATORS)
            for path in sorted(local.iterdir()):
                self.files.commit(self.at(f"training/{step:08d}/{path.name}"), path)
        self._write_metrics()
        before = self._pointer()
        self.files.commit_json(self.at("training/checkpoint.json"), {"step": step})
        if before not in (None, step):
            self.files.delete(self.at(f"training/{before:08d}"), recursive=True)

    def _resume(self, trainer: SAETrainer[Any, Any]) -> int:
        step = self._pointer()
        if step is None:
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            for path in self.files.list(self.at(f"training/{step:08d}")):
                (local / path.rpartition("/")[2]).write_bytes(self.files.read_bytes(path))
            try:
                self._load(trainer, local, step)
            except torch.OutOfMemoryError:
                raise
            except _UNREADABLE as error:
                raise DamagedFileError(
                    f"the checkpoint of step {step:,} in {self.files.native(self.at('training'))} cannot be read "
                    f"({type(error).__name__}).",
                    hint="remove the folder named there, and the same command begins again.",
                ) from error
        return step

    def _load(self, trainer: SAETrainer[Any, Any], local: Path, step: int) -> None:
        trainer.sae.load_state_dict(load_file(local / _WEIGHTS, device=str(self.device)))
        trainer.load_trainer_state(local)
        _set_generators(torch.load(local / _GENERATORS, weights_only=True), self.device)
        lines = self.files.read_bytes(self.at("training/metrics.jsonl")).decode().splitlines()
        self.metrics = [row for row in map(json.loads, lines) if row["step"] <= step]

    def _pointer(self) -> int | None:
        try:
            return int(self.files.read_json(self.at("training/checkpoint.json"))["step"])
        except FileNotFoundError:
            return None

    def _forget_checkpoints(self) -> None:
        self.files.delete(self.at("training/checkpoint.json"))
        for name in self.files.folders(self.at("training")):
            if name.isdecimal():
                self.files.delete(self.at(f"training/{name}"), recursive=True)

    def _write_metrics(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.metrics)
        self.files.commit(self.at("training/metrics.jsonl"), text.encode())

    # ------------------------------------------------------------------ the result

    def _save(self, trainer: SAETrainer[Any, Any]) -> None:
        sae = trainer.sae
        assert trainer.activation_scaler.scaling_factor is not None
        sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
        trainer.set_final_sae_metadata()
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            to_inference(sae).save_model(local)
            if self.config.weights_dtype != "float32":
                weights = load_file(local / "sae_weights.safetensors")
                narrow = _DTYPES[self.config.weights_dtype]
                save_file(
                    {name: value.to(narrow) for name, value in weights.items()}, local / "sae_weights.safetensors"
                )
            self._write_metrics()
            self.files.commit(self.at("sae_weights.safetensors"), local / "sae_weights.safetensors")
            config = json.loads((local / "cfg.json").read_text())
            self.files.commit_json(self.at("cfg.json"), {**config, "device": "cpu"})


def _nothing() -> Iterator[Tensor]:
    """The data provider of a trainer that is stepped from outside."""
    yield from ()


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
