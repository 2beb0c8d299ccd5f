"""What a query is once it is read: its terms as a tree, its stages, each with its place in the text. A noun.

Not the reading (see `language`) and not the meaning of names (see `fields`, `aggregates`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written. `quoted` text is never a glob. `at` is its 0-based offset in the query."""

    text: str
    quoted: bool
    at: int


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression between slashes, RE2 syntax, found anywhere in the text."""

    pattern: str
    at: int


@dataclass(frozen=True, slots=True)
class Range:
    """Both ends included; an unquoted `*` leaves an end open."""

    low: Literal
    high: Literal
    at: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Any of several values."""

    items: tuple[Literal | Regex, ...]
    at: int


Value: TypeAlias = Literal | Regex | Range | Listing


@dataclass(frozen=True, slots=True)
class Term:
    """`field operator value`. `scope` is "span", "resource", "score" or "". operator: "=", "!=", ">", ">=", "<", "<="."""

    field: str
    scope: str
    operator: str
    value: Value
    at: int


@dataclass(frozen=True, slots=True)
class Has:
    """`has:field`: the span carries it."""

    field: str
    scope: str
    at: int


@dataclass(frozen=True, slots=True)
class Is:
    """`is:flag`."""

    flag: str
    at: int


@dataclass(frozen=True, slots=True)
class Text:
    """Free text: found in names, messages and attribute values, without regard to case."""

    value: Literal
    at: int


@dataclass(frozen=True, slots=True)
class SpanSet:
    """`any{...}` and its like: what other spans of the same trace are. kind: one of `language.KINDS`. part: what they match."""

    kind: str
    part: Node
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """Everything the part does not match, spans that lack the field included."""

    part: Node
    at: int


@dataclass(frozen=True, slots=True)
class And:
    """All parts match."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches."""

    parts: tuple[Node, ...]


Leaf: TypeAlias = Term | Has | Is | Text
Node: TypeAlias = Leaf | SpanSet | Not | And | Or

EVERYTHING: Final = And(())
"""The empty query."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`p95(duration)`: a function over spans, and the field as written, "" for `count()`. text: the whole, without blanks."""

    function: str
    field: str
    text: str
    at: int
    field_at: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name as written, with its place."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Stats:
    """`| stats p95(duration) by model every 1h`. every: a duration as written, None without one."""

    aggregates: tuple[Aggregate, ...]
    by: tuple[Name, ...]
    every: Literal | None
    at: int


@dataclass(frozen=True, slots=True)
class Sort:
    """`| sort -duration`. text: as `SearchRequest.sort` takes it, standing at key_at."""

    text: str
    at: int
    key_at: int


@dataclass(frozen=True, slots=True)
class Limit:
    """`| limit 20`."""

    count: int
    at: int


@dataclass(frozen=True, slots=True)
class Compare:
    """`| compare (model:x)`: with the spans that the text finds, or bare, None, with the spans that the query does not find."""

    other: str | None
    at: int


Stage: TypeAlias = Stats | Sort | Limit | Compare


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query: which spans, and what is done with them. text: the part before the first stage."""

    where: Node
    text: str
    stats: Stats | None = None
    sort: Sort | None = None
    limit: Limit | None = None
    compare: Compare | None = None


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node, none for a leaf."""
    if isinstance(node, And | Or):
        return node.parts
    return (node.part,) if isinstance(node, Not | SpanSet) else ()


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, each before its parts, in the order of the text; without recursion."""
    todo: list[Node] = [node]
    while todo:
        part = todo.pop()
        yield part
        todo.extend(reversed(children(part)))


def regexes(node: Node) -> list[Regex]:
    """Every regular expression of a query, in the order of the text."""
    found: list[Regex] = []
    for part in walk(node):
        if isinstance(part, Term):
            values = part.value.items if isinstance(part.value, Listing) else (part.value,)
            found += [value for value in values if isinstance(value, Regex)]
    return sorted(found, key=lambda regex: regex.at)
