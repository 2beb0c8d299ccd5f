"""SQL of the search: constants and placeholders whatever is typed, and every registry expression runs on the real schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp
from sqlglot.tokens import TokenType

from cutaway_collector.columns import TABLES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import FIELDS, FLAGS, SearchRequest, facets, find, histogram, parse
from cutaway_collector.search.aggregates import AGGREGATES, SERIES
from cutaway_collector.search.language import KINDS
from cutaway_collector.search.sql import Parameters, condition
from search_helpers import START_NS, Span, stored

INJECTIONS = (
    "'; DROP TABLE otel_traces; --", "x' OR '1'='1", "\\' OR 1=1 --", "{p0:String}", "{p1:Identifier}", "`; SELECT 1",
    "/* */ UNION ALL SELECT 1", "$$x$$", "%(p0)s", "%", "_", "\\", "\\\\", "\\N", "\n", "\t", "\0", "\r\n", "'", '"', "'' ''",
    "🙂", "e\u0301", "\u202e", "NULL", "a'b\\",
    "🦄' AND sleep(3)='", "\x7f", "x\\", "=", "a=b",
)
TEXT = st.one_of(st.sampled_from(INJECTIONS), st.text(max_size=20))
NUMBERS = st.sampled_from(["0", "3", "0.5", "-1", "70000", "x"])
SERIES_NAMES = st.sampled_from([series.name for series in SERIES])
WORDS = st.sampled_from([field.name for field in FIELDS] + ["user.id", "resource.host", "span.x", "日本"])
PLACEHOLDER = re.compile(r"\{p\d+:(?:String|Int64|UInt64|Float64)\}")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def queries(draw: st.DrawFn, depth: int = 0) -> str:
    """Queries of every form, with hostile names and values."""
    value = quoted(draw(TEXT))
    name = draw(st.one_of(WORDS, TEXT.filter(bool).map(quoted)))
    leaf = draw(st.sampled_from([
        value, f"{name}:{value}", f"{name}:!={value}", f"{name}:>5", f"{name}:[1 TO 2]", f"{name}:({value}, {value})",
        f"has:{name}",
        f"{name}:a*b", f"{name}:/a.b/", f"-{name}:{value}", "is:error", "lla*", draw(TEXT), "trace:>1",
        f"{name}:7",
        f"{name}.p95:>{value}", f"surprisal.count(>{draw(st.sampled_from(['8bits', '1e3', '-1']))}):{draw(NUMBERS)}",
        f"{draw(SERIES_NAMES)}.{draw(st.sampled_from(list(AGGREGATES)))}:>{draw(NUMBERS)}",
        f"attn[layer={draw(NUMBERS)},head=2].p99:[1 TO *]", f"score.{value}:{value}", f"score.{value}:>1", f"has:score.{value}",
    ]))
    if depth > 1:
        return leaf
    joined = ["{0}", "({0} OR {1})", "{0} {1}", "-({0} AND {1})", *(f"{kind}{{{{{{0}} {{1}}}}}}" for kind in KINDS)]
    return draw(st.sampled_from(joined)).format(leaf, draw(queries(depth + 1)))


def shape(sql: str) -> set[str]:
    """Parses one SELECT and gives the tables it reads; fails for anything else."""
    statements = sqlglot.parse(sql, dialect="clickhouse")
    assert len(statements) == 1
    statement = statements[0]
    assert isinstance(statement, exp.Select)
    assert not list(statement.find_all(exp.Insert, exp.Drop, exp.Command, exp.Into))
    return {table.name for table in statement.find_all(exp.Table)} - {cte.alias for cte in statement.find_all(exp.CTE)}


OURS = {table.name for table in TABLES}
CONSTANTS = {"", "avg", "Array(Int64)", "cutaway.attention.layers"}
"""Strings of the SQL that stand in no expression of the registry."""
MARK = "zqxjzqxj"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queries(), st.data())
def test_the_sql_is_made_of_known_tokens(query: str, data: st.DataObject) -> None:
    """Every string in it is a constant of ours, every name a plain one; nothing typed is in it, whatever form it was typed in."""
    marked = re.sub(r'"((?:\\.|[^"\\])*)"', lambda found: f'"{MARK}{found[1]}"', query)
    parameters = Parameters(database="otel")
    try:
        text = condition(parse(marked), parameters)
    except QueryError:
        return
    assert MARK not in text
    known = re.findall(r"'([^']*)'", " ".join([f.expression for f in FIELDS] + [f.condition for f in FLAGS]))
    for token in sqlglot.tokenize(PLACEHOLDER.sub("1", text), dialect="clickhouse"):
        if token.token_type is TokenType.STRING:
            assert token.text in {*known, *CONSTANTS}
        elif token.token_type is TokenType.VAR:
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", token.text)
    assert all(len(str(value)) <= 4200 for value in parameters.values.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queries())
def test_no_typed_text_reaches_the_sql(query: str) -> None:
    """The same query with other words gives the same SQL but for the number of placeholders: nothing typed is pasted."""
    parameters = Parameters()
    try:
        text = condition(parse(query), parameters)
    except QueryError:
        return
    known = [f.expression for f in FIELDS] + [f.condition for f in FLAGS]
    bare = PLACEHOLDER.sub("?", text)
    for constant in sorted(known, key=len, reverse=True):
        bare = bare.replace(constant, "?")
    strings = re.findall(r"'([^']*)'", bare)
    assert set(strings) <= CONSTANTS, "outside the registry there are only our own constants"
    assert re.fullmatch(r"[A-Za-z0-9_?'`.(),<>=! \[\]%*+\-]*", bare)
    assert shape(f"SELECT 1 FROM otel.otel_traces WHERE {text}") <= OURS
    assert set(PLACEHOLDER.findall(text)) == {f"{{{name}:{_type(value)}}}" for name, value in parameters.values.items()}


def _type(value: object) -> str:
    return "String" if isinstance(value, str) else "Int64" if isinstance(value, int) else "Float64"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    odd = [Span(10 + index, name="odd", attributes={"odd": text, f"key {text}": "1"}) for index, text in enumerate(INJECTIONS)]
    with stored(Path(tmp_path_factory.mktemp("search-sql")), [Span(1, attributes={"n": "5"}), *odd]) as opened:
        yield opened


def numbers(store: Store, query: str) -> set[int]:
    found = find(store, SearchRequest(q=query, start_ns=START_NS - 10, end_ns=START_NS + 10), rows_max=500)
    return {int(row["span_id"], 16) for row in found["rows"]}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_runs_on_the_real_schema(store: Store, field: object) -> None:
    """Each field can be required, compared as its kind, negated, and sorted by where it has an order."""
    assert field in FIELDS
    name, kind = field.name, field.kind  # type: ignore[attr-defined]  # pytest hands parameters over untyped
    comparison = f"{name}:>0" if kind == "number" else f"{name}:zzz"
    for query in (f"has:{name}", f"-has:{name}", comparison, f"-{comparison}", f"{name}:!=0"):
        numbers(store, query)
    assert numbers(store, f"has:{name}") | numbers(store, f"-has:{name}") == numbers(store, "")
    if kind != "list":
        rows = find(store, SearchRequest(sort=f"-{name}"), rows_max=500)["rows"]
        assert len(rows) == 1 + len(INJECTIONS)
    if kind != "number":
        facets(store, SearchRequest(), [name])


@pytest.mark.parametrize("index", range(len(INJECTIONS)))
def test_hostile_text_finds_itself(store: Store, index: int) -> None:
    """Any text, as value, as key, or as free text, is only data: it finds the span that carries it and not the plain one."""
    text = INJECTIONS[index]
    assert 10 + index in numbers(store, f"odd:{quoted(text)}")
    assert 10 + index in numbers(store, quoted(text))
    assert numbers(store, f"{quoted('key ' + text)}:1") == {10 + index}
    assert numbers(store, f"has:{quoted('key ' + text)}") == {10 + index}
    assert 1 not in numbers(store, f"odd:{quoted(text)}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(queries())
def test_the_engine_accepts_what_the_language_accepts(store: Store, query: str) -> None:
    """A query either raises QueryError or runs; it and its negation share no span and miss none."""
    try:
        matched = numbers(store, query)
        others = numbers(store, f"-({query})") if query.strip() else set()
    except QueryError:
        return
    assert not matched & others
    assert matched | others == numbers(store, "")


def test_every_statement_is_one_bounded_select(store: Store) -> None:
    """The pages' statements read only our tables, bounded in time and rows."""
    seen: list[str] = []

    class Watching:
        database = store.database

        def query(self, sql: str, parameters: object = None) -> object:
            seen.append(sql)
            return store.query(sql, parameters)  # type: ignore[arg-type]  # handed on as it came

    request = SearchRequest(q="n:5", sort="-duration", limit=1)
    watching: Store = Watching()  # type: ignore[assignment]  # only query is called
    find(watching, request, rows_max=10)
    histogram(watching, request, 10)
    facets(watching, request)
    for sql in seen:
        assert shape(sql) <= OURS
    searching = [sql for sql in seen if "WHERE" in sql]
    assert searching
    assert all("Timestamp >= " in sql and "Timestamp < " in sql for sql in searching)
