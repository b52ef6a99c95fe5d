"""A3.01: recording on a real local Ray, against a plain forward; reruns, limits, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylens.bundle.paths import PICO, ROOT
from raylens.bundle.stdlib import read_stdlib
from raylens.config import RecordConfig
from raylens.engine.load import load_model
from raylens.errors import InputError, StoppedError, UnknownNameError
from raylens.store.dense import DenseRecord
from raylens.store.files import Files
from raylens.store.runs import RunJournal, request_stop
from raylens_jobs.record import plan_record, run_record

PICO_CONFIG = json.loads((ROOT / "pico/config.json").read_text())
N_LAYERS: int = PICO_CONFIG["num_hidden_layers"]
LONGEST: int = PICO_CONFIG["max_position_embeddings"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three held-out modules, about 4000 tokens."""
    folder = tmp_path_factory.mktemp("text")
    for file in read_stdlib():
        if file.path in {"json/scanner.py", "json/tool.py", "graphlib.py"}:
            (folder / file.path.replace("/", "_").replace(".py", ".txt")).write_text(file.text)
    return str(folder)


def config(folder: str, **changes: Any) -> RecordConfig:
    values = {"hooks": ("resid_post.1", "mlp_out.2"), "texts": (folder,), "ctx_len": 64, "shard_windows": 16}
    return RecordConfig.of({**values, "batch_size": 8, "workers": 1, **changes})


def record(config: RecordConfig, folder: Path, run_id: str | None = None) -> tuple[DenseRecord, dict[str, Any]]:
    workspace = Files.open(folder.parent / "workspace")
    with RunJournal.start(workspace, "record", {}, run_id=run_id) as journal:
        figures = run_record(plan_record(config), Files.open(folder), "", journal)
    return DenseRecord.open(Files.open(folder)), figures


def content(made: DenseRecord) -> list[bytes]:
    return [made.files.read_bytes(f"shards/{shard.index:08d}.parquet") for shard in made.shards()]


@pytest.fixture(scope="module")
def whole(ray_cluster: None, texts: str, tmp_path_factory: pytest.TempPathFactory) -> DenseRecord:
    return record(config(texts), tmp_path_factory.mktemp("whole") / "record")[0]


def test_recorded_activations_are_those_of_a_plain_forward(whole: DenseRecord, texts: str) -> None:  # A3.01
    torch.set_num_threads(1)
    model = load_model(PICO)
    states: dict[str, Any] = {}
    for name, module in (("resid", "model.layers.1"), ("mlp", "model.layers.2.mlp")):

        def keep(_m: torch.nn.Module, _a: object, out: torch.Tensor, name: str = name) -> None:
            states[name] = out

        model.model.get_submodule(module).register_forward_hook(keep)
    tables = [whole.files.open_input(f"shards/{shard.index:08d}.parquet") for shard in whole.shards()]
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.concat_tables([pq.read_table(table) for table in tables])
    window_ids, token_ids = rows["window_id"].to_numpy(), rows["token_id"].to_numpy()
    n_checked = 0
    for window_id in np.unique(window_ids):
        here = window_ids == window_id
        ids = token_ids[here]
        assert ids[0] == model.prefix_ids[0]
        assert (rows["position"].to_numpy()[here] == np.arange(len(ids))).all()
        assert (rows["special"].to_numpy(zero_copy_only=False)[here] == (ids == ids[0])).all()
        with torch.no_grad():
            model.model(torch.from_numpy(ids.astype(np.int64))[None])
        for column, name in (("resid_post_1", "resid"), ("mlp_out_2", "mlp")):
            stored = np.stack(rows[column].filter(pa.array(here)).to_pylist()).astype(np.float32)
            assert np.allclose(stored, states[name][0].numpy(), rtol=2e-3, atol=2e-2)
        n_checked += len(ids)
    assert n_checked == rows.num_rows == sum(shard.n_rows for shard in whole.shards())
    joined = "".join(
        str(
            model.tokenizer.decode([t for t in token_ids[rows["doc_id"].to_numpy() == doc] if t != model.prefix_ids[0]])
        )
        for doc in np.unique(rows["doc_id"].to_numpy())
    )
    assert sorted(joined) == sorted("".join(path.read_text() for path in sorted(Path(texts).iterdir())))


def test_a_rerun_makes_only_what_is_missing_and_ends_the_same(whole: DenseRecord, texts: str, tmp_path: Path) -> None:
    first, figures = record(config(texts, max_samples=24), tmp_path / "record")
    assert [shard.n_windows for shard in first.shards()] == [16, 8]
    assert (figures["samples"], figures["shards"]) == (24, 2)
    (tmp_path / "record/shards/00000000.json").unlink()
    again, figures = record(config(texts), tmp_path / "record")  # shard 0 is gone, 1 was cut short
    assert figures["samples_total"] == sum(shard.n_windows for shard in whole.shards())
    assert content(again) == content(whole)
    again, figures = record(config(texts, max_samples=5), tmp_path / "record")
    assert (figures["shards"], content(again)) == (0, content(whole))
    with pytest.raises(InputError, match=r"other activations \(ctx_len"):
        record(config(texts, ctx_len=32), tmp_path / "record")


def test_a_stopped_run_keeps_its_shards(ray_cluster: None, texts: str, tmp_path: Path) -> None:
    workspace, files = Files.open(tmp_path / "workspace"), Files.open(tmp_path / "record")
    with RunJournal.start(workspace, "record", {}) as journal:

        def stop(_: object) -> None:
            request_stop(workspace, journal.run_id)
            journal.beat()

        with pytest.raises(StoppedError, match="same command again"):
            run_record(plan_record(config(texts)), files, "", journal, stop)
    assert DenseRecord.open(files).shards()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hooks": (f"resid_post.{N_LAYERS}",)},
            rf"raylens/pico has no resid_post.{N_LAYERS}: its layers are 0 to {N_LAYERS - 1}",
        ),
        ({"hooks": ("resid_pots.1",)}, r"unknown hook point 'resid_pots'.*resid_post"),
        ({"texts": ("/nowhere/x.txt",)}, r"/nowhere/x\.txt"),
        ({"ctx_len": 4 * LONGEST}, rf"longer than the {LONGEST}"),
        ({"model": "/nowhere"}, r"unknown model"),
    ],
)
def test_bad_requests_are_refused_before_any_work(changes: dict[str, Any], message: str, texts: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_record(config(texts, **changes))
    assert isinstance(caught.value, UnknownNameError) == message.startswith(("raylens", "unknown"))
