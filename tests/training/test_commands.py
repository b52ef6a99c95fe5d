"""``raylens record``, ``train`` and ``evaluate`` as a user types them: what they print, write and refuse.

Longer than 400 lines because all of it shares one record, which takes a Ray and seconds to make.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from raylens.engine.load import load_tokenizer
from raylens_app.cli.main import main

from .conftest import D_IN, TINY_TEXT

CTX_LEN = 24
BODIES = [f"x{i} = {i}\n{TINY_TEXT}" for i in range(12)]
ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")


@dataclass(frozen=True, slots=True)
class Done:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that stdout holds."""
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one line that the command refuses with."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert (self.code, self.out, len(lines)) == (2, "", 1), self
        assert " hint: " in lines[0]
        assert "Traceback" not in self.err
        return lines[0]


def run(workspace: Path, *words: object) -> Done:
    """One command line in this process, which costs no import of torch."""
    out, err, hook = io.StringIO(), io.StringIO(), sys.excepthook
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["--workspace", str(workspace), *map(str, words)])
    sys.excepthook = hook  # main sets its own
    return Done(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True, slots=True)
class Place:
    """A workspace with a record ``acts`` of the tiny model, made by ``raylens record``."""

    workspace: Path
    model: Path
    texts: Path
    recorded: Done

    def run(self, *words: object) -> Done:
        return run(self.workspace, *words)

    def record(self, *words: object, text: str = "bodies.jsonl") -> Done:
        fixed = ("--ctx-len", CTX_LEN, "--shard-windows", 16, "--workers", 1, "--threads", 1)
        return self.run("record", "--model", self.model, "--text", self.texts / text, *fixed, *words)

    def train(self, out: object, *words: object) -> Done:
        fixed = ("--layer", 1, "--batch-size", 64, "--width", 40, "--threads", 1)
        return self.run("train", "--activations", "acts", "--out", out, *fixed, *words)

    def files(self) -> set[str]:
        """Every file and folder of the workspace and beside it."""
        return {str(path) for path in self.workspace.parent.rglob("*")}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    rows = [json.dumps({"title": f"TITLE {i}", "body": body}) + "\n" for i, body in enumerate(BODIES)]
    (folder / "bodies.jsonl").write_text("".join(rows))
    (folder / "unseen.txt").write_text("while queue:\n    node = queue.pop()\n    seen.add(node)\n" * 12)
    return folder


