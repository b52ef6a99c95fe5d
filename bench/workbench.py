"""How live the workbench is: from a toggle to new probabilities at the client, and what an edit costs in a pass.

The services run as people start them, on pico, and the client speaks through a real WebSocket. Half of the toggles
are of an additive edit, half of a clamp that has to encode. Edited passes are measured in one process, each beside
plain ones of the same text in turn, so that what else the machine does meets both.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.sync.client import connect

from bench.serving import LONG, MIDDLE, TOKEN, Texts, services
from raylens.api.edits import Method, Where
from raylens.client import Client
from raylens.engine.load import load_model
from raylens.engine.saes import load_sae
from raylens.engine.tap import tap
from raylens.workbench.edited_reading import next_logits
from raylens.workbench.edits import LoadedEdit


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Seconds from toggle to probabilities, and edited passes against plain ones."""
    n = max(10, int(200 * scale))
    texts = Texts(seed=1)
    with services(folder) as url:
        live = toggles(url, texts.of(MIDDLE, 1)[0], n)
    passes = edited_passes(texts.of(LONG, 1)[0], max(5, int(40 * scale)))
    return {
        "toggle_p95_ms": round(float(np.quantile(live, 0.95)) * 1e3, 2),
        "toggle_p50_ms": round(float(np.median(live)) * 1e3, 2),
        "edited_pass_ratio": round(max(passes.values()), 3),
        **{f"edited_pass_{name}": round(ratio, 3) for name, ratio in passes.items()},
    }


def toggles(url: str, text: str, n: int) -> list[float]:
    """Seconds of each."""
    with Client(url, TOKEN) as client:
        bench = client.workbench()
        bench.load_model()
        patches = [
            bench.patch(feature="f_3_7", strength=2.0, enabled=False).id,
            bench.patch(feature="f_3_11", method="clamp", strength=1.0, enabled=False).id,
        ]
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Raylens-Session": str(bench.session)}
        found: list[float] = []
        with connect(url.replace("http", "ws", 1) + "/ws/inference", additional_headers=headers) as socket:
            socket.send(json.dumps({"text": text}))
            socket.recv(timeout=60)
            for turn in range(n + 4):
                began = time.perf_counter()
                socket.send(json.dumps({"toggle": patches[turn // 2 % 2]}))
                said = json.loads(socket.recv(timeout=60))
                assert said["type"] == "prediction", said
                found.append(time.perf_counter() - began)
    return found[4:]


def edited_passes(text: str, n: int) -> dict[str, float]:
    """Time of a pass with one edit ÷ without, by what the edit does; medians of alternating passes."""
    torch.set_num_threads(1)
    pico, sae = load_model("raylens/pico", device="cpu"), load_sae("raylens-pico-res/layer_3")
    ids = [*pico.prefix_ids, *pico.tokenizer(text, add_special_tokens=False)["input_ids"]]
    hidden = sae.spec.hook
    codes = sae.sae.encode(tap(pico, [hidden], torch.tensor([ids]))[hidden][0])
    densest = int((codes > 0).sum(0).argmax())  # the dearest: others that may push it out are encoded where it may fire
    kinds: dict[str, tuple[Method, Where]] = {
        "add": ("add", "all"),
        "clamp": ("clamp", "all"),
        "project_out": ("project_out", "all"),
        "firing": ("add", "firing"),
    }
    edits = {name: LoadedEdit(hidden, kind[0], 4.0, kind[1], sae=sae, feature=densest) for name, kind in kinds.items()}
    taken: dict[str, list[float]] = {name: [] for name in ("plain", *edits)}
    for turn in range(n + 1):
        for name in taken:
            began = time.perf_counter()
            next_logits(pico, ids, [edits[name]] if name in edits else [])
            if turn:
                taken[name].append(time.perf_counter() - began)
    plain = float(np.median(taken["plain"]))
    return {name: float(np.median(taken[name])) / plain for name in edits}
