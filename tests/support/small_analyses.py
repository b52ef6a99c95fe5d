"""Feature analyses to send about: of a small cache that was explained, and any that Hypothesis thinks of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from explained import explanation, score, write
from raylens.labels.analysis_pages import load_pages, save_pages
from raylens.labels.names import NeuronpediaId
from raylens.schema import HISTOGRAM_BINS, round_activation
from raylens.store.analysis import TABLES, Analysis, AnalysisHeader, Pass
from raylens.store.analysis_files import load_parquet, save_parquet
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, SAE, make_cache

SOURCE = NeuronpediaId("tiny", "3-tiny-res")


def colleagues(folder: Path) -> Workspace:
    """A colleague's workspace: a cache that was explained twice, with scores, one explanation failed."""
    workspace = Workspace.open(folder, create=True)
    cache = make_cache(workspace)
    write(
        cache,
        "one",
        [explanation(f, f"words about {f}", rule=None) for f in (0, 1)] + [explanation(2, None, error="no answer")],
        [score(0, 0.75, ci_low=0.5, ci_high=1.0), score(0, None, metric="auc"), score(1, 0.1, control="shuffled")],
    )
    write(cache, "two", [explanation(0, "something else", explanation_id="x0", model=None)])
    return workspace


def saved(analysis: Analysis, folder: Path, form: str) -> Path:
    """Written as Parquet, or as Neuronpedia's files."""
    if form == "parquet":
        save_parquet(analysis, folder)
    else:
        save_pages(analysis, folder, SOURCE)
    return folder


def loaded(folder: Path, form: str) -> Analysis:
    """Read back."""
    return load_parquet(folder) if form == "parquet" else load_pages(folder)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FLOATS = st.floats(2.0**-6, 1024, width=32)


@st.composite
def analyses(draw: st.DrawFn) -> Analysis:
    """Small ones of any shape: no windows, special tokens, letters of several bytes, features that never fire."""
    d_sae, n_documents = draw(st.integers(1, 20)), draw(st.integers(1, 3))
    words = draw(st.lists(st.lists(TEXTS, min_size=1, max_size=5), max_size=4))
    leads = [draw(TEXTS) for _ in words]
    windows = [
        {
            "window_id": at,
            "doc_id": draw(st.integers(0, n_documents - 1)),
            "start": draw(st.integers(0, 99)),
            "token_ids": draw(st.lists(st.integers(0, 2**31 - 1), min_size=len(tokens), max_size=len(tokens))),
            "token_offsets": np.cumsum([len(lead), *map(len, tokens[:-1])]).tolist(),
            "text": lead + "".join(tokens),
        }
        for at, (lead, tokens) in enumerate(zip(leads, words, strict=True))
    ]
    rows = []
    for feature in range(d_sae):
        fires = draw(st.lists(st.sampled_from(range(len(words))), unique=True, max_size=3)) if words else []
        found = []
        for window in fires:
            places = draw(st.lists(st.integers(0, len(words[window]) - 1), unique=True, min_size=1, max_size=3))
            values = round_activation(np.array([draw(FLOATS) for _ in places], np.float32)).tolist()
            found.append((-draw(st.sampled_from(values)), window, sorted(zip(places, values, strict=True))))
        for peak, window, places in sorted(found):
            rows += [
                {"feature": feature, "peak": -peak, "window_id": window, "position": at, "activation": value}
                for at, value in places
            ]
    used = sorted({row["window_id"] for row in rows})
    kept = [windows[one] | {"window_id": at} for at, one in enumerate(used)]
    owners = sorted({one["doc_id"] for one in kept})
    kept = [one | {"doc_id": owners.index(one["doc_id"])} for one in kept]
    rows = [row | {"window_id": used.index(row["window_id"])} for row in rows]
    documents = [
        {"doc_id": at, "source": draw(TEXTS), "domain": ".", "path": draw(TEXTS), "split": "", "n_tokens": 3}
        for at in range(len(owners))
    ]
    active = {row["feature"] for row in rows}
    stats = [
        {"feature": f, "n_active": 3 * (f in active), "n_windows": 2 * (f in active), "density": draw(FLOATS) / 1e4}
        | {"mean_activation": draw(FLOATS) if f in active else None}
        | {"histogram": [int(f in active)] + [0] * (HISTOGRAM_BINS - 1)}
        | {"max_activation": draw(FLOATS) if f in active else None}
        for f in range(d_sae)
    ]
    logits = [
        {"feature": f, "sign": sign, "rank": rank, "token_id": rank, "token": draw(TEXTS), "logit": draw(FLOATS)}
        for f in range(d_sae)
        for sign in ("top", "bottom")
        for rank in range(draw(st.integers(0, 2)))
    ]
    near = [
        {"feature": f, "rank": 0, "neighbour": draw(st.integers(0, d_sae - 1)), "cosine": draw(FLOATS) / 1000}
        for f in draw(st.lists(st.integers(0, d_sae - 1), unique=True, max_size=3).map(sorted))
    ]
    said = [
        explanation(f, draw(st.none() | TEXTS.filter(bool))) | {"pass": 0}
        for f in draw(st.lists(st.integers(0, d_sae - 1), unique=True, max_size=3).map(sorted))
    ]
    figures = [score(row["feature"], draw(st.none() | FLOATS)) | {"pass": 1} for row in said]
    passes = [Pass(kind="explanations", settings={"by": draw(TEXTS)}), Pass(kind="scores", settings={"of": [1, None]})]
    header = AnalysisHeader(
        sae=str(SAE),
        d_sae=d_sae,
        spec={"layer": 3, "hook": "resid_post.3", "neuronpedia_id": None},
        model=draw(st.none() | TEXTS.filter(bool)),
        revision=None,
        ctx_len=draw(st.none() | st.just(128)),
        prefix_ids=[0],
        packed=draw(st.booleans()),
        cache_id=CACHE_ID,
        cache_name=draw(TEXTS),
        n_windows=100,
        n_text_tokens=12_800,
        n_special_tokens=100,
        n_activations=5000,
        top=3,
        passes=passes if said else [],
    )
    listed = {"documents": documents, "windows": kept, "activations": rows, "feature_stats": stats, "logits": logits}
    listed |= {"neighbours": near, "explanations": said, "scores": figures}
    tables = {name: pa.Table.from_pylist(some, TABLES[name]) for name, some in listed.items()}
    return Analysis(
        header, {name: one for name, one in tables.items() if one.num_rows or name not in ("logits", "neighbours")}
    )
