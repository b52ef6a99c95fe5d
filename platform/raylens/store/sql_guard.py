"""What SQL from outside may say: one SELECT, or EXPLAIN of one, over the views and nothing else.

The text is parsed by DuckDB's own parser, never by patterns, and its syntax tree is walked: every
node must be of a kind listed here, every table a view or a common table expression, every function
one that computes from its arguments alone. What is not known is refused, so a new DuckDB cannot
open a door by adding a statement, a kind of table or a function that reads something.

This is the first of two walls. The connection that runs the statement is the second
(:func:`raylens.store.views.connect`): locked, it opens no file but the views' own. The first is
needed because the second alone lets the query read settings and the catalog, and the files' bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import duckdb

from raylens.errors import QueryError
from raylens.store.sql_functions import TABLE_FUNCTIONS, allowed_functions
from raylens.store.view_schemas import VIEWS
from raylens.store.views import one_line

MAX_SQL_CHARACTERS: Final = 100_000

# Of json_serialize_sql's trees. Expressions carry a "class"; tables, queries and modifiers a "type" only.
_EXPRESSIONS: Final = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
    "OPERATOR",
    "POSITIONAL_REFERENCE",
    "STAR",
    "SUBQUERY",
    "TYPE",
    "WINDOW",
}
_QUERIES: Final = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLES: Final = {"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "SUBQUERY", "TABLE_FUNCTION"}
_MODIFIERS: Final = {
    "ORDER_MODIFIER",
    "LIMIT_MODIFIER",
    "LIMIT_PERCENT_MODIFIER",
    "DISTINCT_MODIFIER",
    "ORDER_DEFAULT",
    "ASCENDING",
    "DESCENDING",
}
_NODES: Final = _QUERIES | _TABLES | _MODIFIERS
_MAX_DEPTH: Final = 600
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPLAIN: Final = re.compile(r"\s*EXPLAIN\b(\s+ANALYZE\b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Checked:
    """A statement that may run.

    Attributes:
        sql: The text to run.
        views: The views it reads.
    """

    sql: str
    views: frozenset[str]


def checked(sql: str) -> Checked:
    """Check a statement.

    Raises:
        QueryError: It is not exactly one SELECT or EXPLAIN of one, or reads something other than the views.
    """
    if len(sql) > MAX_SQL_CHARACTERS:
        raise refused(f"the query is longer than {MAX_SQL_CHARACTERS} characters")
    statement = _only(sql)
    if statement.type == duckdb.StatementType.EXPLAIN:
        prefix = _EXPLAIN.match(statement.query)
        if prefix is None:
            raise refused("EXPLAIN takes a SELECT right after it, without comments or options")
        inner = _only(statement.query[prefix.end() :])
        # Made anew from a statement that was checked by itself.
        run = f"EXPLAIN {'ANALYZE ' if prefix[1] else ''}{inner.query}"
        if inner.type != duckdb.StatementType.SELECT or _only(run).type != duckdb.StatementType.EXPLAIN:
            raise refused("only a SELECT can be explained")
        return Checked(run, _views(inner.query))
    if statement.type != duckdb.StatementType.SELECT:
        raise refused(f"{_spoken(statement.type.name)} is not allowed")
    return Checked(statement.query, _views(statement.query))


def refused(why: str) -> QueryError:
    """An error that says why, and what can be asked instead."""
    return QueryError(
        f"this query is refused: {why}.",
        hint=f"write one SELECT (or EXPLAIN SELECT) over the views {', '.join(VIEWS)}.",
    )


def _only(sql: str) -> duckdb.Statement:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(
            f"the query cannot be parsed: {one_line(error)}.", hint="it must be one SELECT in DuckDB's dialect."
        ) from error
    if len(statements) != 1:
        raise refused(f"it holds {len(statements)} statements")
    return statements[0]


def _views(select: str) -> frozenset[str]:
    """The views that a SELECT reads, if it reads nothing else."""
    defined: set[str] = set()
    tables: set[str] = set()
    makes_tables: set[int] = set()
    for node in _nodes(_tree(select)):
        _check_kind(node)
        kind = None if "class" in node else node.get("type")
        if kind == "TABLE_FUNCTION":
            makes_tables.add(id(node["function"]))
        if "function_name" in node:
            _check_function(node, TABLE_FUNCTIONS if id(node) in makes_tables else allowed_functions())
        for entry in node.get("cte_map", {}).get("map", ()):
            defined.add(_check_defined(entry["key"]))
        if kind == "BASE_TABLE":
            tables.add(_check_table(node))
    for name in sorted(tables - VIEWS.keys() - defined):
        raise refused(f"there is no view {name!r}")
    return frozenset(tables & VIEWS.keys())


def _check_kind(node: Mapping[str, Any]) -> None:
    kind = node.get("class", node.get("type"))
    known = _EXPRESSIONS if "class" in node else _NODES
    if isinstance(kind, str) and kind not in known:
        raise refused(f"{_spoken(kind)} is not allowed")


def _spoken(kind: str) -> str:
    return {"SHOW_REF": "DESCRIBE, SHOW or SUMMARIZE", "MULTI": "PIVOT"}.get(kind, kind.replace("_", " "))


def _check_function(node: Mapping[str, Any], allowed: frozenset[str]) -> None:
    name = str(node["function_name"]).lower()
    if node.get("schema") or node.get("catalog"):
        raise refused(f"function {name!r} is written with a schema")
    if name not in allowed:
        raise refused(f"function {name!r} is not allowed")


def _check_defined(name: str) -> str:
    # Where such a name is used out of its scope it means a catalog entry, or a file if it looks like one.
    if not _NAME.fullmatch(name) or name.lower() in _catalog_names():
        raise refused(f"{name!r} cannot name a common table expression")
    return name.lower()


def _check_table(node: Mapping[str, Any]) -> str:
    if node["schema_name"] or node["catalog_name"] or node["at_clause"]:
        raise refused(f"table {node['table_name']!r} is written with a schema or a version")
    return str(node["table_name"]).lower()


@lru_cache(maxsize=1)
def _catalog_names() -> frozenset[str]:
    """Names that DuckDB's own catalog views have, wherever they are found without a schema."""
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT lower(view_name) FROM duckdb_views() WHERE internal").fetchall()
    return frozenset(name for (name,) in rows)


def _tree(select: str) -> Any:
    with duckdb.connect() as connection:
        row = connection.execute("SELECT json_serialize_sql(?)", [select]).fetchone()
    try:
        tree = json.loads(row[0]) if row else {"error": True}
    except RecursionError as error:
        raise refused("it is nested too deeply") from error
    if tree["error"]:
        raise refused(str(tree.get("error_message", "it is not a SELECT")).rstrip("!."))
    return tree


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a JSON tree, each before those inside it."""
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise refused("it is nested too deeply")
        if isinstance(node, dict):
            yield node
            waiting.extend((inner, depth + 1) for inner in node.values())
        elif isinstance(node, list):
            waiting.extend((inner, depth + 1) for inner in node)