@pytest.fixture(scope="module")
def place(ray_cluster: None, tiny_model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    workspace = tmp_path_factory.mktemp("place") / "workspace"
    made = Place(workspace, tiny_model, texts, Done(0, "", ""))
    words = ("--layer", 1, "--hook", "mlp_out.0", "--column", "body", "--max-samples", 24, "--out", "acts", "--json")
    done = made.record(*words)
    assert done.code == 0, done.err
    return Place(workspace, tiny_model, texts, done)


@pytest.fixture(scope="module")
def sae(place: Place) -> Path:
    """An SAE on layer 1, from the command line."""
    assert place.train("my-sae", "--steps", 60, "--k", 4).code == 0
    return place.workspace / "saes/my-sae"


# ---------------------------------------------------------------------- record


def test_record_writes_parquet_of_a_column_shard_by_shard(place: Place) -> None:  # A3.01
    figures = place.recorded.document
    assert (figures["samples_total"], figures["shards_total"]) == (24, 2)
    assert figures["out"] == str(place.workspace / "records/acts")
    assert "recording: 24 of 24 windows" in place.recorded.err
    shards = f"'{figures['out']}/shards/*.parquet'"
    rows = duckdb.execute(
        "SELECT token_id, len(resid_post_1), len(mlp_out_0), special "
        f"FROM {shards} WHERE doc_id = 0 ORDER BY window_id, position"
    ).fetchall()
    assert {row[1:3] for row in rows} == {(D_IN, D_IN)}
    text = load_tokenizer(str(place.model)).decode([row[0] for row in rows if not row[3]])
    assert text in BODIES, "the column that was named, a document whole, and nothing of the title"
    assert duckdb.execute(f"SELECT count(DISTINCT window_id), count(*) FILTER (special) FROM {shards}").fetchone() == (
        24,
        24,
    )
    runs = place.run("runs", "--json").document
    assert [(one["kind"], one["status"]) for one in (runs["runs"] if isinstance(runs, dict) else runs)][-1:] == [
        ("record", "succeeded")
    ]


def test_trace_is_record_and_any_folder_takes_it(place: Place, tmp_path: Path) -> None:  # A3.01
    """``raylens trace --model --layer --out activations.parquet``, its one option more: all the text there is."""
    out = tmp_path / "activations.parquet"
    words = ("--model", place.model, "--layer", 1, "--text", place.texts / "unseen.txt", "--out", out)
    done = place.run("trace", *words, "--max-samples", 4000, "--ctx-len", CTX_LEN, "--workers", 1, "--threads", 1)
    assert done.code == 0, done.err
    assert "fewer than the 4,000 asked for" in done.err
    first, following = done.out.splitlines()
    assert f"tokens of resid_post.1 in {out} (1 shards" in first
    assert following == f"next: raylens --workspace {place.workspace} train --activations {out} --out my-sae"
    held_out = place.run("train", "-a", out, "-o", tmp_path / "sae", "--steps", 3, "--batch-size", 32, "--threads", 1)
    assert held_out.code == 0, held_out.err
    assert SAE.load_from_disk(tmp_path / "sae").cfg.d_sae == 8 * D_IN


def test_a_record_of_which_nothing_could_be_stored_is_taken_away(place: Place, tmp_path: Path) -> None:  # A3.01
    """Otherwise the corrected command would be refused, because "other activations" lie there."""
    loud = tmp_path / "loud"
    loud.mkdir()
    for file in place.model.iterdir():
        (loud / file.name).write_bytes(file.read_bytes())
    weights = load_file(loud / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 1e7
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    done = place.record("--model", loud, "--layer", 0, "--out", tmp_path / "out", text="unseen.txt")
    assert (done.code, done.out) == (1, "")
    assert "values that float16 cannot store" in done.err.splitlines()[-1]
    assert "--stored-dtype float32" in done.err.splitlines()[-1]
    assert not (tmp_path / "out/record.json").exists()


# ---------------------------------------------------------------------- train


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flags_reach_the_recipe_and_saelens_opens_what_is_made(
    architecture: str, place: Place, tmp_path: Path
) -> None:  # A3.02
    words = ["--architecture", architecture, "--k", 5, "--lr", 0.004, "--steps", 12, "--seed", 9, "--aux-coef", 0.25]
    words += ["--sparsity-coef", 0.7, "--warmup-share", 0.1, "--decay-share", 0.3, "--dead-after", 640]
    done = place.train(tmp_path / "sae", *words, "--json")
    assert done.code == 0, done.err
    assert (done.document["steps"], done.document["tokens"], done.document["out"]) == (12, 768, str(tmp_path / "sae"))
    plain = SAE.load_from_disk(tmp_path / "sae")
    assert plain.W_dec.shape == (40, D_IN)
    assert torch.isfinite(plain.W_dec).all()
    assert (plain.cfg.metadata.model_name, plain.cfg.metadata.context_size) == (str(place.model), CTX_LEN)
    assert plain.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    recipe = json.loads((tmp_path / "sae/cfg.json").read_text())["metadata"]["raylens"]["recipe"]
    assert recipe == {
        "architecture": architecture,
        "d_sae": 40,
        "k": 5,
        "sparsity_coef": 0.7,
        "learning_rate": 0.004,
        "tokens": 768,
        "batch_size": 64,
        "warmup_share": 0.1,
        "decay_share": 0.3,
        "aux_coef": 0.25,
        "dead_after": 640,
        "seed": 9,
    }


def test_train_says_where_it_is_on_stderr_and_what_came_of_it_on_stdout(place: Place, tmp_path: Path) -> None:  # A3.02
    done = place.train(tmp_path / "an sae", "--steps", 4)
    assert "training: 4 of 4 steps · FVU" in done.err
    first, following = done.out.splitlines()
    assert first.startswith("trained on 256 tokens in ")
    expected = f"next: raylens evaluate --sae-path '{tmp_path}/an sae' --model {place.model} --text SOURCE"
    assert following == expected
    again = place.train(tmp_path / "an sae", "--steps", 4)
    assert again.out == done.out
    assert "nothing was done" in again.err


def steps_in(folder: Path) -> list[int]:
    lines = (folder / "training/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_train_goes_on_after_raylens_stop_and_after_ctrl_c(place: Place) -> None:  # A3.02
    words = ["--layer", "1", "--batch-size", "64", "--width", "40", "--threads", "1", "--steps", "200000"]
    command = [str(Path(sys.executable).parent / "raylens"), "--workspace", str(place.workspace), "train"]
    command += ["-a", "acts", "-o", "long", *words, "--json"]

    def interrupted(stop: Callable[[subprocess.Popen[str], str], object]) -> tuple[Path, list[int]]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        run_id = process.stderr.readline().split()[1].rstrip(":")
        assert process.stderr.readline().startswith("training: "), "it is at work"
        time.sleep(0.5)
        stop(process, run_id)
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out) == (1, "")
        assert "hint: run the same command again to go on from there." in err.splitlines()[-1]
        assert place.run("runs", run_id, "--json").document["status"] == "stopped"
        folder = place.workspace / "saes/long"
        assert not (folder / "cfg.json").exists()
        assert json.loads((folder / "training/checkpoint.json").read_text())["step"] >= steps_in(folder)[-1]
        return folder, steps_in(folder)

    _, first = interrupted(lambda _, run_id: place.run("stop", run_id))
    refused = place.run("evaluate", "--sae", "long", "--model", place.model, "--text", place.texts / "unseen.txt")
    assert "has not come to its end" in refused.refusal
    assert "with other k, tokens" in place.train("long", "--steps", 10, "--k", 4).refusal
    _, second = interrupted(lambda process, _: os.kill(process.pid, signal.SIGINT))
    assert second[: len(first)] == first
    assert len(second) > len(first)
    assert [b - a for a, b in pairwise(second)] == [400] * (len(second) - 1), "no step twice"


# ---------------------------------------------------------------------- evaluate

RECONSTRUCTION = ("fvu", "mse", "explained_variance", "l0")
LOSSES = ("ce_recovered", "kl_recovered", "ce_clean", "ce_sae", "ce_zero", "kl_sae", "kl_zero")


def test_evaluate_prints_one_json_document_with_every_measure(place: Place, sae: Path) -> None:  # A3.03, A3.08
    """A real process, so that whatever a library prints would be seen."""
    command = [str(Path(sys.executable).parent / "raylens"), "--workspace", str(place.workspace), "evaluate"]
    command += ["--sae-path", sae.name, "--model", str(place.model), "--text", str(place.texts / "unseen.txt")]
    done = subprocess.run([*command, "--threads", "1", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluating: " in done.stderr
    result = json.loads(done.stdout)
    for name in RECONSTRUCTION:
        assert result[name]["n"] == result["n_tokens"] > 100
    for name in LOSSES:
        assert result[name]["n"] == result["n_predictions"] > 100
        assert result[name]["low"] is None, "one document has no interval"
    assert result["explained_variance"]["value"] == pytest.approx(1 - result["fvu"]["value"])
    assert 0 < result["l0"]["value"] <= 4
    assert 0 <= result["dead_fraction"] <= 1 - result["dense_fraction_1pct"]
    assert result["dense_fraction_10pct"] <= result["dense_fraction_1pct"]
    assert (result["d_sae"], result["n_documents"], result["ctx_len"]) == (40, 1, CTX_LEN)
    assert (result["held_out"], result["model"], result["trained_on_model"]) == (True, *[str(place.model)] * 2)


def test_text_that_was_trained_on_is_refused_or_labelled(place: Place, sae: Path) -> None:  # A3.03
    refusal = place.run("evaluate", "--sae-path", sae, "--activations", "acts", "--threads", 1).refusal
    assert "was trained on text of" in refusal
    assert "--allow-seen" in refusal
    words = ("--model", place.model, "--text", place.texts / "bodies.jsonl", "--column", "body", "--threads", 1)
    assert "was trained on" in place.run("evaluate", "--sae-path", sae, *words).refusal
    seen = place.run("evaluate", "--sae-path", sae, "--activations", "acts", "--threads", 1, "--allow-seen")
    assert "SEEN IN TRAINING" in seen.out
    assert "95 % interval" in seen.out
    assert "CE loss" not in seen.out, "activations alone do not tell of losses"
    shown = place.run("evaluate", "-s", sae, "-m", place.model, "--text", place.texts / "unseen.txt", "--threads", 1)
    assert "; held out)" in shown.out
    for title in ("FVU: fraction of variance unexplained", "mean squared error", "dead latents", "CE loss recovered"):
        assert title in shown.out
    assert "KL from the model's own predictions" in shown.out


def test_an_sae_of_another_model_is_evaluated_and_said_to_be(place: Place, sae: Path, tmp_path: Path) -> None:  # A3.03
    """As for a base's SAE on its fine-tune; of another width it would be refused."""
    (tmp_path / "sae_weights.safetensors").write_bytes((sae / "sae_weights.safetensors").read_bytes())
    config = json.loads((sae / "cfg.json").read_text())
    config["metadata"]["model_name"] = "openai-community/gpt2"
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    done = place.run("evaluate", "-s", tmp_path, "-a", "acts", "--allow-seen", "--threads", 1, "--json")
    assert "was trained on another model, openai-community/gpt2" in done.err
    assert done.document["trained_on_model"] == "openai-community/gpt2"


# ---------------------------------------------------------------------- bad input


BAD_RECORDS = [
    ("--layer 3", r"has no resid_post.3: its layers are 0 to 2"),
    ("--layer -1", r"'--layer': Input should be greater than or equal to 0"),
    ("--hook resid_pots.1", r"unknown hook point 'resid_pots'. hint: there (?:is|are) .*resid_post"),
    ("--hook resid_post", r"resid_post needs a layer. hint: write resid_post.N, N from 0 to 2"),
    ("--hook embeddings.1", r"embeddings is one tensor and takes no layer. hint: write embeddings\."),
    ("--hook blocks.1.hook_resid_post", r"TransformerLens name; write resid_post.N"),
    ("", r"no layer was named. hint: add --layer N"),
    ("--layer 1 --column text", r"bodies.jsonl:1 has no column 'text'.*body"),
    ("--layer 1 --ctx-len 65", r"65 tokens is longer than the 64 that .* takes. hint: lower --ctx-len to 64"),
    ("--layer 1 --ctx-len 2", r"'--ctx-len': Input should be greater than or equal to 4"),
    ("--layer 1 --max-samples 0", r"'--max-samples': Input should be greater than or equal to 1"),
    ("--layer 1 --stored-dtype float8", r"stored_dtype is not valid: input should be 'float16' or 'float32'"),
    ("--layer 1 --text hf:", r"'hf:' does not name a data set"),
    ("--layer 1 --text nothing.txt", r"nothing.txt"),
    ("--layer 1 --model ./nowhere", r"\./nowhere"),
]


@pytest.mark.parametrize(("words", "message"), BAD_RECORDS, ids=[words or "nothing" for words, _ in BAD_RECORDS])
def test_record_refuses_bad_input_and_leaves_nothing(
    words: str, message: str, tiny_model: Path, texts: Path, tmp_path: Path
) -> None:  # A3.01
    fixed = ("--model", tiny_model, "--column", "body")
    text = () if "--text" in words else ("--text", texts / "bodies.jsonl")
    done = run(tmp_path / "ws", "record", *fixed, *text, "--out", tmp_path / "out", *words.split())
    assert re.search(message, done.refusal), done.refusal
    assert list(tmp_path.iterdir()) == []


BAD_TRAININGS = [
    ("--activations nope", r"records/nope holds no recorded activations. hint: raylens record --out"),
    ("--activations ./nope", r"/nope holds no recorded activations"),
    ("--layer 2", r"unknown recorded hook point 'resid_post.2'. hint: there (?:is|are) .*resid_post.1"),
    ("--layer 1 --hook mlp_out.0", r"--layer and --hook both name a point"),
    ("", r"unknown recorded hook point '\(none named\)'. hint: there are mlp_out.0, resid_post.1"),
    (
        "--layer 1 --architecture gated",
        r"input should be 'standard', 'topk', 'batchtopk' or 'jumprelu' \(got 'gated'\)",
    ),
    ("--layer 1 --k 41 --width 40", r"k is 41 and there are 40 latents. hint: lower --k, or raise --width"),
    ("--layer 1 --k 2.5", r"TopK takes a whole k, not 2.5"),
    ("--layer 1 --k 0", r"'--k': Input should be greater than or equal to 1"),
    ("--layer 1 --lr 0", r"learning_rate is not valid: input should be greater than 0"),
    ("--layer 1 --batch-size 1", r"'--batch-size': Input should be greater than or equal to 2"),
    ("--layer 1 --batch-size 100000", r"fewer than a batch of 100,000. hint: record more text, or lower --batch-size"),
    ("--layer 1 --steps 5 --tokens 50", r"--steps and --tokens say the same thing"),
    ("--layer 1 --device cuda:99", r"no device 'cuda:99'"),
    ("--layer 1 --weights-dtype int8", r"weights_dtype is not valid"),
    ("--layer 1 --address auto", r"is not in a workspace, so it is not known whether the cluster sees it"),
]


@pytest.mark.parametrize(("words", "message"), BAD_TRAININGS, ids=[words or "nothing" for words, _ in BAD_TRAININGS])
def test_train_refuses_bad_input_and_leaves_nothing(
    words: str, message: str, place: Place, tmp_path: Path
) -> None:  # A3.02
    before = place.files()
    activations = () if "--activations" in words else ("--activations", "acts")
    done = place.run("train", *activations, "--out", tmp_path / "sae", *words.split())
    assert re.search(message, done.refusal), done.refusal
    assert list(tmp_path.iterdir()) == []
    assert place.files() == before
    elsewhere = run(tmp_path / "ws", "train", "--activations", "acts", "--out", "sae")
    assert "ws/records/acts holds no recorded" in elsewhere.refusal
    assert list(tmp_path.iterdir()) == [], "a mistyped --workspace makes no workspace"


BAD_EVALUATIONS = [
    ("--sae nope --activations acts", r"unknown SAE of the workspace 'nope'. hint: there (?:is|are) .*my-sae"),
    ("--sae ./nope --activations acts", r"there is no folder \./nope"),
    ("--sae raylens-pico-res/layer_99 --activations acts", r"layer_99"),
    ("--sae my-sae", r"there is nothing to evaluate on"),
    ("--sae my-sae --text stdlib", r"--text needs a model to run through"),
    ("--sae my-sae --activations nope", r"records/nope holds no recorded activations"),
    ("--sae my-sae --activations acts --text stdlib", r"--activations and --text are two different inputs"),
    ("--sae my-sae --activations acts --model raylens/pico", r"--activations and --model are two different inputs"),
    ("--sae my-sae --activations acts --layer 2", r"unknown recorded hook point 'resid_post.2'.*resid_post.1"),
    ("--sae my-sae --model MODEL --text TEXT --layer 7", r"layers? .*0 to 2|0 to 2"),
    ("--sae my-sae --model MODEL --text TEXT --ctx-len 65", r"longer than the 64 that"),
    (
        "--sae my-sae --model MODEL --text TEXT --n-tokens 0",
        r"'--n-tokens': Input should be greater than or equal to 1",
    ),
    ("--sae my-sae --model MODEL --text nothing.txt", r"nothing.txt"),
    ("--sae my-sae --model MODEL", r"no text was named to evaluate .* on"),
    ("--sae my-sae --model ./nowhere --text TEXT", r"\./nowhere"),
    ("--sae raylens-pico-res/layer_1 --model MODEL --text TEXT", rf"does not fit .* has {D_IN}"),
    ("--sae raylens-pico-res/layer_1 --activations acts", rf"reads vectors of \d+ and resid_post.1 .* is {D_IN} wide"),
]


@pytest.mark.parametrize(("words", "message"), BAD_EVALUATIONS, ids=[words for words, _ in BAD_EVALUATIONS])
def test_evaluate_refuses_bad_input(words: str, message: str, place: Place, sae: Path) -> None:  # A3.03, A2.15
    named = {"MODEL": place.model, "TEXT": place.texts / "unseen.txt"}
    before = place.files()
    done = place.run("evaluate", "--threads", 1, *(named.get(word, word) for word in words.split()))
    assert re.search(message, done.refusal), done.refusal
    assert place.files() == before


# ---------------------------------------------------------------------- help

LIGHT = """
import sys
from raylens_app.cli.main import main
for command in ("record", "trace", "train", "evaluate"):
    assert main([command, "--help"]) == 0
heavy = {"torch", "ray", "transformers", "sae_lens", "duckdb"} & set(sys.modules)
sys.exit(f"loaded: {sorted(heavy)}" if heavy else 0)
"""


def test_help_loads_nothing_heavy() -> None:  # A0.20
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--max-samples", "--sparsity-coef", "--allow-seen"):
        assert option in done.stdout
