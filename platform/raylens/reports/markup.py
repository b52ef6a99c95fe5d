"""HTML in which text cannot become markup: elements are built, and whatever is not one is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from raylens.reports.visible import visible

VOID: Final = frozenset({"br", "meta", "wbr"})


class Markup(str):
    """HTML as it is to stand; made by :func:`element` only."""

    __slots__ = ()


Child = str | Markup | None
"""Text is escaped, markup stays, None is nothing."""


def element(name: str, /, *children: Child | Iterable[Child], **attributes: str | int | None) -> Markup:
    """An element with all of its children.

    Args:
        name: Of the element.
        children: One, or several as an iterable.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; of None there is none, of "" only its
            name.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + (f'="{_escaped(str(value))}"' if value != "" else "")
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{joined(*children)}</{name}>")


def joined(*children: Child | Iterable[Child], between: str = "") -> Markup:
    """Children side by side."""
    found: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            found.append(child if isinstance(child, Markup) else _escaped(child))
        else:
            found += [joined(one) for one in child if one is not None]
    return Markup(between.join(found))


def _escaped(text: str) -> str:
    return escape(visible(text), quote=True)
