"""The committed snapshot is what the command makes, byte for byte where one zlib made both."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from raylens.catalog import Aliases, Catalog, CatalogEntry, snapshot
from raylens.catalog.sources import LabelSource, label_problem
from raylens.errors import DamagedFileError, InputError
from raylens.ids import HookPoint


@pytest.fixture(scope="module")
def built() -> dict[str, object]:
    return snapshot.build()


@pytest.fixture(scope="module")
def rows() -> list[CatalogEntry]:
    listed = snapshot.decode(snapshot.PATH.read_bytes())["releases"]
    return [entry for key, release in listed.items() for entry in snapshot.release_entries(key, release)]


def test_the_committed_snapshot_equals_a_fresh_one(built: dict[str, object]) -> None:
    committed = snapshot.PATH.read_bytes()
    # zlib's output may differ between its versions; the text inside may not.
    assert gzip.decompress(committed) == gzip.decompress(snapshot.encode(built)), "run: raylens catalog refresh"
    assert committed[4:8] == bytes(4), "the time in the header is zero"


def test_the_same_content_gives_the_same_bytes(built: dict[str, object], tmp_path: Path) -> None:
    upside_down = dict(reversed(built.items()))
    assert snapshot.encode(built) == snapshot.encode(upside_down)
    snapshot.write(built, tmp_path / "s.gz")
    assert (tmp_path / "s.gz").read_bytes() == snapshot.encode(built)
    assert [p.name for p in tmp_path.iterdir()] == ["s.gz"]


def test_every_sae_of_the_directory_is_there(rows: list[CatalogEntry]) -> None:
    directory = get_pretrained_saes_directory()
    expected = {f"{key}/{name}" for key, release in directory.items() for name in release.saes_map}
    assert {str(entry.sae) for entry in rows} == expected
    assert len(rows) == len(expected)


def test_every_label_source_is_of_its_sae(rows: list[CatalogEntry]) -> None:  # A0.08, A2.15
    aliases = Aliases()
    for entry in rows:
        if entry.neuronpedia_id is None:
            continue
        source = LabelSource.parse(entry.neuronpedia_id)
        assert aliases.canonical(source.model) == entry.model, entry
        problem = label_problem(
            source,
            model=entry.model,
            canonical=aliases.canonical,
            layer=entry.layer,
            hook=entry.hook,
            width=entry.width,
        )
        assert problem is None, entry


def test_labels_are_the_directorys_less_the_wrong_ones_plus_those_of_the_same_file(rows: list[CatalogEntry]) -> None:
    directory = get_pretrained_saes_directory()
    given = {f"{k}/{n}": source for k, r in directory.items() for n, source in r.neuronpedia_id.items() if source}
    files = {f"{k}/{n}": (r.repo_id, path) for k, r in directory.items() for n, path in r.saes_map.items()}
    of_file: dict[tuple[str, str], set[str]] = {}
    for sae, source in given.items():
        of_file.setdefault(files[sae], set()).add(source)
    changed = set()
    for entry in rows:
        sae = str(entry.sae)
        if entry.neuronpedia_id == given.get(sae):
            continue
        if sae in given:
            changed.add(sae)
        if entry.neuronpedia_id is not None:
            assert entry.neuronpedia_id in of_file[files[sae]]
    # Three wrong ids in sae-lens 6.54: another layer's, another L0's, and attention labels of a residual SAE.
    assert changed == {
        "gemma-scope-9b-pt-res/layer_2/width_16k/average_l0_8",
        "gemma-scope-9b-pt-res/layer_20/width_131k/average_l0_114",
        "pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre",
    }
    assert all("label source" in entry.note for entry in rows if str(entry.sae) in changed)


def test_a_release_listed_under_another_model_is_corrected_and_says_so(rows: list[CatalogEntry]) -> None:
    wrong = [entry for entry in rows if entry.sae.release == "gemma-scope-9b-it-res"]
    assert {entry.model for entry in wrong} == {"google/gemma-2-9b-it"}
    assert {entry.note for entry in wrong} == {"sae-lens lists it under gemma-2-9b"}
    corrected = {entry.sae.release for entry in rows if "lists it under" in entry.note}
    assert corrected == set(snapshot.CORRECTED_MODELS)


def test_models_are_canonical_hub_ids(rows: list[CatalogEntry]) -> None:
    aliases = Aliases()
    models = {entry.model for entry in rows}
    assert all(model.count("/") == 1 and aliases.canonical(model) == model for model in models)
    assert len(models) == 38


@given(st.binary(max_size=200))
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedFileError):
        snapshot.decode(data)


@pytest.mark.parametrize("content", [[], {}, {"format": 99, "releases": {}}])
def test_another_format_is_refused(content: object) -> None:
    with pytest.raises(DamagedFileError, match="snapshot of format"):
        snapshot.decode(gzip.compress(json.dumps(content).encode()))


def test_a_truncated_snapshot_is_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes(snapshot.PATH.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=r"cut\.gz"):
        Catalog.load(snapshot=cut)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        snapshot.write({}, tmp_path / "missing" / "s.gz")


@pytest.mark.parametrize(
    ("text", "layer", "hook", "width", "l0", "problem"),
    [
        ("gemma-2-2b/20-gemmascope-res-16k", 20, "resid_post.20", 16384, None, None),
        ("gemma-2-2b/20-gemmascope-res-16k", None, None, None, None, None),
        ("gemma-2-2b/20-gemmascope-res-16k", 19, "resid_post.19", 16384, None, "is of layer 20, not 19"),
        ("gemma-2-2b/12-res-jb", 11, "resid_post.11", None, None, "is of layer 12, not 11"),
        ("gemma-2-2b/e-res-sm", 0, "resid_pre.0", None, None, None),
        ("gemma-2-2b/20-gemmascope-att-16k", 20, "resid_post.20", None, None, "is of att activations, not resid_post"),
        ("gemma-2-2b/20-gemmascope-res-16k", 20, "resid_post.20", 65536, None, "has 16384 features, not 65536"),
        ("gemma-2-2b/2-x-res-16k__l0-12", 2, "resid_post.2", None, 114, "is of the SAE with an L0 of 12, not 114"),
        ("gemma-2-2b-it/20-res", 20, "resid_post.20", None, None, "is of model google/gemma-2-2b-it"),
    ],
)
def test_label_sources_are_compared(
    text: str, layer: int | None, hook: str | None, width: int | None, l0: int | None, problem: str | None
) -> None:
    found = label_problem(
        LabelSource.parse(text),
        model="google/gemma-2-2b",
        canonical=Aliases().canonical,
        layer=layer,
        hook=HookPoint.parse(hook) if hook else None,
        width=width,
        l0=l0,
    )
    assert found is problem or (found is not None and problem is not None and found.startswith(problem))


def test_what_leaves_gpt2s_last_block_is_numbered_as_entering_the_next() -> None:
    canonical = Aliases().canonical

    def problem(text: str, hook: str, layer: int) -> str | None:
        source = LabelSource.parse(text)
        point = HookPoint.parse(hook)
        return label_problem(source, model="gpt2", canonical=canonical, layer=layer, hook=point, width=None)

    assert problem("gpt2-small/12-res-jb", "resid_post.11", 11) is None
    assert problem("gpt2-small/12-res-jb", "resid_mid.11", 11) is not None
    assert problem("gpt2-small/11-res-jb", "resid_post.10", 10) is not None


@pytest.mark.parametrize("text", ["", "gemma-2-2b", "a/b/c", "a b/c", "/x"])
def test_what_is_no_label_source_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a label source"):
        LabelSource.parse(text)
