"""Labels of a span's features: what the workspace knows, what Neuronpedia is asked, and what is shown in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from explained import explanation as said
from explained import score, write
from fake_llm import Answer
from neuronpedia import SOURCE, Remote, explanation, page
from raylens.api.extraction import Extraction, SpanFeature
from raylens.api.reading import Peaks
from raylens.catalog.lookup import built_in
from raylens.errors import InputError
from raylens.ids import FeatureId
from raylens.labels.explanations import read_page
from raylens.labels.label_store import LabelStore
from raylens.labels.settings import LabelSettings, is_enabled
from raylens.labels.span_labels import TIMEOUT_S, SpanLabels, feature_line
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens.traces.span import now
from small_cache import CACHE_ID, SAE, make_cache

Ask = Callable[..., tuple[SpanFeature, ...]]


@pytest.fixture
def cached(workspace: Workspace) -> Workspace:
    """A cache of an SAE that Neuronpedia has."""
    make_cache(workspace)
    workspace.cache(CACHE_ID).write_sae(SAE, {"spec": {"layer": 3, "neuronpedia_id": str(SOURCE)}})
    return workspace


@pytest.fixture
def neuronpedia(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """The Neuronpedia that the environment names."""
    monkeypatch.setenv("NEURONPEDIA_BASE_URL", f"http://127.0.0.1:{remote.server.port}")
    return remote


@pytest.fixture
def opened() -> Iterator[Callable[..., SpanLabels]]:
    """Makes labels, and closes them at the end."""
    made: list[SpanLabels] = []

    def make(workspace: Workspace, **more: Any) -> SpanLabels:
        made.append(SpanLabels(workspace, built_in(), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(indices: Sequence[int], **more: Any) -> Extraction:
    """Features of a span, the first with the largest activation."""
    at = range(len(indices))
    peaks = Peaks(indices=tuple(indices), activations=tuple(9.0 - one for one in at), positions=tuple(at))
    about: dict[str, Any] = {"model": "raylens/tiny", "sae": str(SAE), "layer": 3, "peaks": peaks}
    return Extraction(**{"span_id": "s", "n_tokens": 5, "at": now()} | about | more)


def labelled(labels: SpanLabels, indices: Sequence[int], top_k: int = 20, **more: Any) -> tuple[SpanFeature, ...]:
    return asyncio.run(labels.label(read(indices, **more), top_k))


def texts(found: Sequence[SpanFeature]) -> list[str | None]:
    return [one.label for one in found]


# A0.13
@pytest.mark.parametrize(
    ("value", "enabled", "asks"),
    [
        (None, None, False),
        ("", None, False),
        ("false", None, False),
        ("true", None, True),
        (" TRUE ", None, True),
        ("true", False, False),
        (None, True, True),
    ],
)
def test_neuronpedia_is_asked_only_where_that_is_turned_on(
    cached: Workspace,
    neuronpedia: Remote,
    monkeypatch: pytest.MonkeyPatch,
    opened: Callable[..., SpanLabels],
    value: str | None,
    enabled: bool | None,
    asks: bool,
) -> None:
    if value is not None:
        monkeypatch.setenv("RAYLENS_NEURONPEDIA_ENABLED", value)
    monkeypatch.setenv("NEURONPEDIA_EXPLANATIONS_MODE", "remote_fallback")  # of batch runs; it turns on nothing here
    neuronpedia.pages = {1: page(1, explanation("requests for help"))}
    found = labelled(opened(cached, enabled=enabled, timeout_s=30.0), [1, 2])
    assert texts(found) == (["requests for help", None] if asks else [None, None])
    assert sorted(neuronpedia.indices) == ([1, 2] if asks else [])
    assert [one.bucket for one in found] == (["intent", "unknown"] if asks else ["unknown", "unknown"])
    for one in neuronpedia.server.asked:
        assert one.target == f"/api/feature/{SOURCE.model}/{SOURCE.source}/{one.target.rpartition('/')[2]}"
        assert dict(one.body) == {}, "model, source and index, and nothing of a text"


def test_what_is_neither_yes_nor_no_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_enabled({}) is False
    monkeypatch.setenv("RAYLENS_NEURONPEDIA_ENABLED", "maybe")
    with pytest.raises(InputError, match="RAYLENS_NEURONPEDIA_ENABLED is 'maybe'"):
        SpanLabels(workspace, built_in())


# A0.14
def test_hits_and_misses_are_asked_for_once(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels]
) -> None:
    neuronpedia.pages = {1: page(1, explanation("one")), 3: page(3)}  # 3 is there without an explanation, 2 is not
    labels = opened(cached, enabled=True, timeout_s=30.0)
    first = labelled(labels, [1, 2, 3])
    assert sorted(neuronpedia.indices) == [1, 2, 3]
    for _ in range(3):
        assert labelled(labels, [1, 2, 3]) == first
    assert len(neuronpedia.indices) == 3
    assert LabelSettings().lru_size == 2048
    assert labels.client.settings.lru_size == 2048


def test_many_who_ask_at_a_time_ask_once(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels]
) -> None:
    neuronpedia.pages = {at: page(at, explanation(f"about {at}")) for at in range(12)}
    labels = opened(cached, enabled=True, timeout_s=30.0)

    async def many() -> list[tuple[SpanFeature, ...]]:
        return list(await asyncio.gather(*(labels.label(read(range(at, at + 4)), 20) for at in range(8))))

    for at, found in enumerate(asyncio.run(many())):
        assert texts(found) == [f"about {index}" for index in range(at, at + 4)]
    assert sorted(neuronpedia.indices) == list(range(11))


# A0.15
def test_a_neuronpedia_that_does_not_answer_holds_nobody_up(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels]
) -> None:
    assert TIMEOUT_S == 3.0
    assert LabelSettings().timeout_s == 3.0
    neuronpedia.pages = {1: page(1, explanation("one")), 2: Answer(hang=True)}
    labels = opened(cached, enabled=True, timeout_s=0.6)
    ticks = 0

    async def asked() -> tuple[SpanFeature, ...]:
        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = await labels.label(read([1, 2, 3]), 20)
        ticking.cancel()
        return found

    found = asyncio.run(asked())
    assert neuronpedia.server.busy, "it is still waited for, but not by whoever asked"
    assert texts(found) == ["one", None, None], "what came in time is shown"
    assert ticks > 5, "the event loop goes on"
    assert [one.activation for one in found] == [9.0, 8.0, 7.0]


# A0.15
def test_what_comes_late_is_there_the_next_time(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels]
) -> None:
    late = Answer(delay_s=0.4, raw=json.dumps(page(1, explanation("late"))).encode())
    neuronpedia.pages = {1: late}
    labels = opened(cached, enabled=True, timeout_s=0.2)
    assert texts(labelled(labels, [1])) == [None]
    until = time.monotonic() + 60
    while texts(labelled(labels, [1])) == [None]:
        assert time.monotonic() < until
    assert texts(labelled(labels, [1])) == ["late"]
    assert neuronpedia.indices == [1], "it was not asked for again while it was under way"


# A0.15
def test_without_a_label_the_bucket_is_guessed_from_what_a_feature_promotes(
    workspace: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels]
) -> None:
    make_cache(workspace, tokens={1: (" weapon", "kill"), 2: (" json", " the")})
    workspace.cache(CACHE_ID).write_sae(SAE, {"spec": {"layer": 3, "neuronpedia_id": str(SOURCE)}})
    neuronpedia.otherwise = Answer(drop=True)
    found = labelled(opened(workspace, enabled=True, timeout_s=5.0), [1, 2, 3])
    assert texts(found) == [None, None, None]
    assert [one.bucket for one in found] == ["safety", "unknown", "unknown"]


# A0.15
@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=429, headers={"Retry-After": "3600"}, raw=b"{}"),
        Answer(status=429, raw=b'{"requestWindow": "60 m"}'),
        Answer(status=401, raw=b"{}"),
        Answer(status=500, raw=b"oh"),
        Answer(raw=b"<html>"),
        Answer(drop=True),
    ],
    ids=["limited", "limited by its window", "refused", "failing", "nonsense", "gone"],
)
def test_a_neuronpedia_that_fails_gives_no_label_and_no_error(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels], answer: Answer
) -> None:
    neuronpedia.otherwise = answer
    Labels(cached).say(FeatureId(SAE, 2), "ann", label="mine")
    labels = opened(cached, enabled=True, timeout_s=30.0)
    assert texts(labelled(labels, [1, 2, 3])) == [None, "mine", None]
    asked = len(neuronpedia.indices)
    assert texts(labelled(labels, [1, 2, 3])) == [None, "mine", None]
    assert len(neuronpedia.indices) == asked, "it is left alone for a while"


def test_after_a_while_it_is_asked_again(
    cached: Workspace, neuronpedia: Remote, opened: Callable[..., SpanLabels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service runs for months; that requests were too many one day must not end labels for good."""
    monkeypatch.setattr("raylens.labels.span_labels._ASK_AGAIN_S", 0.0)
    monkeypatch.setattr("raylens.labels.span_labels._LOOK_EVERY_S", 0.0)
    neuronpedia.otherwise = Answer(status=429, headers={"Retry-After": "3600"}, raw=b"{}")
    labels = opened(cached, enabled=True, timeout_s=30.0)
    assert texts(labelled(labels, [1])) == [None]
    assert labels.client.stopped is not None
    neuronpedia.otherwise, neuronpedia.pages = None, {1: page(1, explanation("one"))}
    assert texts(labelled(labels, [1])) == ["one"]


