"""A3.02: SAEs trained through sae-lens: they learn, load everywhere, and resume exactly."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from raylens.config import TrainConfig
from raylens.engine.sae_building import build_sae, sae_metadata, to_inference
from raylens.engine.sae_training import TrainProgress, check_training, train_sae
from raylens.engine.saes import load_sae
from raylens.errors import BusyError, DamagedFileError, InputError, StoppedError
from raylens.ids import HookPoint
from raylens.store.dense import DenseRecord
from raylens.store.files import Files
from raylens.store.lock import acquire

from .conftest import D_IN, HOOK, MakeRecord, info

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def config(architecture: str = "topk", **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "architecture": architecture,
        "d_sae": 64,
        "k": 4,
        "sparsity_coef": {"standard": 0.5, "jumprelu": 0.05}.get(architecture),
        "learning_rate": 1e-2,
        "tokens": 400 * 64,
        "batch_size": 64,
        "dead_after": 2000,
        "device": "cpu",
        "checkpoint_steps": 60,
    }
    return TrainConfig.of({**values, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sae_weights.safetensors")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_and_loads_as_saelens_and_as_raylens(
    architecture: str, make_record: MakeRecord, tmp_path: Path
) -> None:  # A3.02, A3.08
    seen: list[TrainProgress] = []
    record = make_record(shards=8)
    figures = train_sae(config(architecture), record, Files.open(tmp_path / "sae"), report=seen.append)
    sae, loaded = SAE.load_from_disk(tmp_path / "sae"), load_sae(tmp_path / "sae")
    x = torch.from_numpy(np.concatenate([record.read(i, HOOK) for i in range(8)]).astype(np.float32))
    with torch.no_grad():
        activations = sae.encode(x)
        error = (sae.decode(activations) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert float(error) < 0.35
    assert figures["fvu"] == pytest.approx(float(error), rel=0.3)
    assert figures["steps"] == 400
    assert [p.step for p in seen] == sorted({p.step for p in seen})
    assert seen[-1].fvu < seen[0].fvu / 2
    assert sae.W_dec.norm(dim=-1).detach().numpy() == pytest.approx(1, abs=1e-5)
    if architecture in ("topk", "batchtopk"):
        assert float((activations > 0).sum(dim=1).float().mean()) <= (4 if architecture == "topk" else 6)
    assert loaded.spec.hook == HookPoint("resid_post", 1)
    assert loaded.spec.model_name == "raylens/pico"
    assert sae.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    assert (sae.cfg.metadata.context_size, sae.cfg.metadata.prepend_bos) == (32, True)
    assert torch.equal(loaded.sae.encode(x[:50]), activations[:50])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_saved_form_computes_what_the_trained_one_did(architecture: str) -> None:
    torch.manual_seed(1)
    sae = build_sae(config(architecture), D_IN, sae_metadata(info(), HookPoint.parse(HOOK), config()), "cpu")
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        x = torch.randn(40, D_IN)
        if architecture == "jumprelu":
            torch.abs(sae.get_parameter("threshold"), out=sae.get_parameter("threshold"))  # as sae-lens keeps it
        if architecture == "batchtopk":
            sae.topk_threshold = torch.tensor(0.11, dtype=torch.double)
        before = sae.decode(sae.encode(x))
        sae.fold_activation_norm_scaling_factor(1.0)
        plain = to_inference(sae)
        after = plain.decode(plain.encode(x))
    if architecture == "batchtopk":  # a threshold in place of a choice within the batch: sae-lens's own approximation
        assert plain.cfg.architecture() == "jumprelu"
        return
    assert torch.allclose(before, after, atol=1e-5)


def test_float16_weights_are_half_the_size_and_load_as_float32(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    for dtype in ("float32", "float16"):
        train_sae(config(tokens=640, weights_dtype=dtype), record, Files.open(tmp_path / dtype))
    wide, narrow = weights(tmp_path / "float32"), weights(tmp_path / "float16")
    assert all(torch.equal(narrow[name], wide[name].half()) for name in wide)
    assert json.loads((tmp_path / "float16/cfg.json").read_text())["dtype"] == "float32"
    assert SAE.load_from_disk(tmp_path / "float16").W_dec.dtype == torch.float32


def test_dead_latents_are_revived(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(shards=8)
    dead = {
        aux: train_sae(config(d_sae=256, k=2, aux_coef=aux), record, Files.open(tmp_path / f"{aux}"))["dead"]
        for aux in (0.0, 1.0)
    }
    assert dead[1.0] < dead[0.0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stopped_run_goes_on_to_the_same_weights(architecture: str, make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    settings = config(architecture, tokens=100 * 64, checkpoint_steps=40)
    straight = train_sae(settings, record, Files.open(tmp_path / "straight"))
    asked = iter([False] * 57 + [True])
    with pytest.raises(StoppedError, match=r"step 58 of 100.*same command"):
        train_sae(settings, record, Files.open(tmp_path / "broken"), should_stop=lambda: next(asked))
    assert not (tmp_path / "broken/cfg.json").exists()
    resumed = train_sae(settings, record, Files.open(tmp_path / "broken"))
    assert (straight["resumed_at"], resumed["resumed_at"]) == (0, 58)
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert all(torch.equal(a[name], b[name]) for name in a)
    metrics = [(tmp_path / name / "training/metrics.jsonl").read_text() for name in ("straight", "broken")]
    assert metrics[0] == metrics[1]
    assert sorted(p.name for p in (tmp_path / "broken/training").iterdir()) == ["metrics.jsonl", "settings.json"]


KILLED = """
import os, signal, sys, torch
from raylens.config import TrainConfig
from raylens.engine.sae_training import train_sae
from raylens.store.dense import DenseRecord
from raylens.store.files import Files
torch.set_num_threads(1)
steps = 0
def kill_self():
    global steps
    steps += 1
    if steps == 150:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
