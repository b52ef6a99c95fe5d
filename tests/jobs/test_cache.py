"""The cache job end to end, on a real local Ray: what it stores, and what a rerun does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_runs import SAE, Made, lend_map, make
from raylens.config import CacheConfig
from raylens.errors import BusyError, InputError, MismatchError, StoppedError
from raylens.store.runs import RunJournal, read_runs, request_stop
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from raylens_jobs.cache import plan_cache


def test_stored_activations_are_those_of_transformers_and_sae_lens(undisturbed: Made) -> None:
    """A4.01, and the oracle: every token of every document, computed directly, one window at a time."""
    import sae_lens
    from transformers import AutoModelForCausalLM

    from raylens.bundle.paths import model_path, sae_path
    from raylens.ids import SaeId

    sae_id = SaeId.parse(SAE)
    model_folder, sae_folder = model_path("raylens/pico"), sae_path(sae_id)
    assert model_folder is not None
    assert sae_folder is not None
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    sae = sae_lens.SAE.load_from_disk(str(sae_folder))
    with connect(undisturbed.workspace) as connection:
        windows = connection.execute("SELECT window_id, token_ids FROM windows ORDER BY window_id").fetchall()
        stored = connection.execute(
            "SELECT window_id, position, feature, activation FROM activations WHERE sae = ?", [str(sae_id)]
        ).fetchnumpy()
    assert len(windows) == undisturbed.figures["windows_total"]
    n_wrong = 0
    order = np.argsort(stored["window_id"], kind="stable")
    bounds = np.searchsorted(stored["window_id"][order], np.arange(len(windows) + 1))
    for window_id, token_ids in windows:
        with torch.no_grad():
            hidden = model(torch.tensor([token_ids]), output_hidden_states=True).hidden_states[4][0]
            expected = sae.encode(hidden).numpy()
        rows = order[bounds[window_id] : bounds[window_id + 1]]
        actual = np.zeros_like(expected)
        actual[stored["position"][rows], stored["feature"][rows]] = stored["activation"][rows]
        # 10-bit mantissa, and sums in another order; a latent at the k-th place may trade places.
        n_wrong += int((~np.isclose(actual, expected, rtol=2e-3, atol=2e-3)).sum())
    assert n_wrong <= 1e-5 * len(stored["feature"])


def test_windows_cover_the_corpus_and_density_counts_text_tokens_only(undisturbed: Made, texts: Path) -> None:
    with connect(undisturbed.workspace) as connection:
        rows = connection.execute(
            "SELECT path, string_agg(text, '' ORDER BY start) "
            "FROM windows JOIN documents USING (cache_id, doc_id) GROUP BY path"
        ).fetchall()
        n_tokens = connection.execute("SELECT sum(n_tokens) FROM documents").fetchall()[0][0]
        worst = connection.execute(
            "SELECT max(abs(density - n_active / ?)) FROM feature_stats", [float(undisturbed.figures["tokens_total"])]
        ).fetchall()[0][0]
    assert {Path(path).name: text for path, text in rows} == {p.name: p.read_text() for p in texts.iterdir()}
    assert n_tokens == undisturbed.figures["tokens_total"]
    assert worst < 1e-12


def test_a_rerun_does_nothing(undisturbed: Made, config: CacheConfig) -> None:
    before = {one.path: one.modified for one in undisturbed.workspace.files.scan("caches")}
    again = make(Path(undisturbed.workspace.url), config)
    after = {one.path: one.modified for one in undisturbed.workspace.files.scan("caches")}
    assert again.figures["tokens"] == 0
    assert again.cache_id == undisturbed.cache_id
    assert {p: t for p, t in before.items() if p.endswith(".parquet")} == {
        p: t for p, t in after.items() if p.endswith(".parquet")
    }


def test_raising_n_tokens_reuses_what_is_there(
    undisturbed: Made, ray_cluster: None, config: CacheConfig, folder: Path
) -> None:
    """Also: one worker and one SAE give the rows of two workers and two SAEs."""
    few = make(folder, config.model_copy(update={"n_tokens": 6_000}))
    assert 6_000 <= few.figures["tokens_total"] < 6_000 + 128
    kept = few.shard_files()
    more = make(folder, config)
    assert more.figures["tokens"] < more.figures["tokens_total"]
    assert len(kept & more.shard_files()) >= len(kept) - 2  # all but the partial block's
    assert more.rows().equals(undisturbed.rows())
    fewer_again = make(folder, config.model_copy(update={"n_tokens": 6_000}))
    assert fewer_again.rows().equals(undisturbed.rows()), "a shorter rerun must not shrink a cache"


@pytest.mark.slow
def test_more_tokens_than_the_corpus_holds_are_said_and_no_reason_to_stop(
    ray_cluster: None, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line, of two short documents; a rerun says it again."""
    from raylens.engine.load import load_tokenizer

    documents = [path.read_text()[:1500] for path in sorted(texts.iterdir())[:2]]
    (tmp_path / "some.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    tokenizer = load_tokenizer("raylens/pico")
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in documents]
    words = ["--text", str(tmp_path / "some.jsonl"), "--n-tokens", "123456", "--sae", SAE, "--workers", "1"]
    for tokens in (sum(lengths), 0):
        assert main(["--workspace", str(tmp_path / "ws"), "cache", *words, "--json"]) == 0
        said = capsys.readouterr()
        figures = json.loads(said.out)
        assert f"the text holds {sum(lengths):,} tokens, fewer than the 123,456 asked for" in said.err
        assert (figures["tokens"], figures["tokens_total"]) == (tokens, sum(lengths))
        # 128 a window, one of them BOS.
        assert figures["windows_total"] == sum(-(-length // 127) for length in lengths)
    (run, _) = read_runs(Workspace.open(tmp_path / "ws").files)
    assert run.figures["tokens_total"] == sum(lengths)
    with connect(Workspace.open(tmp_path / "ws")) as connection:
        counted = connection.execute("SELECT count(*), sum(n_tokens) FROM documents").fetchall()
    assert counted == [(2, sum(lengths))]


def test_a_run_that_is_asked_to_stop_keeps_its_shards_and_goes_on(
    undisturbed: Made, config: CacheConfig, folder: Path
) -> None:
    workspace = Workspace.open(folder, create=True)

    def ask(_: object) -> None:
        (run,) = read_runs(workspace.files)
        request_stop(workspace.files, run.run_id)
        journals[0].beat()

    journals: list[RunJournal] = []
    start = RunJournal.start

    def remembered(*args: object, **kwargs: object) -> RunJournal:
        journals.append(start(*args, **kwargs))  # pyright: ignore[reportArgumentType]
        return journals[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunJournal, "start", remembered)
        with pytest.raises(StoppedError):
            make(folder, config, ask)
    assert [run.status for run in read_runs(workspace.files)] == ["stopped"]
    rest = make(folder, config)
    assert 0 < rest.figures["tokens"] < rest.figures["tokens_total"]
    assert rest.rows().equals(undisturbed.rows())


def test_two_runs_at_once_in_one_cache_are_refused(undisturbed: Made, config: CacheConfig) -> None:
    cache = undisturbed.workspace.cache(undisturbed.cache_id)
    with cache.lock("another-run"), pytest.raises(BusyError, match="another-run"):
        make(Path(undisturbed.workspace.url), config)


def test_filter_bos_and_min_activation_leave_rows_out(undisturbed: Made, config: CacheConfig, folder: Path) -> None:
    asked = config.model_copy(update={"filter_bos": True, "min_activation": 1.0})
    lend_map(undisturbed, folder, plan_cache(asked).cache_id)
    made = make(folder, asked)
    with connect(undisturbed.workspace) as connection:
        expected = connection.execute(
            "SELECT count(*) FROM activations WHERE position > 0 AND activation > 1.0 AND sae = ?", [SAE]
        ).fetchall()[0][0]
    rows = made.rows()
    assert abs(rows.num_rows - expected) <= 1e-3 * expected  # rounding at the border of 1.0
    assert rows["position"].to_numpy().min() > 0


def test_what_does_not_fit_is_refused_before_any_work(config: CacheConfig, tmp_path: Path) -> None:
    """A2.15."""
    with pytest.raises(InputError, match="longer than the 1024"):
        plan_cache(config.model_copy(update={"ctx_len": 2048}))
    with pytest.raises(InputError, match="twice"):
        plan_cache(config.model_copy(update={"saes": (config.saes[0], config.saes[0])}))
    with pytest.raises(InputError, match="layer_9"):
        plan_cache(config.model_copy(update={"saes": ("raylens-pico-res/layer_9",)}))
    with pytest.raises(MismatchError):
        plan_cache(config.model_copy(update={"saes": (str(_sae_of_width(tmp_path, 64)),), "override_guard": True}))


def _sae_of_width(folder: Path, d_in: int) -> Path:
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="raylens/pico", hook_name="blocks.3.hook_resid_post")
    TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=128, k=4, metadata=metadata)).save_model(folder / "sae")
    return folder / "sae"
