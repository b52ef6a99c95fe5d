"""Whether two wordings hold the same Python and stop at the same place, whatever they call things and look like.

Trees are compared, with what is missing at the end added to both. Names that the code itself gives (parameters,
variables, functions, methods, attributes that it sets) may differ as long as each stands for one of the other's. So
may what docstrings and comments say, and the order of neighbouring imports and of keyword arguments.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from itertools import groupby

from raylens.suites.python_prefix import closing, parsed
from raylens.suites.python_tokens import lex, open_brackets

_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORTS = ast.Import | ast.ImportFrom


def continues_python(text: str) -> bool:
    """Whether ``text`` is Python that may stop anywhere."""
    return closing(text) is not None


def reads_as_code(text: str) -> bool:
    """Whether ``text`` is Python that may stop anywhere and does more than name things, as prose may by accident."""
    tree = _tree(text)
    return tree is not None and any(not isinstance(node, ast.Expr) for node in tree.body)


def same_code(one: str, other: str) -> bool:
    """Whether both are Python of the same statements that stops at the same place; False where either is none."""
    trees = _tree(one), _tree(other)
    if trees[0] is None or trees[1] is None or _end(one) != _end(other):
        return False
    try:
        return ast.dump(_plain(trees[0])) == ast.dump(_plain(trees[1]))
    except RecursionError:
        return False


def _tree(text: str) -> ast.Module | None:
    ending = closing(text)
    return parsed(text + ending) if ending is not None else None


def _end(text: str) -> tuple[str, str, int]:
    """Where it stops: brackets that are open, whether that is inside a string or a comment, and how often it passes.

    The last tells a body that is to come from one that was written: what is added to the former is ``pass``.
    """
    tokens = lex(text)
    inside = ""
    if tokens and (tokens[-1].kind == "comment" or (tokens[-1].kind == "string" and not tokens[-1].is_closed)):
        inside = tokens[-1].kind
    return open_brackets(tokens), inside, sum(token.text == "pass" for token in tokens)


def _plain(tree: ast.Module) -> ast.AST:
    """``tree``, which is changed: docstrings empty, its own names numbered, in an order that says nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | _NAMED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Expr(ast.Constant(""))
        if isinstance(node, ast.Call) and all(keyword.arg for keyword in node.keywords):
            node.keywords.sort(key=lambda keyword: str(keyword.arg))
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and any(isinstance(item, _IMPORTS) for item in value):
                setattr(node, name, _imports_sorted(value))
    return _Numbered.of(tree).visit(tree)


def _imports_sorted(body: list[ast.stmt]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for is_import, group in groupby(body, lambda node: isinstance(node, _IMPORTS)):
        run = list(group)
        found += sorted(run, key=ast.dump) if is_import else run
    return found


@dataclass
class _Numbered(ast.NodeTransformer):
    """Puts numbers in place of the names that the code gives, in the order in which they first stand there.

    Attributes:
        names: Given to variables, parameters, functions and classes.
        attributes: Given to what stands after a dot: methods, and attributes that are set.
        callables: Functions and classes of the code, whose keywords are its own parameters.
    """

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    callables: set[str] = field(default_factory=set)
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module) -> _Numbered:
        """Knows what ``tree`` gives names to; ``__dunder__`` names belong to Python and are kept."""
        found = cls()
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                    found.names.add(name)
                case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                    found.names.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()):
                    found.attributes.add(name)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.names.add(node.name)
                    found.callables.add(node.name)
                    if isinstance(node, ast.ClassDef):
                        found.attributes |= {name for one in node.body for name in _given_by(one)}
                case _:
                    pass
        for kind in (found.names, found.attributes):
            kind -= {name for name in kind if name.startswith("__") and name.endswith("__")}
        return found

    def visit(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.Name():
                node.id = self._name(node.id)
            case ast.arg():
                node.arg = self._name(node.arg)
            case ast.alias(asname=str(name)):
                node.asname = self._name(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                node.name = self._name(name)
            case ast.Global() | ast.Nonlocal():
                node.names = [self._name(name) for name in node.names]
            case ast.Attribute():
                node.attr = self._attribute(node.attr)
            case ast.ClassDef():
                node.name = self._name(node.name)
                for one in node.body:
                    if isinstance(one, _NAMED):
                        # The dot tells what is meant: a method is known by what its callers write.
                        one.name = "." + self._attribute(one.name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not node.name.startswith("."):
                node.name = self._name(node.name)
            case ast.Call() if self._is_own(node.func):
                for keyword in node.keywords:
                    keyword.arg = self._name(keyword.arg) if keyword.arg else None
            case _:
                pass
        return self.generic_visit(node)

    def _is_own(self, called: ast.expr) -> bool:
        if isinstance(called, ast.Attribute):
            return called.attr in self.attributes
        return isinstance(called, ast.Name) and called.id in self.callables

    def _name(self, name: str) -> str:
        return self._numbered("name", name) if name in self.names else name

    def _attribute(self, name: str) -> str:
        return self._numbered("attribute", name) if name in self.attributes else name

    def _numbered(self, kind: str, name: str) -> str:
        return self.numbers.setdefault((kind, name), f"{kind} {len(self.numbers)}")


def _given_by(node: ast.stmt) -> set[str]:
    """Names that a statement of a class's body gives to the class."""
    if isinstance(node, _NAMED):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}
