"""Which labels are an SAE's: names, their order, and the guard."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.catalog.lookup import built_in
from raylens.errors import InputError, MismatchError
from raylens.ids import HookPoint, SaeId
from raylens.labels.guard import Stated, require_agreement
from raylens.labels.names import NeuronpediaId, is_part, label_source, local_source, saes_of
from raylens.specs import SaeSpec

GEMMA = SaeId.parse("gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical")
LABELS = NeuronpediaId("gemma-2-2b", "20-gemmascope-res-16k")
SPEC = SaeSpec(
    id=GEMMA,
    model_name="gemma-2-2b",
    hook=HookPoint("resid_post", 20),
    d_in=2304,
    d_sae=16384,
    architecture="jumprelu",
    neuronpedia_id=str(LABELS),
    prepend_bos=True,
    dtype="float32",
    fingerprint="f",
)
CONFIG = Stated(model="google/gemma-2-2b", layer=20, width=16384)


def test_names_go_both_ways_over_the_whole_catalogue() -> None:
    catalog = built_in()
    assert label_source(GEMMA, catalog) == LABELS
    assert GEMMA in saes_of(LABELS, catalog)
    labelled = [entry for entry in catalog.entries if entry.neuronpedia_id]
    assert len(labelled) > 2000
    for entry in labelled[::50]:
        source = label_source(entry.sae, catalog)
        assert source is not None
        assert str(source) == entry.neuronpedia_id
        assert entry.sae in saes_of(source, catalog)


def test_a_config_comes_before_the_catalogue_and_that_before_the_sae() -> None:
    catalog = built_in()
    given_ = {str(GEMMA): "gemma-2-2b/20-mine"}
    assert label_source(GEMMA, catalog, given=given_) == NeuronpediaId("gemma-2-2b", "20-mine")
    assert label_source(GEMMA, catalog, given={str(GEMMA): ""}) is None, "an empty name says: without labels"
    assert label_source(GEMMA, catalog, own="gemma-2-2b/3-wrong") == LABELS
    own = SaeId("local", "mine-1234")
    assert label_source(own, catalog) is None
    assert label_source(own, catalog, own="pico/3-mine") == NeuronpediaId("pico", "3-mine")
    with pytest.raises(InputError, match="not a label source"):
        label_source(GEMMA, catalog, given={str(GEMMA): "not an id"})


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b c", "a/b?x", "a/b%2f", "ä/b", "a/-b"]
)
def test_what_is_no_label_source_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a label source"):
        NeuronpediaId.parse(text)


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="/"), min_size=1, max_size=20
)
saes = st.builds(SaeId, words, st.lists(words, min_size=1, max_size=3).map("/".join))


@given(saes, saes, st.none() | st.integers(0, 90))
def test_local_names_are_label_sources_and_no_two_saes_share_one(one: SaeId, other: SaeId, layer: int | None) -> None:
    source = local_source(one, "raylens/pico", layer)
    assert NeuronpediaId.parse(str(source)) == source
    assert is_part(source.source)
    assert (local_source(other, "raylens/pico", layer) == source) == (str(one) == str(other))


def test_a_local_name_reads_well() -> None:
    assert (
        str(local_source(SaeId("raylens-pico-res", "layer_3"), "raylens/pico", 3)) == "pico/3-raylens-pico-res--layer_3"
    )
    assert local_source(SaeId("a", "b"), "/models/my model/", None) == NeuronpediaId("my-model", "a--b")


def test_weights_labels_and_config_that_agree_pass() -> None:
    require_agreement(SPEC, LABELS, CONFIG, catalog=built_in(), decoder_shape=(16384, 2304), labelled=[0, 16383])
    require_agreement(SPEC, LABELS, Stated(), catalog=built_in())
    require_agreement(SPEC, None, CONFIG, catalog=built_in())
    own = replace(SPEC, id=SaeId("my-mlp", "layer_20"), model_name="raylens/pico", neuronpedia_id=None)
    # The local endpoint's name of it: "mlp" in it is the release's, not what it reads.
    require_agreement(own, local_source(own.id, "raylens/pico", 20), Stated(), catalog=built_in())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": replace(CONFIG, model="google/gemma-2-9b")}, "config says model google/gemma-2-9b"),
        ({"config": replace(CONFIG, layer=12)}, "config says layer 12, and the weights .* of layer 20"),
        ({"config": replace(CONFIG, width=65536)}, "config says width 65536, and the weights .* of width 16384"),
        ({"labels": NeuronpediaId("gemma-2-9b", "20-gemmascope-res-16k")}, "is of model google/gemma-2-9b"),
        ({"labels": NeuronpediaId("gemma-2-2b", "12-gemmascope-res-16k")}, "is of layer 12, not 20"),
        ({"labels": NeuronpediaId("gemma-2-2b", "20-gemmascope-res-65k")}, "has 65536 features, not 16384"),
        ({"labels": NeuronpediaId("gemma-2-2b", "20-gemmascope-mlp-16k")}, "is of mlp activations"),
        ({"decoder_shape": (16384, 3584)}, "16384 × 3584, and its config says 16384 × 2304"),
        ({"decoder_shape": (2304, 16384)}, "2304 × 16384"),
        ({"labelled": [3, 16384]}, "label of feature 16384, and the SAE has features 0 to 16383"),
        # A row of the catalogue outranks what a config inside the weights claims.
        ({"sae": replace(SPEC, model_name="gemma-2-9b"), "config": replace(CONFIG, model="gemma-2-9b")}, "model"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_any_two_that_disagree_stop_everything(change: dict, said: str) -> None:  # A2.15
    arguments = {"sae": SPEC, "labels": LABELS, "config": CONFIG} | change
    sae, labels, config = (arguments.pop(name) for name in ("sae", "labels", "config"))
    with pytest.raises(MismatchError, match=said) as caught:
        require_agreement(sae, labels, config, catalog=built_in(), **arguments)
    assert isinstance(caught.value, InputError)
    assert caught.value.hint
