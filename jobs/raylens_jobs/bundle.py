"""``make bundle``: rebuild the embedded artefacts from the running interpreter's standard library.

::

    python -m raylens_jobs.bundle [all|manifest|pico|saes|embedding|traces|cards] [--out DIR] [--work DIR]

Targets build upon one another in that order: the corpus manifest, the model and its tokenizer, SAEs
on the model's activations, the sentence embedding over the model's tokenizer, sample traces with
what the model writes, and cards written from the figures that each step measured on held-out files
(``metrics.json`` beside each artefact).
What a step can lose is under ``--work`` (checkpoints, recorded activations), so that a build that
was killed goes on where it was.

Training uses every core that this process may use. Two cores take about half an hour for the model and
minutes for the rest. The result is that of the shipped recipe, not its bits: the order in which
threads add, and the CPU's bfloat16 instructions, are not the same everywhere.

As a script it starts itself anew with settings that are read only when a process starts: large
tensors stay in the heap (glibc gives them back to the kernel at every step otherwise, and pages are
zeroed again and again), and waiting threads sleep, because spinning ones starve one another on
shared cores. They change the speed and nothing else.
"""

from __future__ import annotations

import argparse
import logging
import lzma
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from raylens.bundle import cards, corpus_manifest, embedding, embedding_recipe, paths, pico, tokenizer
from raylens.bundle.stdlib import StdlibFile, read_stdlib
from raylens.ids import digest
from raylens.score.intervals import clustered_interval
from raylens_jobs.bundle_folders import Folders, provenance, write_metrics
from raylens_jobs.bundle_saes import build_saes
from raylens_jobs.bundle_traces import build_traces
from raylens_jobs.cluster import available_cpus

log = logging.getLogger(__name__)

START_SETTINGS: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def build_manifest(folders: Folders) -> None:
    """``corpus.json``: every file that the other targets read."""
    manifest = corpus_manifest.write_manifest(folders.out)
    log.info("corpus of Python %s: %d files", manifest.python, len(manifest.files))


