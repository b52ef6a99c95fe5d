"""Rules that say the same code in other words: another name for a parameter or function, another order."""

from __future__ import annotations

import ast
import builtins
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

from raylens.suites.variant_script import Edit, Script

_PARAMETERS: Final = ("value", "item", "source", "data", "content", "entry", "given", "first")
_PREFIXES: Final = ("get_", "do_", "make_")
# What reads names at run time: renaming is not safe beside it.
_READS_NAMES: Final = frozenset({"locals", "globals", "vars", "eval", "exec", "getattr", "setattr", "dir"})
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_CONSTANT_VALUES = ast.Constant | ast.Name


def rename(text: str, rng: random.Random) -> str | None:
    """Another name for one parameter or one function of the module, everywhere in the text."""
    script = Script.of(text)
    if script is None:
        return None
    taken = {token.text for token in script.code if token.kind == "name"}
    if taken & _READS_NAMES:
        return None
    choices = [(name, _PARAMETERS) for name in _parameters(script.tree)]
    choices += [(name, tuple(prefix + name for prefix in _PREFIXES)) for name in _module_functions(script.tree)]
    rng.shuffle(choices)
    for old, offers in choices:
        free = [new for new in offers if new not in taken and not hasattr(builtins, new)]
        if not free:
            continue
        new = rng.choice(free)
        edits = _renaming(script, old, new)
        if edits and (changed := script.edited(edits, partial(_renamed, old=new, new=old))):
            return changed
    return None


def _parameters(tree: ast.Module) -> list[str]:
    names = {
        arg.arg
        for node in ast.walk(tree)
        if isinstance(node, _FUNCTIONS)
        for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    }
    return sorted(name for name in names - {"self", "cls"} if not name.startswith("__"))


def _module_functions(tree: ast.Module) -> list[str]:
    names = {node.name for node in tree.body if isinstance(node, _FUNCTIONS)}
    return sorted(name for name in names if not name.startswith("_"))


def _renaming(script: Script, old: str, new: str) -> list[Edit] | None:
    """An edit for each place where ``old`` is the name meant; None where one of them cannot be told or moved."""
    places: set[int] = set()
    for node in ast.walk(script.tree):
        if isinstance(node, ast.JoinedStr) and old in ast.unparse(node):
            return None  # places within f-strings are not known before Python 3.12
        if isinstance(node, ast.ClassDef) and old in _bound_in(node):
            return None  # an attribute, which others reach by this name
        if (isinstance(node, ast.Name) and node.id == old) or (isinstance(node, ast.arg) and node.arg == old):
            places.add(script.span(node)[0])
    for before, token in pairwise([*script.code[:1], *script.code]):
        if token.kind == "name" and token.text == old and token.start not in places:
            if before.text in {"def", "class"}:
                places.add(token.start)
            elif before.text != ".":
                return None  # a keyword of a call, an import, a pattern …
    return [Edit(at, at + len(old), new) for at in places]


def _bound_in(node: ast.ClassDef) -> set[str]:
    """Names of a class's own statements, and of its methods."""
    methods = {part.name for part in node.body if isinstance(part, _FUNCTIONS)}
    others = [part for part in node.body if not isinstance(part, _FUNCTIONS)]
    return methods | {one.id for part in others for one in ast.walk(part) if isinstance(one, ast.Name)}


def _renamed(tree: ast.Module, old: str, new: str) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
        elif isinstance(node, ast.arg) and node.arg == old:
            node.arg = new
        elif isinstance(node, _FUNCTIONS) and node.name == old:
            node.name = new
    return tree


def reorder_imports(text: str, rng: random.Random) -> str | None:
    """Neighbouring import lines of the module in another order."""
    script = Script.of(text)
    if script is None:
        return None
    runs: list[list[ast.stmt]] = [[]]
    for node in script.tree.body:
        if _is_movable(node) and script.span(node)[1] < len(text) and _has_own_line(script, node):
            runs[-1].append(node)
        else:
            runs.append([])
    runs = [run for run in runs if len(run) > 1]
    if not runs:
        return None
    return _permuted(script, rng.choice(runs), rng, _sorted_imports)


def _is_movable(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module != "__future__" and all(alias.name != "*" for alias in node.names)
    return isinstance(node, ast.Import)


def _has_own_line(script: Script, node: ast.stmt) -> bool:
    start, end = script.span(node)
    begins = script.line_start(start) == start
    return begins and script.whole[end : end + 1] == "\n" and "\n" not in script.whole[start:end]


def reorder_keywords(text: str, rng: random.Random) -> str | None:
    """Keyword arguments of one call in another order, where their values are names and constants."""
    script = Script.of(text)
    if script is None:
        return None
    calls = []
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Call) and len(node.keywords) > 1 and script.span(node)[1] <= len(text):
            plain = all(one.arg is not None and isinstance(one.value, _CONSTANT_VALUES) for one in node.keywords)
            starred = any(isinstance(one, ast.Starred) for one in node.args)
            if plain and not starred:
                calls.append(node)
    return _permuted(script, rng.choice(calls).keywords, rng, _sorted_keywords) if calls else None


def _permuted(
    script: Script,
    nodes: Sequence[ast.stmt | ast.keyword],
    rng: random.Random,
    same: Callable[[ast.Module], ast.AST],
) -> str | None:
    spans = [script.span(node) for node in nodes]
    pieces = [script.whole[start:end] for start, end in spans]
    order = list(range(len(pieces)))
    while order == sorted(order):
        rng.shuffle(order)
    edits = [Edit(start, end, pieces[at]) for (start, end), at in zip(spans, order, strict=True)]
    return script.edited(edits, same)


def _sorted_imports(tree: ast.Module) -> ast.Module:
    body: list[ast.stmt] = []
    run: list[ast.stmt] = []
    for node in [*tree.body, None]:
        if node is not None and _is_movable(node):
            run.append(node)
            continue
        body += sorted(run, key=ast.dump)
        run = []
        if node is not None:
            body.append(node)
    tree.body = body
    return tree


def _sorted_keywords(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and all(one.arg is not None for one in node.keywords):
            node.keywords.sort(key=lambda one: one.arg or "")
    return tree
