"""The search language: text to a typed tree with source offsets.

Not SQL and not the meaning of names: `fields.py` knows those and `sql.py` applies them. `explain` lives in `english.py`.

    query   = term {["AND"] term}, with OR, NOT, - and parentheses
    term    = word | "a phrase" | field:value | field:>value | field>value | has:field | is:flag
    value   = word, glob* | "text" | /regex/ | [low TO high] | (one, another)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from cutaway_collector.errors import QueryError

QUERY_CHARACTERS_MAX: Final = 4096
DEPTH_MAX: Final = 40
TERMS_MAX: Final = 100
REGEX_CHARACTERS_MAX: Final = 256


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


Node: TypeAlias = Term | Has | Is | Text | Not | And | Or

EVERYTHING: Final = And(())
"""The empty query."""

_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def _unquote(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:-1])


def split_scope(name: str) -> tuple[str, str]:
    """`resource.x`, `span."x y"`, `score.x` -> (scope, key); a name without a scope has the scope ""."""
    for scope in ("span", "resource", "score"):
        rest = name.removeprefix(scope + ".")
        if rest != name:
            return scope, _unquote(rest) if rest.startswith('"') else rest
    return "", _unquote(name) if name.startswith('"') else name


def _column(token: Token) -> int:
    return int(token.start_pos or 0)


class _Builder(Transformer[Token, Node]):
    """Called by the parser at each reduction, so nesting costs no Python recursion."""

    def either(self, parts: list[Any]) -> Node:
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, parts: list[Any]) -> Node:
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negation(self, parts: list[Any]) -> Node:
        return Not(parts[1], _column(parts[0]))

    def word(self, parts: list[Any]) -> Node:
        return Text(self.bare(parts), _column(parts[0]))

    def phrase(self, parts: list[Any]) -> Node:
        return Text(self.quoted(parts), _column(parts[0]))

    def bare(self, parts: list[Any]) -> Literal:
        return Literal(str(parts[0]), False, _column(parts[0]))

    def quoted(self, parts: list[Any]) -> Literal:
        return Literal(_unquote(parts[0]), True, _column(parts[0]))

    def regex(self, parts: list[Any]) -> Regex:
        return Regex(_pattern(str(parts[0]), _column(parts[0])), _column(parts[0]))

    def range(self, parts: list[Any]) -> Range:
        return Range(parts[0], parts[1], parts[0].at)

    def listing(self, parts: list[Any]) -> Listing:
        return Listing(tuple(parts), parts[0].at)

    def term(self, parts: list[Any]) -> Node:
        name, value, at = str(parts[0]), parts[-1], _column(parts[0])
        operator = next((str(part) for part in parts[1:-1] if isinstance(part, Token) and part.type == "COMPARE"), "=")
        operator = "=" if operator == "==" else operator
        if name in ("has", "is") and operator == "=" and isinstance(value, Literal):
            if name == "is":
                return Is(value.text, value.at)
            scope, key = split_scope(value.text)
            return Has(key, scope, value.at)
        scope, key = split_scope(name)
        return Term(key, scope, operator, value, at)


def _pattern(text: str, at: int) -> str:
    """The pattern between the slashes. Whether it is one, RE2 in the store decides: no other syntax is the same."""
    pattern = text[1:-1].replace("\\/", "/")
    if len(pattern) > REGEX_CHARACTERS_MAX:
        raise QueryError(f"a regular expression has at most {REGEX_CHARACTERS_MAX} characters, this one has {len(pattern)}",
                         column=at)
    return pattern


_PARSER: Final = Lark(
    (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8"), parser="lalr", lexer="contextual", transformer=_Builder(),
    maybe_placeholders=False,
)

_WANTED: Final = {
    "VALUE_WORD": "a value", "LIST_WORD": "a value", "RANGE_WORD": "a value", "WORD": "a word", "STRING": "quoted text",
    "FIELD": "a field", "RPAR": "`)`", "LPAR": "`(`", "RSQB": "`]`", "_TO": "`TO`", "_SEPARATOR": "`,`", "$END": "the end",
    "COLON": "`:`",
}


def parse(query: str) -> Node:
    """Query text to its tree; "" is `EVERYTHING`. Raises QueryError with the column of the trouble and a hint."""
    if len(query) > QUERY_CHARACTERS_MAX:
        raise QueryError(f"a query has at most {QUERY_CHARACTERS_MAX} characters, this one has {len(query)}",
                         column=QUERY_CHARACTERS_MAX)
    query = query.encode("utf-8", "replace").decode("utf-8")
    if not query.strip():
        return EVERYTHING
    try:
        node: Node = _PARSER.parse(query)  # type: ignore[assignment]  # the embedded transformer returns Node, lark declares Tree
    except UnexpectedInput as error:
        raise _unexpected(query, error) from None
    _check_size(node)
    return node


def _unexpected(query: str, error: UnexpectedInput) -> QueryError:
    at = error.pos_in_stream if isinstance(error.pos_in_stream, int) and error.pos_in_stream >= 0 else len(query)
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        at = len(query)
    rest = query[at:]
    if rest.startswith('"') and isinstance(error, UnexpectedCharacters):
        return QueryError("a quoted phrase needs its closing quote", column=at, hint='close it with "')
    expected = next((names for kind in ("accepts", "allowed", "expected") if (names := getattr(error, kind, None))), ())
    wanted = sorted({_WANTED[name] for name in expected if name in _WANTED})
    found = f"`{rest.split()[0][:30]}`" if rest.strip() else "the end of the query"
    hint = f"expected {' or '.join(wanted)}" if wanted else ""
    if found != "the end of the query":
        hint = f"{hint}; put text with special characters in quotes" if hint else "put text with special characters in quotes"
    return QueryError(f"the query cannot be read at column {at + 1}: {found} does not fit there", column=at, hint=hint)


def regexes(node: Node) -> list[Regex]:
    """Every regular expression of a query, in the order of the text."""
    found: list[Regex] = []
    todo: list[Node] = [node]
    while todo:
        part = todo.pop()
        if isinstance(part, And | Or):
            todo.extend(part.parts)
        elif isinstance(part, Not):
            todo.append(part.part)
        elif isinstance(part, Term):
            values = part.value.items if isinstance(part.value, Listing) else (part.value,)
            found += [value for value in values if isinstance(value, Regex)]
    return sorted(found, key=lambda regex: regex.at)


def _check_size(node: Node) -> None:
    """Bounds depth and number of terms, without recursion: what follows recurses over the tree."""
    todo: list[tuple[Node, int]] = [(node, 1)]
    terms = 0
    while todo:
        part, depth = todo.pop()
        if depth > DEPTH_MAX:
            raise QueryError(f"a query is nested at most {DEPTH_MAX} deep: remove some parentheses or NOTs")
        if isinstance(part, And | Or):
            todo.extend((child, depth + 1) for child in part.parts)
        elif isinstance(part, Not):
            todo.append((part.part, depth + 1))
        else:
            terms += len(part.value.items) if isinstance(part, Term) and isinstance(part.value, Listing) else 1
    if terms > TERMS_MAX:
        raise QueryError(f"a query has at most {TERMS_MAX} terms and list values, this one has {terms}")