def build_pico(folders: Folders, recipe: pico.PicoRecipe | None = None) -> None:
    """Train the tokenizer and the model on the training split, and measure what is stored.

    Bits per byte are of the weights as they ship, rounded and read back.
    """
    recipe = recipe or pico.PicoRecipe()
    settings = {"recipe": asdict(recipe), "corpus": corpus_manifest.running_manifest().digest}
    work = folders.work / f"pico-{digest(settings)[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    train, held_out = list(read_stdlib("train")), list(read_stdlib("held_out"))
    if (work / "tokenizer.json").exists():
        fast = PreTrainedTokenizerFast.from_pretrained(work)
    else:
        log.info("training the tokenizer")
        fast = tokenizer.train_tokenizer((f.text for f in train), work)
    documents, unseen = encode(fast, train), encode(fast, held_out)
    assert isinstance(fast.bos_token_id, int)
    assert isinstance(fast.pad_token_id, int)
    config = pico.pico_config(recipe, len(fast), fast.bos_token_id, fast.pad_token_id)
    model = pico.train_pico(documents, config, recipe, work / "checkpoint.pt", log.info)
    folder = folders.out / "pico"
    pico.save_pico(model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((work / name).read_bytes())
    stored = LlamaForCausalLM.from_pretrained(folder).eval()
    log.info("measuring bits per byte on %d held-out files", len(held_out))
    held_out_figures = measure_bits(stored, held_out, unseen)
    metrics = {
        **provenance(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": {k: getattr(config, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        "vocabulary": len(fast),
        "recipe": asdict(recipe),
        "train": {
            "files": len(train),
            "bytes": sum(len(f.text.encode()) for f in train),
            "tokens": sum(map(len, documents)),
            "tokens_seen": recipe.steps * recipe.tokens_per_step,
        },
        "held_out": held_out_figures,
    }
    write_metrics(folder, metrics)
    log.info("bits per byte %.4f", held_out_figures["bits_per_byte"])


def measure_bits(
    model: LlamaForCausalLM, files: Sequence[StdlibFile], ids: Sequence[NDArray[np.int64]]
) -> dict[str, Any]:
    """Bits per byte over ``files``, its interval by file, each file's own, and what ``xz -9`` needs."""
    sizes = np.array([len(f.text.encode()) for f in files], np.float64)
    bits = np.array([pico.document_bits(model, row) for row in ids])
    paths_ = [f.path for f in files]
    together = "".join(f.text for f in files).encode()
    alone = [8 * len(lzma.compress(f.text.encode(), preset=9)) for f in files]
    return {
        "files": len(files),
        "bytes": int(sizes.sum()),
        "tokens": sum(map(len, ids)),
        "bits_per_byte": float(bits.sum() / sizes.sum()),
        "interval": clustered_interval(bits, paths_, sizes),
        "xz_together": 8 * len(lzma.compress(together, preset=9)) / len(together),
        "xz_each": sum(alone) / float(sizes.sum()),
        "per_file": {p: round(float(b / n), 4) for p, b, n in zip(paths_, bits, sizes, strict=True)},
    }


def build_embedding(folders: Folders) -> None:
    """Train the static sentence embedding over pico's tokenizer, and judge it as it is stored."""
    recipe = embedding_recipe.EmbeddingRecipe()
    train, held_out = list(read_stdlib("train")), list(read_stdlib("held_out"))
    tokens = Tokenizer.from_file(str(folders.out / "pico" / "tokenizer.json"))
    folder = paths.embedding_path(folders.out)
    model = embedding_recipe.train_embedding(train, tokens, recipe, log.info)
    folder.mkdir(parents=True, exist_ok=True)
    embedding_recipe.save_embedding(model, folder)
    random = embedding_recipe.untrained(tokens, recipe)

    def by_chance(texts: Sequence[str]) -> NDArray[np.float32]:
        return random.encode(list(texts), show_progress_bar=False)

    stored = embedding.StaticEmbedder.load(folder).embed
    metrics = {
        **provenance(),
        "recipe": embedding_recipe.recipe_json(recipe),
        "held_out": embedding_recipe.judge_embedding(stored, by_chance, train, held_out, tokens),
    }
    write_metrics(folder, metrics)


def build_cards(folders: Folders) -> None:
    """Model cards from the figures, then the list of hashes."""
    for path in cards.write_cards(folders.out):
        log.info("wrote %s", path.relative_to(folders.out))
    paths.write_hashes(folders.out)
    log.info("%d files, %.2f MB", len(paths.bundle_files(folders.out)), paths.bundle_size(folders.out) / 1e6)


TARGETS: Final[dict[str, Callable[[Folders], None]]] = {
    "manifest": build_manifest,
    "pico": build_pico,
    "saes": build_saes,
    "embedding": build_embedding,
    "traces": build_traces,
    "cards": build_cards,
}


def encode(fast: PreTrainedTokenizerFast, files: Sequence[StdlibFile]) -> list[NDArray[np.int64]]:
    """Token ids of each file without BOS, int64 ``[n]``."""
    return [np.array(fast(f.text, add_special_tokens=False)["input_ids"], np.int64) for f in files]


def main(argv: Sequence[str]) -> None:
    """Build what ``argv`` names."""
    parser = argparse.ArgumentParser(prog="python -m raylens_jobs.bundle", description="Rebuild embedded artefacts.")
    parser.add_argument("target", nargs="?", default="all", choices=["all", *TARGETS])
    parser.add_argument("--out", type=Path, default=paths.ROOT, help="the bundle to write (default: the package's own)")
    parser.add_argument("--work", type=Path, default=Path("build/bundle"), help="checkpoints (default: build/bundle)")
    asked = parser.parse_args(argv)
    folders = Folders(asked.out.resolve(), asked.work.resolve())
    for folder in (folders.out, folders.work):
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(available_cpus())
    for name, build in TARGETS.items():
        if asked.target in ("all", name):
            log.info("== %s", name)
            build(folders)
    if asked.target != "cards":
        paths.write_hashes(folders.out)


if __name__ == "__main__":
    if any(name not in os.environ for name in START_SETTINGS):
        command = [sys.executable, "-m", "raylens_jobs.bundle", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **START_SETTINGS})
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main(sys.argv[1:])
