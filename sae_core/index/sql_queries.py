"""Queries in SQL over an index: which are let through, and what of them goes wrong, in one line.

`relation` is for the user's own machine. What comes from anybody (the app's SQL page) goes through
`check_query` first: one statement that reads, over the views of `views.py` and nothing else. The
connection itself is closed to files, network, extensions and settings besides, so that a query that
got by would find nothing.
"""

import json
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

from sae_core.index.schema import attach_for_queries
from sae_core.index.views import VIEWS, FeatureFunctions, create_views

EXAMPLE: Final = "SELECT feature, signature FROM features LIMIT 10"
TOO_DEEP: Final = (
    "This query is nested too deeply: use fewer brackets, or fewer terms in a row of operators."
)

_TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest"})
_REFUSED_FUNCTIONS: Final = re.compile(
    r"pg_.*|duckdb_.*|pragma_.*|has_.*_privilege|.*serialize.*|.*secret.*|read_.*|write_.*"
    r"|current_(setting|database|schemas?|user|role|query.*)|session_user|user|version"
    r"|getenv|getvariable|nextval|currval|txid_current|in_search_path|query|query_table|glob"
    r"|[a-z_]+_(of|at)"
)
"""Functions that say something of the machine, the connection or the program, and the views'."""
_PLACE: Final = re.compile(r"\n\nLINE (\d+): (.*)\n( *)\^")
_KIND: Final = re.compile(r"^[A-Z][A-Za-z ]* Error: ")
_LONGEST: Final = 400
"""Characters of a complaint: DuckDB repeats values in its own, however long they are."""
_NAMED: Final = re.compile(r"\"([^\"]+)\"|name (\w+) does not exist")


class QueryError(ValueError):
    """A query that is not answered: one sentence, with the place in it where that is known."""


def open_views(
    path: Path,
    functions: FeatureFunctions,
    meta: dict[str, Any],
    *,
    memory_mb: int | None = None,
    writes: Path | None = None,
    hardened: bool = True,
) -> duckdb.DuckDBPyConnection:
    """A connection to the views of the index at `path`; see `attach_for_queries`.

    ValueError if another index has taken its place since the one of `functions` was opened.
    """

    def prepare(connection: duckdb.DuckDBPyConnection) -> None:
        built = connection.execute("SELECT value FROM meta WHERE key = 'built'").fetchall()
        if [json.loads(value) for (value,) in built] != [meta["built"]]:
            raise QueryError(f"another index has taken the place of {path}: open it again.")
        functions.register(connection)
        create_views(connection, meta)

    return attach_for_queries(path, prepare, memory_mb=memory_mb, writes=writes, hardened=hardened)


def relation(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """What the query selects, read when it is asked for; it closes the connection once it is gone.

    QueryError if it is no query.
    """
    try:
        selected = connection.sql(query)
        if selected is None:
            raise QueryError(f"that is no query: begin with SELECT or FROM, as {EXAMPLE}.")
    except duckdb.Error as error:
        connection.close()
        raise QueryError(told(error, query)) from error
    except BaseException:
        connection.close()
        raise
    weakref.finalize(selected, connection.close)
    return selected


def check_query(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """QueryError unless this is one query over the views alone."""
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(told(error, query)) from error
    if not statements:
        raise QueryError(f"There is no query yet: write one, such as {EXAMPLE}.")
    if len(statements) > 1:
        raise QueryError("One query at a time: leave out what follows the first semicolon.")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("Queries here only read: begin with SELECT, FROM or WITH.")
    if statements[0].named_parameters:
        raise QueryError("A query has no parameters here: write the values in their places.")
    [(serialized,)] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    try:
        tree = json.loads(serialized)
    except RecursionError as error:
        raise QueryError(TOO_DEEP) from error
    if tree["error"]:
        raise QueryError("This kind of query is not offered here: use SELECT.")
    nodes = list(_nodes(tree))
    given = {name for node in nodes for name in _named_here(node)}
    # A name of WITH is let through as a table anywhere in the query, also outside its own part: so
    # it must be none that stands for something there.
    taken = given & _catalog(connection) - {*VIEWS}
    if taken:
        raise QueryError(
            f"The name {_shown(min(taken))} is that of a table of the system: give what WITH "
            "names another one."
        )
    names = {*VIEWS, *given}
    for node in nodes:
        _check_node(node, names)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All parts of a parsed query."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _named_here(node: dict[str, Any]) -> Iterator[str]:
    """Names that a query gives to parts of its own (WITH)."""
    if isinstance(node.get("cte_map"), dict):
        yield from (each["key"].lower() for each in node["cte_map"]["map"])
    if node.get("type") == "RECURSIVE_CTE_NODE":
        yield str(node["cte_name"]).lower()


def _catalog(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The names of all tables and views that a connection has, in lower case: of the index's file,
    the program's views, and DuckDB's own.
    """
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views()"
    ).fetchall()
    return {name.lower() for (name,) in rows}


def _check_node(node: dict[str, Any], names: set[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        path = node["qualified_name"]["path"] if "qualified_name" in node else [node["table_name"]]
        if len(path) > 1 or str(path[-1]).lower() not in names:
            raise QueryError(f"There is no table {_shown('.'.join(path))}: use {', '.join(VIEWS)}.")
    elif kind == "SHOW_REF" and node.get("query") is None:
        raise QueryError("The tables are listed beside the query: use DESCRIBE features for one.")
    elif kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise QueryError(
                f"The function {_shown(name)} is not offered here: a query reads "
                f"{', '.join(VIEWS)}."
            )
    if "function_name" in node:
        name = str(node["function_name"]).lower()
        if _REFUSED_FUNCTIONS.fullmatch(name):
            raise QueryError(f"The function {_shown(name)} is not offered here.")
    elif kind == "LAMBDA_REF" or str(node.get("class", "")) == "PARAMETER":
        raise QueryError("A query has no parameters here: write the values in their places.")


def _shown(name: str) -> str:
    short = name if len(name) <= 60 else name[:59] + "…"
    return f"“{short}”"


def _spaced(text: str) -> str:
    """The text with a space for each character that is one."""
    return re.sub(r"\s", " ", text)


def told(error: Exception, query: str) -> str:
    """DuckDB's complaint about a query as one line, with line and column where they are known."""
    text = str(error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return "This query needs more memory than one may take: select fewer rows or columns."
    raised = re.search(r"Python exception occurred while executing the UDF: ValueError: (.*)", text)
    if raised:
        return raised[1]
    place = _PLACE.search(text)
    sentence = _KIND.sub("", text.partition("\n\nLINE ")[0])
    sentence = " ".join(sentence.split()).rstrip(".")
    if len(sentence) > _LONGEST:
        sentence = sentence[: _LONGEST - 1] + "…"
    lines = query.split("\n")
    if place and int(place[1]) <= len(lines):
        line, column = int(place[1]), len(place[3]) - len(f"LINE {place[1]}: ") + 1
        shown = place[2].removeprefix("...").removesuffix("...")
        at = _spaced(lines[line - 1]).find(_spaced(shown).rstrip())
        if place[2].startswith("..."):
            column += at - 3
        # Else it is a place in a query that DuckDB has made of this one.
        if at >= 0:
            return f"Line {line}, column {column}: {sentence}."
    if place:
        return f"{sentence}."
    # Of names that are not there DuckDB does not say where they stand.
    named = _NAMED.search(sentence)
    name = re.escape(named[1] or named[2]) if named else ""
    word = re.search(rf"(?<!\w){name}(?!\w)", query) if name else None
    if word:
        before = query[: word.start()]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"Line {line}, column {column}: {sentence}."
    return f"{sentence}."
