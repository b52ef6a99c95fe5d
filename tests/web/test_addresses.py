"""The state of a page in its address is its own: what one page binds, no other page does."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import raylens_app.web
from raylens_app.web.registry import PAGES

WEB = Path(raylens_app.web.__file__).parent
ROOMS = {
    "listing": "features", "feature": "feature", "comparing": "compare", "scoring": "score_card", "audit": "audits",
    "traces": "traces", "bench": "workbench", "query": "sql",
}  # fmt: skip
"""Which page a folder is of; the list of audits and one audit share theirs."""


def page_of(path: Path) -> str:
    name = path.stem if path.parent.name == "pages" else ROOMS[path.parent.name]
    return {"audit": "audits"}.get(name, name)


def bound() -> dict[str, set[str]]:
    """Pages by the parameters that their widgets bind."""
    found = defaultdict[str, set[str]](set)
    for path in WEB.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            given = {word.arg: word.value for word in call.keywords}
            if "bind" in given:
                for name in names(given["key"], tree, path):
                    found[name].add(page_of(path))
    return found


def names(key: ast.expr, tree: ast.Module, path: Path) -> set[str]:
    """What a key is: a text, a constant, or what a function of this file is called with."""
    if isinstance(key, ast.Constant):
        return {str(key.value)}
    assert isinstance(key, ast.Name)
    for other in (tree, *(ast.parse(one.read_text("utf-8")) for one in path.parent.glob("*.py"))):
        for line in other.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id == key.id:
                assert isinstance(line.value, ast.Constant)
                return {str(line.value.value)}
    function = next(
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef) and key.id in [arg.arg for arg in one.args.args]
    )
    at = [arg.arg for arg in function.args.args].index(key.id)
    calls = [
        one for one in ast.walk(tree)
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == function.name
    ]  # fmt: skip
    texts = [one.args[at] for one in calls]
    assert texts
    return {str(text.value) for text in texts if isinstance(text, ast.Constant)}


def test_no_two_pages_bind_the_same_parameter() -> None:
    found = bound()
    assert len(found) > 40
    assert {name: sorted(pages) for name, pages in found.items() if len(pages) > 1} == {}
    assert set().union(*found.values()) <= {page.name for page in PAGES}


def test_no_page_binds_what_links_to_pages_name() -> None:
    """Streamlit refuses to leave for a page with a parameter that is bound where one comes from."""
    assert not bound().keys() & {"id", "cache", "run", "trace", "span", "watch", "session", "feature"}
