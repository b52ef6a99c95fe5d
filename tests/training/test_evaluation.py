"""A3.03, A3.08: evaluation through a model, against the slow way: one window, one hook, one token at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

from raylens.bundle.paths import PICO, ROOT
from raylens.config import EvaluateConfig
from raylens.engine.evaluation import evaluate_model, evaluate_record, overlap
from raylens.engine.inference_sae import InferenceSae
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.text_windows import cut_windows
from raylens.errors import CorpusError, InputError, MismatchError
from raylens.ids import HookPoint
from raylens.sources import parse_source
from raylens.store.dense import DenseRecord
from raylens_jobs.evaluate import run_evaluate

from .conftest import D_IN, MakeRecord

WIDTH: int = json.loads((ROOT / "pico/config.json").read_text())["hidden_size"]
TEXTS = {
    "one.txt": "def area(r):\n    return 3.14 * r ** 2\n" * 4,
    "two.txt": "for x in range(10):\n    print(x)\n" * 6,
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(PICO)


@pytest.fixture
def text(tmp_path: Path) -> str:
    folder = tmp_path / "text"
    folder.mkdir()
    for name, content in TEXTS.items():
        (folder / name).write_text(content)
    return str(folder)


def save_sae(folder: Path, d_in: int = WIDTH, hook: str = "blocks.3.hook_resid_post", **metadata: Any) -> Path:
    torch.manual_seed(0)
    config = TopKSAEConfig(d_in=d_in, d_sae=4 * d_in, k=20)
    config.metadata = SAEMetadata(model_name=PICO, hook_name=hook, context_size=32, **metadata)
    sae = TopKSAE(config)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn_like(sae.W_dec) / d_in**0.5)
        sae.W_enc.copy_(sae.W_dec.T)
    sae.save_model(folder)
    return folder


def the_slow_way(model: LoadedModel, sae: LoadedSae, windows: list[np.ndarray], layer: int) -> dict[str, float]:
    """Every window alone, without padding; token 0 (BOS) is left as it is and not counted."""
    block = model.model.get_submodule(f"model.layers.{layer}")
    x_all, x_hat_all, sums, n = [], [], dict.fromkeys(("clean", "sae", "zero"), 0.0), 0
    with torch.no_grad():
        for ids in windows:
            tokens = torch.from_numpy(ids.astype(np.int64))[None]
            logits, states = {}, []
            handle = block.register_forward_hook(lambda _m, _a, out, keep=states: keep.append(out))
            logits["clean"] = model.model(tokens).logits[0]
            handle.remove()
            x = states[0][0, 1:]
            x_hat = sae.sae.decode(sae.sae.encode(x))
            for name, value in (("sae", x_hat), ("zero", torch.zeros_like(x))):
                handle = block.register_forward_hook(
                    lambda _m, _a, out, value=value: torch.cat([torch.as_tensor(out)[:, :1], value[None]], dim=1)
                )
                logits[name] = model.model(tokens).logits[0]
                handle.remove()
            for position in range(1, len(ids) - 1):
                n += 1
                for name in sums:
                    sums[name] -= float(logits[name][position].log_softmax(dim=-1)[tokens[0, position + 1]])
            x_all.append(x.double())
            x_hat_all.append(x_hat.double())
    x, x_hat = torch.cat(x_all), torch.cat(x_hat_all)
    fvu = ((x - x_hat) ** 2).sum() / ((x - x.mean(dim=0)) ** 2).sum()
    ce = {name: value / n for name, value in sums.items()}
    recovered = (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"])
    return {"fvu": float(fvu), "n": n, "n_tokens": len(x), "recovered": recovered, **ce}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_evaluation_equals_the_slow_way(model: LoadedModel, text: str, tmp_path: Path, batch_size: int) -> None:
    sae = load_sae(save_sae(tmp_path / "sae"))
    windows = list(cut_windows(model.tokenizer, [parse_source(text, None)], ctx_len=32, pack=False, seed=1))
    assert {len(window.token_ids) for window in windows} > {32}  # some are padded
    result = evaluate_model(model, sae, windows, batch_size=batch_size).as_json()
    slow = the_slow_way(model, sae, [window.token_ids for window in windows], 3)
    assert (result["n_tokens"], result["n_predictions"]) == (slow["n_tokens"], slow["n"])
    assert result["n_documents"] == 2
    assert result["fvu"]["value"] == pytest.approx(slow["fvu"], rel=1e-4)
    assert result["l0"]["value"] <= 20
    for name in ("clean", "sae", "zero"):
        assert result[f"ce_{name}"]["value"] == pytest.approx(slow[name], rel=1e-4)
    assert result["ce_recovered"]["value"] == pytest.approx(slow["recovered"], abs=1e-3)


def test_a_perfect_sae_recovers_everything(model: LoadedModel, text: str, tmp_path: Path) -> None:
    folder = save_sae(tmp_path / "sae")
    sae = load_sae(folder)
    with torch.no_grad():  # ± each axis, all of them active: the identity
        axes = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH), torch.zeros(2 * WIDTH, WIDTH)])
        sae.sae.W_dec.copy_(axes)
        sae.sae.W_enc.copy_(axes.T)
    assert isinstance(sae.sae, InferenceSae)
    sae.sae.cfg = replace(sae.sae.cfg, k=2 * WIDTH + 16)
    windows = cut_windows(model.tokenizer, [parse_source(text, None)], ctx_len=32, pack=False, seed=1)
    result = evaluate_model(model, sae, windows).as_json()
    assert result["fvu"]["value"] == pytest.approx(0, abs=1e-9)
    assert result["ce_recovered"]["value"] == pytest.approx(1, abs=1e-4)
    assert result["kl_recovered"]["value"] == pytest.approx(1, abs=1e-4)
    assert result["dead_fraction"] == pytest.approx(0.5)


def test_recorded_activations_are_evaluated_in_bounded_pieces(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(shards=3)
    sae = load_sae(save_sae(tmp_path / "sae", d_in=D_IN, hook="blocks.1.hook_resid_post"))
    whole = evaluate_record(sae, record).as_json()
    x = torch.from_numpy(np.concatenate([record.read(i, None) for i in range(3)]).astype(np.float32))
    error = (x - sae.sae.decode(sae.sae.encode(x))).double().square().sum()
    fvu = error / (x.double() - x.double().mean(dim=0)).square().sum()
    assert whole["n_tokens"] == len(x) == 3 * 248
    assert whole["fvu"]["value"] == pytest.approx(float(fvu), rel=1e-5)
    assert whole["explained_variance"]["value"] == pytest.approx(1 - float(fvu), rel=1e-5)
    assert "ce_recovered" not in whole
    assert evaluate_record(sae, record, n_tokens=300).as_json()["n_tokens"] == 300


def test_what_does_not_fit_is_refused(model: LoadedModel, make_record: MakeRecord, text: str, tmp_path: Path) -> None:
    record = make_record(shards=1)
    narrow = load_sae(save_sae(tmp_path / "narrow", d_in=8, hook="blocks.1.hook_resid_post"))
    with pytest.raises(MismatchError, match=r"reads vectors of 8 and resid_post.1 .* is 16 wide"):
        evaluate_record(narrow, record)
    windows = list(cut_windows(model.tokenizer, [parse_source(text, None)], ctx_len=32, pack=False, seed=1))
    with pytest.raises(MismatchError, match=rf"is {WIDTH} wide"):
        evaluate_model(model, narrow, windows)
    with pytest.raises(CorpusError, match=r"not one text token"):
        evaluate_model(model, load_sae(save_sae(tmp_path / "sae")), [])
    with pytest.raises(InputError, match=r"can be read but not replaced"):
        evaluate_model(model, narrow, windows, hook=HookPoint.parse("path.model.layers.1.self_attn#1"))


def test_text_that_was_trained_on_is_refused_unless_allowed(make_record: MakeRecord, text: str, tmp_path: Path) -> None:
    corpus = {"corpus": [{"kind": "stdlib", "part": "train"}]}
    seen = str(save_sae(tmp_path / "seen", d_in=D_IN, hook="blocks.1.hook_resid_post", raylens=corpus))
    unknown = str(save_sae(tmp_path / "unknown", d_in=D_IN, hook="blocks.1.hook_resid_post"))
    trained, other = (
        make_record(shards=1),
        make_record(shards=1, name="other", corpus=({"kind": "stdlib", "part": "held_out"},)),
    )

    def held_out(sae: str, record: DenseRecord, **config: Any) -> bool | None:
        return run_evaluate(sae, EvaluateConfig(threads=1, **config), record)["held_out"]

    with pytest.raises(InputError, match=r"trained on text of stdlib:train.*--allow-seen"):
        held_out(seen, trained)
    assert held_out(seen, trained, allow_seen=True) is False
    assert held_out(seen, other) is True
    assert held_out(unknown, trained) is None
    with pytest.raises(InputError, match=r"no text was named"):
        run_evaluate(unknown, EvaluateConfig(model="some/model", threads=1))


def test_overlap_of_corpora() -> None:
    parts = ("train", "held_out", "all", "tests")
    train, held_out, whole, tests = ({"kind": "stdlib", "part": part} for part in parts)
    a, b = {"kind": "files", "sha256": "1"}, {"kind": "files", "sha256": "2"}
    hub = {"kind": "hub", "repo": "r", "config": None, "split": "train[:1%]"}
    assert overlap([train], [whole])
    assert overlap([whole], [held_out])
    assert overlap([train, a], [b, a])
    assert overlap([hub], [{**hub, "split": "train[5%:]", "revision": "other"}])  # rows may have moved
    assert overlap([hub], [{**hub, "split": "train"}])
    assert overlap([hub], [{**hub, "split": "train[100:]"}])  # how many rows 1 % are is not known here
    assert overlap([{**hub, "split": "train[10:30]"}], [{**hub, "split": "train[29:]"}])
    assert overlap([tests], [tests])
    assert not overlap([train], [held_out])
    assert not any(overlap([tests], [other]) for other in (train, held_out, whole))
    assert not overlap([a], [b])
    assert not overlap([hub], [{**hub, "split": "test"}])
    assert not overlap([hub], [{**hub, "split": "train[1%:]"}])  # most data sets of text have no other split
    assert not overlap([{**hub, "split": "train[30:]"}], [{**hub, "split": "train[10:30]"}])
    assert not overlap([a], [train])
    assert not overlap([], [train])
