"""The prompts on a real endpoint: one command, which no test can stand in for.

::

    OPENAI_API_KEY=… python -m bench.llm --base-url https://…/v1 --model NAME [--budget-usd 2 --prompt-price .15 …]

A small cache of the bundled model is made, features of all densities are explained with every prompt,
and each explanation is scored with every scorer, beside a shuffled control. Kept in
``bench/results/llm.json``: how many replies could be read, by prompt, and the score cards. Answers are
cached, so that a run that was ended goes on, and the same command again costs nothing.

pico is small and its features are mostly about tokens; what this measures is whether a model follows
the prompts and how far above its own control it scores, not how interpretable a real model is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from raylens.ids import SaeId
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

SAE = "raylens-pico-res/layer_3"
EXPLAINERS = ("default", "contrastive", "cot", "logits")
SCORERS = ("detection", "fuzz", "recall", "simulation", "intruder", "concept")
RESULT = Path(__file__).parent / "results" / "llm.json"


def main() -> int:
    """Run, print a summary, write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name of the model at the endpoint")
    parser.add_argument("--base-url", help="the endpoint, up to and with /v1")
    parser.add_argument("--provider", choices=("openai", "openrouter", "offline"))
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--explainers", nargs="+", choices=EXPLAINERS, default=EXPLAINERS)
    parser.add_argument("--scorers", nargs="+", choices=(*SCORERS, "surprisal"), default=SCORERS)
    parser.add_argument("--log-probs", action="store_true", help="ask for probabilities, which give AUCs")
    parser.add_argument("--workspace", type=Path, default=Path("build/bench-llm"))
    for name in ("budget-usd", "prompt-price", "answer-price", "requests-per-minute"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--max-concurrency", type=int)
    asked = parser.parse_args()
    limits = ("provider", "base_url", "budget_usd", "prompt_price", "answer_price", "requests_per_minute")
    given = {name: getattr(asked, name) for name in (*limits, "max_concurrency")}
    words = [
        w for name, value in given.items() if value is not None for w in (f"--{name.replace('_', '-')}", f"{value}")
    ]
    cached = raylens(asked.workspace, "cache", "--sae", SAE, "--n-tokens", "500000")
    features = of_all_densities(asked.workspace, cached["cache_id"], asked.features)
    found: dict[str, Any] = {}
    for explainer in asked.explainers:
        chosen = [word for feature in features for word in ("--feature", str(feature))]
        source = ["--non-activating-source", "faiss"] if explainer == "contrastive" else []
        explained = raylens(
            asked.workspace,
            "explain",
            "--explainer",
            explainer,
            "--explainer-model",
            asked.model,
            *source,
            *words,
            *chosen,
        )
        scorers = [word for name in asked.scorers for word in ("--scorer", name)]
        probabilities = ["--log-probs"] if asked.log_probs else []
        scored = raylens(
            asked.workspace, "score", "--pass", explained["pass_id"], "--judge-model", asked.model, *scorers,
            *probabilities, *words,
        )  # fmt: skip
        found[explainer] = {"explained": explained, "scored": scored}
        print(f"{explainer}: {explained['statuses']}; unanswered items {sum(scored['lost'].values())}")
        for row in scored["card"]:
            if row["metric"] in ("balanced_accuracy", "auc", "correlation", "accuracy", "is_concept"):
                shuffled = "" if row["shuffled"] is None else f" (shuffled {row['shuffled']:.3f})"
                print(f"  {row['scorer']:11} {row['metric']:18} median {row['median'] or float('nan'):.3f}{shuffled}")
    result = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "model": asked.model, "explainers": found}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {RESULT.relative_to(Path.cwd()) if RESULT.is_relative_to(Path.cwd()) else RESULT.name}")
    return 0


def raylens(workspace: Path, *words: str) -> dict[str, Any]:
    """What a command prints as JSON; its progress goes to stderr, and its error ends this command."""
    command = [sys.executable, "-m", "raylens", "--workspace", str(workspace), *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def of_all_densities(workspace: Path, cache_id: str, n: int) -> list[int]:
    """Features that fire often enough to be explained, evenly over their order by density."""
    reader = CacheReader(Workspace.open(workspace), cache_id)
    table = reader.table("feature_stats", SaeId.parse(SAE), ["feature", "n_windows", "density"])
    assert table is not None
    often = table.filter(np.asarray(table["n_windows"].to_numpy() >= 250)).sort_by("density")["feature"].to_numpy()
    return sorted(often[np.linspace(0, len(often) - 1, min(n, len(often))).round().astype(int)].tolist())


if __name__ == "__main__":
    sys.exit(main())
