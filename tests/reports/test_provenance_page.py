"""The picture of a provenance: a box a node, a line an edge, and text of others that stays text (A3.10)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

from hypothesis import example, given, settings
from strategies import HOSTILE, texts

from provenances import made_up
from raylens.reports.provenance_graph import provenance_graph
from raylens.reports.provenance_page import provenance_page

NAMES = {"tiny-res/layer_5/7": "the word return", "tiny-res/layer_3/2": "an end & a beginning"}


def parts(name: str) -> list[ElementTree.Element]:
    return [part for part in ElementTree.fromstring(provenance_graph(made_up(), NAMES)).iter() if part.tag == name]


def test_each_node_is_a_box_in_the_column_of_its_layer() -> None:
    boxes = parts("rect")
    assert len(boxes) == 5  # two features of layer 1, a feature and an error of layer 3, the target
    assert sorted(float(box.attrib["x"]) for box in boxes) == [8, 8, 338, 338, 668]
    corners = {(box.attrib["x"], box.attrib["y"]) for box in boxes}
    assert len(corners) == 5, "no box lies on another"
    written = [text.text for text in parts("text")]
    assert written[:3] == ["layer 1", "layer 3", "layer 5"]
    assert {"f_5_7 on '␣return' (3)", "the word return", "an end & a beginning", "not reconstructed"} <= set(written)


def test_each_edge_is_a_line_as_wide_as_it_is_strong() -> None:
    lines = {str(path.findtext("title")): path for path in parts("path")}
    assert len(lines) == 5
    widths = {title.split(":")[0]: float(path.attrib["stroke-width"]) for title, path in lines.items()}
    assert max(widths, key=lambda title: widths[title]).startswith("f_3_2 ")
    dashed = [title for title, path in lines.items() if "stroke-dasharray" in path.attrib]
    assert len(dashed) == 1
    assert dashed[0].endswith("attribution +0.25, ablation -0.1, not confirmed")
    for path in lines.values():
        start, end = re.match(r"M([\d.]+) .* ([\d.]+) [\d.]+$", path.attrib["d"]).groups()  # type: ignore[union-attr]
        assert float(start) < float(end), "from the source's right to the target's left"


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text: list[str] = []
        self.loads: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "style") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_says_what_is_drawn() -> None:
    read = Reader(provenance_page(made_up(), NAMES))
    said = " ".join("".join(read.text).split())
    assert "What caused f_5_7" in said
    assert "80 % of 5 edges" in said
    assert "gradient × activation" in said
    assert "Said of it: the word return." in said
    assert "integrated gradients (8 steps)" in "".join(Reader(provenance_page(made_up(integrated=8), {})).text)
    assert said.count("target") >= 4
    for share in ("50 %", "25 %", "75 %", "10 %"):  # 2, 1, 3 and 0.4 of an activation of 4
        assert share in said
    assert read.loads == []
    assert "no edges" in "".join(Reader(provenance_page(made_up(edges=()), {})).text)


@given(texts())
@settings(max_examples=20)
@example("\n".join(HOSTILE))
def test_what_a_text_or_a_name_says_is_not_obeyed(text: str) -> None:
    found = made_up(text=text)
    plain = Reader(provenance_page(made_up(), {"tiny-res/layer_3/2": "x"}))
    read = Reader(provenance_page(found, {"tiny-res/layer_3/2": text or "x"}))
    assert read.tags == plain.tags
    assert read.loads == []