# A0.16 A0.17
def test_features_are_named_and_shown_as_people_write_them() -> None:
    feature = SpanFeature(
        id="f_15_4109",
        index=4109,
        layer=15,
        label="label",
        bucket="unknown",
        activation=0.9249,
        position=3,
        neuronpedia_url=None,
    )
    assert feature_line(feature) == "f_15_4109 · label  0.92"
    assert feature_line(feature.model_copy(update={"label": None})) == "f_15_4109 · (label pending)  0.92"


# A0.16 A0.19
def test_each_feature_has_its_id_and_its_page_and_the_largest_comes_first(
    cached: Workspace, opened: Callable[..., SpanLabels]
) -> None:
    labels = opened(cached)
    found = labelled(labels, [7, 1, 4], top_k=2)
    assert [(one.id, one.index, one.layer, one.position) for one in found] == [("f_3_7", 7, 3, 0), ("f_3_1", 1, 3, 1)]
    assert [one.activation for one in found] == [9.0, 8.0]
    assert found[0].neuronpedia_url == f"https://www.neuronpedia.org/{SOURCE}/7"
    (bare,) = labelled(labels, [7], layer=None)
    assert bare.id == f"{SAE}/7", "the whole name where the layer is not known"
    (elsewhere,) = labelled(labels, [7], sae="gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical", layer=20)
    assert elsewhere.neuronpedia_url == f"https://www.neuronpedia.org/{SOURCE}/7", "the catalogue knows it"
    (nowhere,) = labelled(labels, [7], sae="somebodys/own")
    assert (nowhere.label, nowhere.neuronpedia_url, nowhere.bucket) == (None, None, "unknown")


