"""The merged catalogue: its rows, names, and the one answer about a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.bundle import paths as bundle
from raylens.catalog import OTHER_MODEL, Catalog, support, supported_models
from raylens.catalog.lookup import built_in, bundle_entries
from raylens.errors import InputError, UnknownNameError
from raylens.ids import HookPoint, SaeId

CATALOG = built_in()


def bundle_root(folder: Path, layers: tuple[int, ...] = (1, 3, 5)) -> Path:
    """A bundle's SAE folders, with configs and without weights."""
    for layer in layers:
        place = folder / "saes" / f"layer_{layer}"
        place.mkdir(parents=True)
        (place / "cfg.json").write_text(json.dumps({"d_in": 192, "d_sae": 1536, "architecture": "topk"}))
    return folder


def test_row_gemma() -> None:  # A0.03
    rows = [entry for entry in CATALOG.find("google/gemma-2-2b") if entry.sae.release == "gemma-scope-2b-pt-res"]
    assert len(rows) == 316
    one = CATALOG.entry("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert one in rows
    assert (one.hook, one.width, one.l0) == (HookPoint("resid_post", 20), 16384, 71)
    # The -canonical sibling lists the same file with this Neuronpedia id.
    assert one.neuronpedia_id == "gemma-2-2b/20-gemmascope-res-16k"


def test_row_llama_3_has_its_true_model() -> None:  # A0.04
    entry = CATALOG.entry("Juliushanhanhan/llama-3-8b-it-res")
    assert str(entry.sae) == "llama-3-8b-it-res-jh/blocks.25.hook_resid_post"
    assert (entry.model, entry.hook) == ("meta-llama/Meta-Llama-3-8B-Instruct", HookPoint("resid_post", 25))
    assert CATALOG.release("llama-3-8b-it-res-jh") == (entry,), "blocks.25.hook_resid_post only"
    assert CATALOG.find("meta-llama/Meta-Llama-3-8B-Instruct") == (entry,)

    llama_31 = support(CATALOG, "meta-llama/Llama-3.1-8B")
    assert llama_31.status == "supported"
    assert entry not in llama_31.entries
    assert entry in llama_31.related
    saes = llama_31.row()["saes"]
    assert isinstance(saes, list)
    assert {row["fit"] for row in saes if row["sae"] == str(entry.sae)} == {OTHER_MODEL}


def test_row_mistral() -> None:  # A0.05
    rows = CATALOG.find("mistralai/Mistral-7B-v0.1")
    assert [str(entry.hook) for entry in rows] == ["resid_pre.8", "resid_pre.16", "resid_pre.24"]
    assert {entry.sae.release for entry in rows} == {"mistral-7b-res-wg"}
    assert CATALOG.find("mistral-7b") == rows


@pytest.mark.parametrize("name", ["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"])
def test_models_behind_an_api_get_an_answer(name: str) -> None:  # A0.06, A0.23
    answer = support(CATALOG, name)
    assert (answer.status, answer.entries, answer.fallback) == ("api-only", (), ("ablation", "counterfactuals"))
    assert "through an API only" in answer.reason
    with pytest.raises(InputError, match="API only") as error:
        CATALOG.find(name)
    assert "ablation and counterfactuals" in error.value.hint


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_span_without_a_model_gets_an_answer(name: str | None) -> None:  # A0.23
    assert support(CATALOG, name).status == "unnamed"


def test_an_unknown_model_gets_close_matches() -> None:  # A0.23
    answer = support(CATALOG, "gemma-2-2c")
    assert answer.status == "unknown"
    assert "gemma-2-2b" in answer.hint
    with pytest.raises(UnknownNameError, match="unknown model 'gemma-2-2c'") as error:
        CATALOG.find("gemma-2-2c")
    assert "gemma-2-2b" in error.value.hint


def test_a_sibling_without_saes_of_its_own_is_shown_others() -> None:  # A0.04
    answer = support(CATALOG, "gemma-2-2b-it")
    assert (answer.status, answer.entries) == ("other-model", ())
    assert {entry.model for entry in answer.related} == {"google/gemma-2-2b"}
    assert CATALOG.find("google/gemma-2-2b-it") == ()
    assert "--override-guard" in answer.hint


@given(st.one_of(st.text(max_size=40), st.sampled_from(CATALOG.models)))
def test_there_is_always_an_answer_and_it_is_json(name: str) -> None:
    answer = support(CATALOG, name)
    assert json.loads(json.dumps(answer.row()))["status"] == answer.status
    assert answer.reason.endswith(".")
    assert answer.hint


def test_the_supported_models_are_the_whole_catalogue() -> None:  # A0.07
    rows = supported_models(CATALOG)
    assert json.loads(json.dumps(rows)) == rows
    assert sum(int(str(row["saes"])) for row in rows) == len(CATALOG.entries)
    assert {row["model"] for row in rows} == set(CATALOG.models)
    pairs = [(row["model"], row["release"]) for row in rows]
    assert len(pairs) == len(set(pairs))
    assert ("google/gemma-2-2b", "gemma-scope-2b-pt-res") in pairs
    labelled = {row["release"]: row["labels_available"] for row in rows}  # A0.08
    assert labelled["llama-3-8b-it-res-jh"] is True
    assert labelled["mistral-7b-res-wg"] is False


def test_find_equals_a_search_of_every_row() -> None:
    for model in CATALOG.models:
        slow = {entry.sae for entry in CATALOG.entries if entry.model == model}
        assert {entry.sae for entry in CATALOG.find(model)} == slow
    assert len({entry.sae for entry in CATALOG.entries}) == len(CATALOG.entries)


@given(st.sampled_from(CATALOG.entries))
def test_every_row_is_found_by_its_id(entry: object) -> None:
    sae = getattr(entry, "sae", None)
    assert isinstance(sae, SaeId)
    assert CATALOG.get(sae) == entry
    assert CATALOG.entry(str(sae)) == entry


def test_the_bundle_comes_first(tmp_path: Path) -> None:
    root = bundle_root(tmp_path)
    catalog = Catalog.load(bundle_root=root)
    rows = catalog.find("raylens/pico")
    assert [str(entry.sae) for entry in rows] == [f"raylens-pico-res/layer_{layer}" for layer in (1, 3, 5)]
    assert [str(entry.hook) for entry in rows] == ["resid_post.1", "resid_post.3", "resid_post.5"]
    assert {(entry.width, entry.source) for entry in rows} == {(1536, "bundle")}
    assert catalog.entries[:3] == rows
    assert catalog.find("pico") == rows
    assert supported_models(catalog)[0]["model"] == "raylens/pico"


def test_the_bundles_own_rows_are_those_it_lists() -> None:
    listed = [(sae.id, sae.model, sae.hook, sae.width) for sae in bundle.list_saes()]
    assert [(e.sae, e.model, e.hook, e.width) for e in bundle_entries()] == listed


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("gemma-scope-2b-pt-res", "is a release of 316 SAEs", "raylens catalog --release gemma-scope-2b-pt-res"),
        ("google/gemma-scope-2b-pt-res", "is a release of 316 SAEs", "gemma-scope-2b-pt-res/layer_0/"),
        ("gemma-scope-2b-pt-res/layer_20", "unknown SAE", "gemma-scope-2b-pt-res/layer_20/width"),
        ("gemma-scope-2b-pt-rse/layer_20", "unknown SAE release", "gemma-scope-2b-pt-res"),
        ("", "unknown SAE release", "there are"),
    ],
)
def test_what_names_no_sae_says_what_comes_close(text: str, message: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=message) as error:
        CATALOG.entry(text)
    assert hint in error.value.hint


def test_a_release_is_found_by_its_repository_too() -> None:
    releases = {entry.sae.release for entry in CATALOG.release("google/gemma-scope-2b-pt-res")}
    assert releases == {"gemma-scope-2b-pt-res", "gemma-scope-2b-pt-res-canonical"}
    with pytest.raises(UnknownNameError, match="unknown SAE release"):
        CATALOG.release("nobody/nothing")


LIGHT = """
import sys
from raylens.catalog import Catalog, guard, support, supported_models
import raylens.catalog.user, raylens.catalog.snapshot
catalog = Catalog.load()
assert catalog.find("gpt2") and supported_models(catalog) and support(catalog, "gpt-4o").status == "api-only"
heavy = {"torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "pandas"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_reading_the_catalogue_imports_no_model_stack() -> None:  # A0.20
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
