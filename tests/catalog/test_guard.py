"""A2.15: model, hook point, width and label source belong together, or nothing starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.catalog import Catalog, CatalogEntry, guard
from raylens.catalog.lookup import built_in
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint, SaeId
from raylens.specs import ModelInfo, SaeSpec

CATALOG = built_in()
EMPTY = Catalog()


def model(name: str = "google/gemma-2-2b", d_model: int = 2304, n_layers: int = 26) -> ModelInfo:
    return ModelInfo(name, "r0", d_model, n_layers, 256_000, "Gemma2ForCausalLM", 8192)


LLAMA_31 = ModelInfo("meta-llama/Llama-3.1-8B", "r0", 4096, 32, 128_256, "LlamaForCausalLM", 131_072)
LLAMA_3_IT = replace(LLAMA_31, name="meta-llama/Meta-Llama-3-8B-Instruct", max_positions=8192)

GEMMA_SCOPE = SaeSpec(
    id=SaeId("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
    model_name="gemma-2-2b",
    hook=HookPoint("resid_post", 20),
    d_in=2304,
    d_sae=16384,
    architecture="jumprelu",
    neuronpedia_id=None,
    prepend_bos=True,
    dtype="float32",
    fingerprint="f0",
)
LLAMA_3_SAE = SaeSpec(
    id=SaeId("llama-3-8b-it-res-jh", "blocks.25.hook_resid_post"),
    model_name="meta-llama/Meta-Llama-3-8B-Instruct",
    hook=HookPoint("resid_post", 25),
    d_in=4096,
    d_sae=65536,
    architecture="gated",
    neuronpedia_id="llama3-8b-it/25-res-jh",
    prepend_bos=True,
    dtype="float32",
    fingerprint="f1",
)
LOCAL = replace(GEMMA_SCOPE, id=SaeId("local", "mine-01234567"), neuronpedia_id=None)


def refusal(*arguments: object, **options: object) -> MismatchError:
    with pytest.raises(MismatchError) as error:
        guard(*arguments, **({"catalog": CATALOG} | options))  # pyright: ignore[reportArgumentType] - mixed cases
    return error.value


@pytest.mark.parametrize("name", ["google/gemma-2-2b", "gemma-2-2b", "Google/Gemma-2-2B"])
def test_a_pair_that_fits_passes_by_any_of_its_names(name: str) -> None:
    fit = guard(model(name), GEMMA_SCOPE, catalog=CATALOG)
    assert (fit.model, fit.trained_on, fit.other_model, fit.note) == (
        "google/gemma-2-2b",
        "google/gemma-2-2b",
        False,
        "",
    )
    assert fit.label_source == "gemma-2-2b/20-gemmascope-res-16k", "the catalogue's, where the config has none"


def test_a_catalogue_row_is_enough() -> None:
    entry = CATALOG.get(GEMMA_SCOPE.id)
    assert entry is not None
    assert guard(model(), entry, catalog=CATALOG).trained_on == "google/gemma-2-2b"


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize(
    ("info", "spec", "expected"),
    [
        (model(d_model=2048), GEMMA_SCOPE, "it reads 2304 values a token, and resid_post.20 has 2048"),
        (model(n_layers=20), GEMMA_SCOPE, "it reads resid_post.20, and the model has layers 0 to 19"),
        (model(), replace(LOCAL, hook=HookPoint("resid_pots", 3)), "there is no hook point resid_pots"),
        (model(), replace(LOCAL, hook=HookPoint("resid_post")), "resid_post needs a layer"),
        (model(), replace(LOCAL, hook=HookPoint("embeddings", 2)), "embeddings.2 takes no layer"),
        (model(), replace(LOCAL, hook=HookPoint.parse("path.model.layers.26")), "the model has layers 0 to 25"),
        (
            model(d_model=9),
            replace(LOCAL, hook=HookPoint.parse("path.model.layers.2")),
            "path.model.layers.2 has 9",
        ),
        (model(), replace(GEMMA_SCOPE, d_sae=65536), "its weights have 65536 latents, the catalogue says 16384"),
        (
            model(),
            replace(GEMMA_SCOPE, hook=HookPoint("resid_post", 19)),
            "its config reads resid_post.19, the catalogue says resid_post.20",
        ),
        (model(), replace(GEMMA_SCOPE, hook=HookPoint("resid_pre", 20)), "its config reads resid_pre.20"),
    ],
)
def test_what_cannot_fit_is_refused_whatever_is_overridden(
    info: ModelInfo, spec: SaeSpec, expected: str, override: bool
) -> None:
    error = refusal(info, spec, override=override)
    assert expected in error.message
    assert str(spec.id) in error.message
    assert "google/gemma-2-2b has " in error.hint, "says what does fit"


def test_a_base_model_and_its_instruct_sibling_are_two() -> None:
    error = refusal(model("google/gemma-2-2b-it"), GEMMA_SCOPE)
    assert "was trained on another model: google/gemma-2-2b, not google/gemma-2-2b-it" in error.message
    assert f"{GEMMA_SCOPE.id} fits google/gemma-2-2b." in error.hint
    assert "no SAE for google/gemma-2-2b-it is known." in error.hint
    assert "--override-guard" in error.hint


def test_llama_3_on_llama_31_only_on_explicit_order() -> None:  # A0.04
    assert guard(LLAMA_3_IT, LLAMA_3_SAE, catalog=CATALOG).note == ""
    error = refusal(LLAMA_31, LLAMA_3_SAE)
    assert "trained on another model: meta-llama/Meta-Llama-3-8B-Instruct" in error.message
    assert "meta-llama/Llama-3.1-8B has llama_scope_lxr_" in error.hint
    fit = guard(LLAMA_31, LLAMA_3_SAE, override=True, catalog=CATALOG)
    assert fit.other_model
    assert "may not hold for meta-llama/Llama-3.1-8B" in fit.note
    assert fit.label_source == "llama3-8b-it/25-res-jh", "labels are of the model it was trained on"


def test_another_models_sae_of_another_width_says_both() -> None:
    error = refusal(LLAMA_31, GEMMA_SCOPE, override=True)
    assert "reads 2304 values a token" in error.message
    assert "(it was trained on another model, google/gemma-2-2b)" in error.message
    assert "--override-guard" not in error.hint


def test_an_sae_that_does_not_say_its_model_passes_with_a_note() -> None:
    fit = guard(model(), replace(LOCAL, model_name=None), catalog=CATALOG)
    assert fit.trained_on is None
    assert "does not say which model" in fit.note


def test_the_catalogues_model_counts_where_a_loader_has_it_wrong() -> None:
    distilled = SaeSpec(
        id=SaeId("llama_scope_r1_distill", "l15r_800m_openr1_math"),
        model_name="meta-llama/Llama-3.1-8B",  # what sae-lens's loader says
        hook=HookPoint("resid_post", 15),
        d_in=4096,
        d_sae=32768,
        architecture="jumprelu",
        neuronpedia_id=None,
        prepend_bos=True,
        dtype="float32",
        fingerprint="f2",
    )
    deepseek = replace(LLAMA_31, name="deepseek-ai/DeepSeek-R1-Distill-Llama-8B")
    assert guard(deepseek, distilled, catalog=CATALOG).note == ""
    assert "trained on another model: deepseek-ai" in refusal(LLAMA_31, distilled).message


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("gemma-2-2b/19-gemmascope-res-16k", "is of layer 19, not 20"),
        ("gemma-2-2b/20-gemmascope-att-16k", "is of att activations, not resid_post"),
        ("gemma-2-2b/20-gemmascope-res-65k", "has 65536 features, not 16384"),
        ("gemma-2-2b-it/20-gemmascope-res-16k", "is of model google/gemma-2-2b-it, not google/gemma-2-2b"),
    ],
)
def test_labels_of_another_sae_are_refused(labels: str, problem: str) -> None:
    error = refusal(model(), GEMMA_SCOPE, labels, override=True)
    assert problem in error.message
    assert "its own labels are gemma-2-2b/20-gemmascope-res-16k" in error.hint
    # Where only the SAE's own config names them, too.
    assert problem in refusal(model(), replace(LOCAL, neuronpedia_id=labels)).message


def test_labels_may_be_named_and_must_be_readable() -> None:
    named = "gemma-2-2b/20-gemmascope-res-16k"
    assert guard(model(), LOCAL, named, catalog=CATALOG).label_source == named
    with pytest.raises(InputError, match="not a label source"):
        guard(model(), LOCAL, "nonsense", catalog=CATALOG)


def test_labels_the_directory_has_wrong_are_not_taken_from_a_config() -> None:
    spec = replace(
        GEMMA_SCOPE,
        id=SaeId("gemma-scope-9b-pt-res", "layer_2/width_16k/average_l0_8"),
        model_name="gemma-2-9b",
        hook=HookPoint("resid_post", 2),
        d_in=3584,
        neuronpedia_id="gemma-2-9b/20-gemmascope-res-131k__l0-10",
    )
    fit = guard(model("google/gemma-2-9b", 3584, 42), spec, catalog=CATALOG)
    assert fit.label_source is None


def test_a_folder_is_its_own_model_until_the_user_says_otherwise(tmp_path: Path) -> None:
    folder = str(tmp_path / "gemma-2-2b")
    error = refusal(model(folder), GEMMA_SCOPE)
    assert f"aliases: {folder}: google/gemma-2-2b" in error.hint
    own = Catalog(aliases={folder: "google/gemma-2-2b"})
    assert not guard(model(folder), GEMMA_SCOPE, catalog=own).other_model


def test_an_sae_trained_on_a_folder_fits_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny"
    spec = replace(LOCAL, model_name=str(folder), d_in=16, d_sae=64, hook=HookPoint("resid_post", 1))
    info = model(str(folder), 16, 2)
    assert guard(info, spec, catalog=EMPTY).note == ""
    monkeypatch.chdir(tmp_path)
    assert guard(replace(info, name="./tiny"), spec, catalog=EMPTY).note == ""
    assert "another model" in refusal(replace(info, name=str(tmp_path / "other")), spec).message


def test_a_users_row_must_agree_with_the_weights_it_points_at() -> None:
    row = CatalogEntry(
        sae=SaeId("ours", "layer_3"),
        model="google/gemma-2-2b",
        hook=HookPoint("resid_post", 3),
        layer=3,
        width=16384,
        d_in=2304,
        path="/saes/3",
    )
    own = Catalog(own=[row])
    weights = replace(LOCAL, hook=HookPoint("resid_post", 3))
    assert guard(model(), weights, catalog=own, entry=row).trained_on == "google/gemma-2-2b"
    for wrong, expected in [
        (replace(weights, hook=HookPoint("resid_post", 4)), "reads resid_post.4, the catalogue says resid_post.3"),
        (replace(weights, d_sae=99), "have 99 latents, the catalogue says 16384"),
        (replace(weights, model_name="gpt2"), "was trained on openai-community/gpt2, the catalogue says google/gemma"),
    ]:
        assert expected in refusal(model(), wrong, catalog=own, entry=row, override=True).message
    narrow = replace(weights, hook=HookPoint("z", 3), d_in=2048)
    thin = replace(row, hook=None, layer=None, width=None)
    assert "read 2048 values" in refusal(model(), narrow, catalog=own, entry=thin).message


@given(
    d_model=st.integers(1, 64),
    n_layers=st.integers(1, 8),
    d_in=st.integers(1, 64),
    layer=st.integers(0, 10),
    same=st.booleans(),
    override=st.booleans(),
)
def test_the_guard_lets_through_exactly_what_fits(
    d_model: int, n_layers: int, d_in: int, layer: int, same: bool, override: bool
) -> None:
    spec = replace(LOCAL, model_name="me/one" if same else "me/two", hook=HookPoint("resid_post", layer), d_in=d_in)
    should = d_in == d_model and layer < n_layers and (same or override)
    info = model("me/one", d_model, n_layers)
    if should:
        assert guard(info, spec, override=override, catalog=EMPTY).other_model is not same
    else:
        hint = refusal(info, spec, override=override, catalog=EMPTY).hint
        assert ("--override-guard" in hint) == (d_in == d_model and layer < n_layers)


@given(st.sampled_from(CATALOG.entries))
def test_every_row_fits_the_model_it_names(entry: CatalogEntry) -> None:
    fit = guard(model(entry.model, 1, 200), entry, catalog=CATALOG)
    assert not fit.other_model
    assert fit.label_source == entry.neuronpedia_id