def test_what_people_say_comes_first_then_the_best_explanation(
    cached: Workspace, opened: Callable[..., SpanLabels]
) -> None:
    rows = [said(1, "long winded but right", explanation_id="a"), said(1, "short", explanation_id="b")]
    figures = [score(1, 0.9, explanation_id="a"), score(1, 0.2, explanation_id="b")]
    figures.append(score(1, 0.99, explanation_id="b", control="shuffled"))
    write(cached.cache(CACHE_ID), "one", rows, figures)
    with LabelStore(cached.files) as store:
        store.put_page(SOURCE, 2, read_page(page(2, explanation("kept from before")), SOURCE, 2), "export")
    labels = opened(cached)
    assert texts(labelled(labels, [1, 2, 3])) == ["long winded but right", "kept from before", None]
    people = Labels(cached)
    people.say(FeatureId(SAE, 1), "ann", label="risks")
    people.say(FeatureId(SAE, 1), "bob", label="tools")
    people.say(FeatureId(SAE, 3), "bob", star=True)
    found = labelled(labels, [1, 2, 3])
    assert texts(found) == ["tools", "kept from before", None], "of several people the last"
    assert found[0].bucket == "tool"
    people.say(FeatureId(SAE, 1), "ann", label="dangers")
    assert texts(labelled(labels, [1])) == ["dangers"]


def test_what_others_explain_and_import_is_seen(
    cached: Workspace, opened: Callable[..., SpanLabels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens.labels.span_labels._LOOK_EVERY_S", 0.0)
    labels = opened(cached)
    with LabelStore(cached.files) as store:
        store.put_page(SOURCE, 5, read_page(page(5), SOURCE, 5), "export")
    assert texts(labelled(labels, [1, 5])) == [None, None]
    write(cached.cache(CACHE_ID), "one", [said(1, "new")])
    with LabelStore(cached.files) as store:
        store.put_page(SOURCE, 5, read_page(page(5, explanation("imported")), SOURCE, 5), "export")
    assert texts(labelled(labels, [1, 5])) == ["new", "imported"]


def test_an_sae_of_several_caches_has_the_words_of_all(cached: Workspace, opened: Callable[..., SpanLabels]) -> None:
    other = make_cache(cached, cache_id="f" * 16)
    write(cached.cache(CACHE_ID), "one", [said(1, "of the first")])
    write(other, "one", [said(2, "of the second")])
    assert texts(labelled(opened(cached), [1, 2])) == ["of the first", "of the second"]


def test_damage_costs_the_label_alone(cached: Workspace, opened: Callable[..., SpanLabels]) -> None:
    write(cached.cache(CACHE_ID), "one", [said(1, "one")])
    path = next(one.path for one in cached.files.scan("caches") if "/findings/" in one.path and "parquet" in one.path)
    cached.files.commit(path, b"PAR1 not at all")
    found = labelled(opened(cached), [1, 2])
    assert [one.id for one in found] == ["f_3_1", "f_3_2"]
    assert {(one.label, one.bucket) for one in found} == {(None, "unknown")}


def test_the_end_does_not_wait_for_neuronpedia(cached: Workspace, neuronpedia: Remote) -> None:
    neuronpedia.otherwise = Answer(hang=True)
    with closing(SpanLabels(cached, built_in(), enabled=True, timeout_s=0.2)) as labels:
        assert texts(labelled(labels, [1, 2, 3])) == [None, None, None]
        assert neuronpedia.server.busy
