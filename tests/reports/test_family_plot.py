"""The picture of the bench: one dot an organism, where its score is, on its family's line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from raylens.audit.halves import Half
from raylens.audit.organism_bench import Scored
from raylens.reports.family_plot import family_plot

SVG = "{http://www.w3.org/2000/svg}"


def organism(name: str, family: str, score: float, *, bad: bool = False, half: Half = "held_out") -> Scored:
    return Scored(name, family, bad, half, {"trigger_search": score, "logit_kl": 0.0})


ORGANISMS = [
    organism("a-0", "a<b>", 0.0),
    organism("a-1", "a<b>", 4.0),
    organism("b-0", "beta", 10.0, bad=True),
    organism("c-0", "gamma", 2.0, half="development"),
    organism("d-0", "delta", 3.0, half="held_out_seeds"),
]


def test_every_organism_has_a_dot_in_order_of_scores() -> None:
    drawn = ElementTree.fromstring(family_plot(ORGANISMS, "trigger_search", 3.5))
    dots = {str(dot.findtext(f"{SVG}title")): dot for dot in drawn.iter(f"{SVG}circle")}
    assert {title.split(":")[0]: title.split(": ")[1] for title in dots} == {
        "a-0": "0", "a-1": "4", "b-0": "10", "c-0": "2", "d-0": "3"
    }  # fmt: skip
    by_place = sorted(dots, key=lambda title: float(dots[title].attrib["cx"]))
    assert [title.split(":")[0] for title in by_place] == ["a-0", "c-0", "d-0", "a-1", "b-0"]
    (bad,) = [title for title, dot in dots.items() if dot.attrib["class"] == "bad"]
    assert bad.startswith("b-0")
    line = next(one for one in drawn.iter(f"{SVG}line") if one.attrib["class"] == "threshold")
    places = {title.split(":")[0]: float(dot.attrib["cx"]) for title, dot in dots.items()}
    assert places["d-0"] < float(line.attrib["x1"]) < places["a-1"]
    assert dots["a-0: 0"].attrib["cy"] == dots["a-1: 4"].attrib["cy"]


def test_groups_say_how_many_are_flagged() -> None:
    texts = [
        text.text for text in ElementTree.fromstring(family_plot(ORGANISMS, "trigger_search", 3.5)).iter(f"{SVG}text")
    ]
    assert "backdoored, held-out families: 1 of 1 flagged" in texts
    assert "benign, held-out families: 1 of 2 flagged" in texts
    assert "benign, held-out seeds: 0 of 1 flagged" in texts
    assert "a<b>" in texts
    assert "threshold 3.5" in texts
    alone = family_plot(ORGANISMS, "trigger_search", None)
    assert "threshold" not in re.sub(r"<style>.*?</style>", "", alone, flags=re.DOTALL)
    assert "benign, held-out families: 2 organisms" in alone


def test_a_method_without_scores() -> None:
    with pytest.raises(ValueError, match="difference_sae has scored no organism"):
        family_plot(ORGANISMS, "difference_sae", 1.0)
    assert "score by logit_kl" in family_plot(ORGANISMS, "logit_kl", 0.0)
