"""A feature's provenance drawn: a column a layer, a box a node, a line an edge, as wide as its attribution is large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raylens.api.provenance import Provenance, ProvenanceEdge, ProvenanceNode
from raylens.reports.markup import Markup, element, joined
from raylens.reports.numbers import count, figure, signed
from raylens.reports.visible import one_line

_BOX: Final = 210
_COLUMN: Final = 330
_HEIGHT: Final = 40
_ROW: Final = 50
_TOP: Final = 30
_MARGIN: Final = 8
_WIDEST: Final = 9.0
"""Pixels of the strongest edge."""
_LETTERS: Final = 30
"""That fit into a box."""

Key = tuple[str, int]
Places = dict[Key, tuple[float, float]]
"""Left edge and middle of each node's box."""


def provenance_graph(found: Provenance, names: Mapping[str, str]) -> Markup:
    """The drawing.

    Args:
        found: What is drawn.
        names: What is said of features, by full name.
    """
    columns = _columns(found)
    rows = max(len(nodes) for _, nodes in columns)
    height = _TOP + rows * _ROW + _MARGIN
    width = _COLUMN * (len(columns) - 1) + _BOX + 2 * _MARGIN
    places: Places = {}
    for at, (_, nodes) in enumerate(columns):
        above = _TOP + (rows - len(nodes)) * _ROW / 2
        for row, node in enumerate(nodes):
            places[node.key] = (_MARGIN + at * _COLUMN, above + row * _ROW + _ROW / 2)
    longest = max((abs(edge.attribution) for edge in found.edges), default=1.0) or 1.0
    # The strongest last, so that they lie on top.
    lines = [_line(edge, places, longest) for edge in reversed(found.edges)]
    boxes = [_box(node, places[node.key], names.get(node.name), node.key == found.target.key) for node in _nodes(found)]
    heads = [
        element("text", head, x=_MARGIN + at * _COLUMN, y=16, font_weight="bold")
        for at, (head, _) in enumerate(columns)
    ]
    title = f"What caused {found.target.short}: {count(len(found.edges), 'edge')}"
    return element(
        "svg",
        element("title", title),
        joined(heads, lines, boxes, between="\n"),
        viewBox=f"0 0 {width} {height:g}",
        width="100%",
        role="img",
    )


def _columns(found: Provenance) -> list[tuple[str, list[ProvenanceNode]]]:
    """A heading and the nodes of each layer, the strongest first; the target's comes last."""
    weight: dict[Key, float] = {}
    for edge in found.edges:
        weight[edge.source.key] = max(weight.get(edge.source.key, 0.0), abs(edge.attribution))
    columns: list[tuple[str, list[ProvenanceNode]]] = []
    for share in found.layers:
        own = [node for node in _nodes(found) if node.sae == share.sae and node.key != found.target.key]
        own.sort(key=lambda node: -weight.get(node.key, 0.0))
        columns.append((share.sae if share.layer is None else f"layer {share.layer}", own))
    head = found.target.sae if found.target.layer is None else f"layer {found.target.layer}"
    return [*columns, (head, [found.target])]


def _nodes(found: Provenance) -> list[ProvenanceNode]:
    ends = [found.target, *(node for edge in found.edges for node in (edge.source, edge.target))]
    return list({node.key: node for node in ends}.values())


def _line(edge: ProvenanceEdge, places: Places, longest: float) -> Markup:
    (left, y), (right, z) = places[edge.source.key], places[edge.target.key]
    x, end = left + _BOX, right
    bend = (end - x) / 2
    said = (
        f"{edge.source.short} on {one_line(edge.source.text)!r} → {edge.target.short}: "
        f"attribution {signed(edge.attribution)}, ablation {signed(edge.ablation_effect)}"
        + ("" if edge.confirmed else ", not confirmed")
    )
    path = element(
        "path",
        element("title", said),
        d=f"M{x:g} {y:g}C{x + bend:g} {y:g} {end - bend:g} {z:g} {end:g} {z:g}",
        fill="none",
        stroke="currentColor",
        stroke_opacity="0.55",
        stroke_width=f"{max(1.0, _WIDEST * abs(edge.attribution) / longest):.2f}",
        stroke_dasharray=None if edge.confirmed else "5 4",
    )
    # The style sheet colours text by these classes, and currentColor takes it up.
    return element("g", path, class_="up" if edge.attribution > 0 else "down")


def _box(node: ProvenanceNode, place: tuple[float, float], name: str | None, is_target: bool) -> Markup:
    x, y = place
    top = y - _HEIGHT / 2
    token = one_line(node.text)
    about = f"{node.short} on {token!r} ({node.token})"
    if name is None:
        name = "not reconstructed" if node.feature is None else ""
    return element(
        "g",
        element("title", f"{node.name} on token {node.token} {token!r}, {figure(node.activation)}: {name}"),
        element(
            "rect",
            class_="axis",
            x=f"{x:g}",
            y=f"{top:g}",
            width=_BOX,
            height=_HEIGHT,
            rx=5,
            fill="none",
            stroke_width=3 if is_target else 1,
        ),
        element("text", _short(about), x=f"{x + 7:g}", y=f"{top + 16:g}", font_weight="bold" if is_target else None),
        element("text", _short(one_line(name)), x=f"{x + 7:g}", y=f"{top + 33:g}"),
    )


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
