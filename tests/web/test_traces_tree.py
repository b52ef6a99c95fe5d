"""Spans of a trace as a tree: whatever was reported, each stands there once."""

from __future__ import annotations

import random

import pytest

from raylens.store.trace_reader import TraceReader
from raylens.store.workspace import Workspace
from raylens_app.web.traces.shelf import steps_of
from raylens_app.web.traces.tree import Step, ordered
from span_pages import write_traces
from trace_samples import START, a_span


def step(name: str, parent: str | None = None) -> Step:
    return Step(name, parent, name, "llm", None, START, None, "ok")


def drawn(*steps: Step) -> list[tuple[str, int]]:
    return [(one.span_id, one.depth) for one in ordered(steps)]


def test_parts_stand_below_what_they_are_a_part_of() -> None:
    found = drawn(step("a"), step("b", "a"), step("c"), step("d", "b"), step("e", "a"), step("f", "c"))
    assert found == [("a", 0), ("b", 1), ("d", 2), ("e", 1), ("c", 0), ("f", 1)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step("a", "gone")], [("a", 0)]),
        ([step("a", "a")], [("a", 0)]),
        ([step("a", "b"), step("b", "a"), step("c", "b")], [("a", 0), ("b", 1), ("c", 2)]),
        ([], []),
    ],
    ids=["a parent that is not there", "a part of itself", "parts of one another", "nothing"],
)
def test_what_cannot_be_is_shown_all_the_same(steps: list[Step], expected: list[tuple[str, int]]) -> None:
    assert drawn(*steps) == expected


def test_every_span_stands_there_once_whatever_is_a_part_of_what() -> None:
    rng = random.Random(7)
    for _ in range(200):
        names = [str(number) for number in range(rng.randint(1, 12))]
        steps = [step(name, rng.choice([None, *names, "elsewhere"])) for name in names]
        assert sorted(one for one, _ in drawn(*steps)) == sorted(names)


def test_a_deep_tree_is_no_deep_call() -> None:
    names = [str(number) for number in range(5000)]
    steps = ordered(step(name, str(number - 1) if number else None) for number, name in enumerate(names))
    assert steps[-1].depth == 4999
    assert len(steps[-1].indent) < 100


def test_a_page_of_a_trace_is_read_without_its_texts(tmp_path_factory: pytest.TempPathFactory) -> None:
    workspace = Workspace.open(tmp_path_factory.mktemp("steps"), create=True)
    spans = [a_span(f"s{number}", number, parent_id="s0" if number else None) for number in range(5)]
    write_traces(workspace, [*reversed(spans), a_span("other", trace_id="u")])
    reader = TraceReader(workspace)
    first, total = steps_of(reader, "t", 3, 0)
    assert ([one.span_id for one in first], total) == (["s0", "s1", "s2"], 5)
    assert [one.depth for one in first] == [0, 1, 1]
    rest, _ = steps_of(reader, "t", 3, 3)
    assert [(one.span_id, one.depth) for one in rest] == [("s3", 0), ("s4", 0)]
    assert steps_of(reader, "nowhere", 3, 0) == ([], 0)