train_sae(TrainConfig.model_validate_json(sys.argv[1]), DenseRecord.open(Files.open(sys.argv[2])),
          Files.open(sys.argv[3]), should_stop=kill_self)
"""


def test_kill_9_in_training_loses_only_what_came_after_the_checkpoint(make_record: MakeRecord, tmp_path: Path) -> None:
    record, settings = make_record(), config(tokens=200 * 64)
    arguments = [settings.model_dump_json(), str(tmp_path / "record"), str(tmp_path / "killed")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    figures = train_sae(settings, record, Files.open(tmp_path / "killed"))
    assert figures["resumed_at"] == 120
    train_sae(settings, record, Files.open(tmp_path / "straight"))
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    record, files = make_record(), Files.open(tmp_path / "sae")
    first = train_sae(config(tokens=640), record, files)
    before = (tmp_path / "sae/sae_weights.safetensors").stat().st_mtime_ns
    assert train_sae(config(tokens=640, threads=1, checkpoint_steps=7), record, files) == first
    assert (tmp_path / "sae/sae_weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"trained with other learning_rate\."):
        train_sae(config(tokens=640, learning_rate=1e-4), record, files)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/cfg.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds an SAE already"):
        train_sae(config(), record, Files.open(tmp_path / "foreign"))


def test_two_runs_do_not_train_one_sae(make_record: MakeRecord, tmp_path: Path) -> None:
    files = Files.open(tmp_path / "sae")
    with acquire(files, "training/lock", "train-elsewhere", what="it"), pytest.raises(BusyError, match="elsewhere"):
        train_sae(config(), make_record(), files)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 65}, r"k is 65 and there are 64 latents"),
        ({"k": 2.5}, r"TopK takes a whole k"),
        ({"batch_size": 1}, r"one token has no variance"),
        ({"batch_size": 5000}, r"992 tokens, fewer than a batch"),
        ({"hook": "resid_post.9"}, r"unknown recorded hook point 'resid_post.9'"),
        ({"device": "cuda:99"}, r"no device 'cuda:99'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    changes: dict[str, Any], message: str, make_record: MakeRecord, tmp_path: Path
) -> None:
    record, files = make_record(), Files.open(tmp_path / "sae")
    for attempt in (check_training, train_sae):
        with pytest.raises(InputError, match=message):
            attempt(config(**changes), record, files)
    assert not (tmp_path / "sae").exists(), "or the corrected command would be refused"


def test_a_checkpoint_that_cannot_be_read_is_named(make_record: MakeRecord, tmp_path: Path) -> None:
    record, settings, files = make_record(), config(tokens=640), Files.open(tmp_path / "sae")
    asked = iter([False] * 4 + [True])
    with pytest.raises(StoppedError):
        train_sae(settings, record, files, should_stop=lambda: next(asked))
    folder = tmp_path / "sae/training/00000005"
    for name in ("weights.safetensors", "trainer_state.pt", "generators.pt"):
        whole = (folder / name).read_bytes()
        for content in (whole[: len(whole) // 2], b"", None):
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
            with pytest.raises(DamagedFileError, match=r"step 5 in .*/sae/training cannot be read .*begins again"):
                train_sae(settings, record, files)
            (folder / name).write_bytes(whole)
    assert train_sae(settings, record, files)["resumed_at"] == 5


def test_settings_that_say_nothing_are_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    (tmp_path / "sae/training").mkdir(parents=True)
    (tmp_path / "sae/training/settings.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"settings\.json does not say what was trained"):
        train_sae(config(), make_record(), Files.open(tmp_path / "sae"))


def test_no_special_token_is_trained_on(make_record: MakeRecord, tmp_path: Path) -> None:
    """BOS rows hold 1000 in the record; one of them in the mean would move the decoder's bias by dozens."""
    train_sae(config(tokens=64), make_record(), Files.open(tmp_path / "sae"))
    bias = weights(tmp_path / "sae")["b_dec"]
    assert math.isclose(float(bias.mean()), 3, abs_tol=0.5)


def test_a_record_of_several_points_trains_the_one_named(tmp_path: Path) -> None:
    from .conftest import activations, tokens

    record = DenseRecord.create(
        Files.open(tmp_path / "two"), "", info(hooks=("resid_post.0", "mlp_out.2"), widths=(D_IN, D_IN))
    )
    values = {"resid_post.0": activations(256, 0), "mlp_out.2": activations(256, 1) + 50}
    record.write(0, "s", tokens(256), values, window_first=0, n_windows=8, cursor={})
    train_sae(config(hook="mlp_out.2", tokens=64), record, Files.open(tmp_path / "sae"))
    assert float(weights(tmp_path / "sae")["b_dec"].mean()) == pytest.approx(53, abs=0.5)
    assert load_sae(tmp_path / "sae").spec.hook == HookPoint("mlp_out", 2)
