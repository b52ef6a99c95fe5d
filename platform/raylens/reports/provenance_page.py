"""A feature's provenance as a page: the graph, how much it accounts for, and every edge in a table."""

from __future__ import annotations

from collections.abc import Mapping

from raylens.api.provenance import LayerShare, Provenance, ProvenanceNode
from raylens.reports.markup import Markup, element
from raylens.reports.numbers import count, figure, percent, signed
from raylens.reports.page import page, section, table
from raylens.reports.provenance_graph import provenance_graph
from raylens.reports.visible import one_line


def provenance_page(found: Provenance, names: Mapping[str, str]) -> str:
    """One HTML document that loads nothing and runs nothing.

    Args:
        found: What is shown.
        names: What is said of features, by full name.
    """
    target, edges = found.target, found.edges
    said = names.get(target.name)
    how = "gradient × activation"
    if found.integrated is not None:
        how = f"integrated gradients ({count(found.integrated, 'step')}) × activation"
    head = element(
        "p",
        element("code", target.name),
        f" on token {target.token} ({one_line(target.text)!r}), activation {figure(target.activation)}, read by "
        f"{found.model}." + (f" Said of it: {one_line(said)}." if said else ""),
    )
    agreement = f"{percent(found.agreement)} of {count(len(edges), 'edge')}" if edges else "no edges"
    caption = element(
        "figcaption",
        f"Edges by {how}: orange speaks for the target, blue against it, the wider the more. Ablation of the source "
        f"confirms the sign of {agreement}; dashed ones it does not.",
    )
    body = [
        element("h1", f"What caused {target.short}"),
        head,
        element("figure", provenance_graph(found, names), caption),
        section(
            "layers",
            "What each layer accounts for",
            element("p", "Shares of the target’s activation; those of a layer add up to 100 %."),
            _layers(found),
        ),
        section("edges", "Edges", _edges(found, names)),
        section("text", "Text", element("pre", "".join(found.tokens[:-1]), element("ins", found.tokens[-1]))),
    ]
    return page(f"What caused {target.short}", body)


def _layers(found: Provenance) -> Markup:
    of = found.target.activation

    def cells(one: LayerShare) -> list[str]:
        parts = (one.features, one.errors, one.special, one.bias, found.offset, one.rest)
        return [one.sae, *(percent(part / of) for part in parts), str(one.n_sources)]

    heads = ["SAE", "features:", "errors:", "special tokens:", "decoder bias:", "own bias:", "rest:", "weighed:"]
    return table("shares of the activation", heads, [cells(one) for one in found.layers])


def _edges(found: Provenance, names: Mapping[str, str]) -> Markup:
    heads = ["source", "token", "at:", "to", "attribution:", "ablation:", "activation left:", "confirmed", "said of it"]

    def to(node: ProvenanceNode) -> str:
        return "target" if node.key == found.target.key else f"{node.short} at {node.token}"

    rows = [
        [
            edge.source.short,
            one_line(edge.source.text),
            str(edge.source.token),
            to(edge.target),
            signed(edge.attribution),
            signed(edge.ablation_effect),
            figure(edge.ablated_activation),
            "yes" if edge.confirmed else "no",
            one_line(names.get(edge.source.name, "")),
        ]
        for edge in found.edges
    ]
    return table("edges", heads, rows)
