"""The search language: text to a typed tree with source offsets.

Not SQL and not the meaning of names: `fields.py` knows those and `sql.py` applies them. `explain` lives in `english.py`.

    query   = term {["AND"] term}, with OR, NOT, - and parentheses, then { "|" stage }
    term    = word | "a phrase" | field:value | field:>value | field>value | field~pattern | has:field | is:flag | kind{query}
    value   = word, glob* | "text" | /regex/ | [low TO high] | (one, another)
    kind    = any | all | none | parent | child | ancestor | descendant
    stage   = stats p95(field), ... by field, ... every 1h | sort -field | limit 20 | compare (query)
"""

from __future__ import annotations

import difflib
import functools
import re
from pathlib import Path
from typing import Any, Final

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken

from cutaway_collector.errors import QueryError
from cutaway_collector.search.tree import EVERYTHING as EVERYTHING
from cutaway_collector.search.tree import Aggregate, Compare, Limit, Name, Query, Sort, SpanSet, Stage, Stats, children, walk
from cutaway_collector.search.tree import And as And
from cutaway_collector.search.tree import Has as Has
from cutaway_collector.search.tree import Is as Is
from cutaway_collector.search.tree import Listing as Listing
from cutaway_collector.search.tree import Literal as Literal
from cutaway_collector.search.tree import Node as Node
from cutaway_collector.search.tree import Not as Not
from cutaway_collector.search.tree import Or as Or
from cutaway_collector.search.tree import Range as Range
from cutaway_collector.search.tree import Regex as Regex
from cutaway_collector.search.tree import Term as Term
from cutaway_collector.search.tree import Text as Text
from cutaway_collector.search.tree import Value as Value
from cutaway_collector.search.tree import regexes as regexes

QUERY_CHARACTERS_MAX: Final = 4096
DEPTH_MAX: Final = 40
TERMS_MAX: Final = 100
BRACES_DEPTH_MAX: Final = 3
BRACES_MAX: Final = 8
AGGREGATES_MAX: Final = 8
GROUPS_BY_MAX: Final = 4
REGEX_CHARACTERS_MAX: Final = 256
KINDS: Final = ("any", "all", "none", "parent", "child", "ancestor", "descendant")
"""What may stand before braces. Also in the grammar."""
STAGE_EXAMPLES: Final = {"stats": "| stats count(), p95(duration) by model", "sort": "| sort -duration", "limit": "| limit 20",
                         "compare": "| compare (is:error)"}
STAGES: Final = tuple(STAGE_EXAMPLES)
"""What may stand behind a bar. Also in the grammar."""

_PATTERNS: Final = {"~": "=", "!~": "!="}
"""Operators that take what is behind them for a pattern, and what they are with one."""
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_CLOSED: Final = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)


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


class _Builder(Transformer[Token, Any]):
    """Called by the parser at each reduction, so nesting costs no Python recursion."""

    def start(self, parts: list[Any]) -> tuple[Node, list[Any]]:
        stages = [part for part in parts if isinstance(part, Stats | Sort | Limit | Compare | _Argument)]
        where = next((part for part in parts if part not in stages), EVERYTHING)
        return where, stages

    def either(self, parts: list[Any]) -> Node:
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, parts: list[Any]) -> Node:
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negation(self, parts: list[Any]) -> Node:
        return Not(parts[1], _column(parts[0]))

    def spans(self, parts: list[Any]) -> Node:
        return SpanSet(str(parts[0])[:-1], parts[1] if len(parts) > 1 else EVERYTHING, _column(parts[0]))

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
        if operator in _PATTERNS:
            operator, value = _PATTERNS[operator], _as_pattern(value)
        if name in ("has", "is") and operator == "=" and isinstance(value, Literal):
            if name == "is":
                return Is(value.text, value.at)
            scope, key = split_scope(value.text)
            return Has(key, scope, value.at)
        scope, key = split_scope(name)
        return Term(key, scope, operator, value, at)

    def stats(self, parts: list[Any]) -> Stats:
        calls = [_aggregate(part) for part in parts if part.type == "CALL"]
        by = tuple(Name(str(part), _column(part)) for part in parts if part.type == "NAME")
        every = next((Literal(str(part), False, _column(part)) for part in parts if part.type == "DURATION"), None)
        at = _column(parts[0])
        if len(calls) > AGGREGATES_MAX or len(by) > GROUPS_BY_MAX:
            raise QueryError(f"stats takes at most {AGGREGATES_MAX} figures by at most {GROUPS_BY_MAX} fields, "
                             f"here are {len(calls)} by {len(by)}", column=at)
        return Stats(tuple(calls), by, every, at)

    def sort(self, parts: list[Any]) -> Sort:
        return Sort(str(parts[1]), _column(parts[0]), _column(parts[1]))

    def limit(self, parts: list[Any]) -> Limit:
        text, at = str(parts[1]), _column(parts[1])
        if not _WHOLE.fullmatch(text) or not int(text):
            raise QueryError(f"limit takes a number of rows from 1 up, not `{text[:20]}`", column=at, hint="try | limit 20")
        return Limit(int(text), _column(parts[0]))

    def compare(self, parts: list[Any]) -> Any:
        at = _column(parts[0])
        if len(parts) == 1:
            return Compare(None, at)
        return _Argument(parts[1], int(parts[0].end_pos), _column(parts[2]), at)


class _Argument:
    """What `compare (...)` compares with, before its text is cut out."""

    def __init__(self, node: Node, start: int, end: int, at: int) -> None:
        self.node, self.start, self.end, self.at = node, start, end, at


def _aggregate(token: Token) -> Aggregate:
    text, at = str(token), _column(token)
    function, _, inside = text[:-1].partition("(")
    field_at = at + len(function) + 1 + len(inside) - len(inside.lstrip())
    field = inside.strip()
    return Aggregate(function.lower(), field, f"{function.lower()}({field})", at, field_at)


def _as_pattern(value: Any) -> Any:
    """What stands behind `~`, as a regular expression: `/this/`, "this", this, or a list of them."""
    if isinstance(value, Listing):
        return Listing(tuple(_as_pattern(item) for item in value.items), value.at)
    if isinstance(value, Range):
        raise QueryError("a range is no pattern", column=value.at, hint="behind ~ stands a regular expression: name~/^chat/")
    return value if isinstance(value, Regex) else Regex(_checked(value.text, value.at), value.at)


def _pattern(text: str, at: int) -> str:
    """The pattern between the slashes."""
    return _checked(text[1:-1].replace("\\/", "/"), at)


def _checked(pattern: str, at: int) -> str:
    """A pattern that is not too long. Whether it is one, RE2 in the store decides: no other syntax is the same."""
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
    "COLON": "`:`", "RBRACE": "`}`", "CALL": "a figure as count() or p95(duration)", "NAME": "a field", "KEY": "a field",
    "DURATION": "a duration as 1h", "COUNT": "a number", "COMMA": "`,`", "_BY": "`by`", "_EVERY": "`every`",
}


def parse(query: str) -> Node:
    """The condition of a query as its tree; "" is `EVERYTHING`. Raises QueryError with the column of the trouble and a hint.

    For places that ask which spans, and can do nothing more: a query with stages is refused.
    """
    found = read(query)
    for stage in (found.stats, found.sort, found.limit, found.compare):
        if stage is not None:
            raise QueryError("what stands behind `|` belongs to the search page: here a condition is asked for alone",
                             column=stage.at, hint="leave out the stages, or put `|` in quotes to search for it")
    return found.where


@functools.lru_cache(maxsize=64)
def read(query: str) -> Query:
    """Query text to its tree and stages. Raises QueryError with the column of the trouble and a hint.

    A page asks for the same query a dozen times: in words, for its rows, counts and picture, and for the order of each column.
    """
    if len(query) > QUERY_CHARACTERS_MAX:
        raise QueryError(f"a query has at most {QUERY_CHARACTERS_MAX} characters, this one has {len(query)}",
                         column=QUERY_CHARACTERS_MAX)
    query = query.encode("utf-8", "replace").decode("utf-8")
    if not query.strip():
        return Query(EVERYTHING, "")
    where: Node
    found: list[Any]
    try:
        where, found = _PARSER.parse(query)  # type: ignore[misc]  # the embedded transformer returns a pair, lark declares a Tree
    except UnexpectedInput as error:
        raise _unexpected(query, error) from None
    _check_size(where)
    stages: list[Stage] = []
    for stage in found:
        if isinstance(stage, _Argument):
            _check_size(stage.node)
            stages.append(Compare(query[stage.start : stage.end].strip(), stage.at))
        else:
            stages.append(stage)
    return _staged(where, query, stages)


def _staged(where: Node, query: str, stages: list[Stage]) -> Query:
    """The stages in their places. Raises QueryError for one that stands twice or where it can do nothing."""
    placed: dict[str, Any] = {}
    for stage in stages:
        name = type(stage).__name__.lower()
        if name in placed:
            raise QueryError(f"a query has one `| {name}`, here is another", column=stage.at, hint="leave one out")
        if "compare" in placed or (name == "compare" and placed):
            raise QueryError("`| compare` compares spans, it stands alone behind a condition", column=stage.at,
                             hint="leave out the other stages")
        if name == "stats" and placed:
            raise QueryError("`| stats` stands before `| sort` and `| limit`, which then are about its rows", column=stage.at,
                             hint="put stats first")
        placed[name] = stage
    end = min((stage.at for stage in stages), default=len(query))
    return Query(where, query[:end].strip(), **placed)


def _unexpected(query: str, error: UnexpectedInput) -> QueryError:
    at = error.pos_in_stream if isinstance(error.pos_in_stream, int) and error.pos_in_stream >= 0 else len(query)
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        at = len(query)
    rest = query[at:]
    if rest.startswith('"') and not _CLOSED.match(rest):
        return QueryError("a quoted phrase needs its closing quote", column=at, hint='close it with "')
    if rest.startswith("|"):
        return _no_stage(rest, at)
    if rest.startswith("{"):
        return _no_braces(query, at)
    expected = next((names for kind in ("accepts", "allowed", "expected") if (names := getattr(error, kind, None))), ())
    found = f"`{rest.split()[0][:30]}`" if rest.strip() else "the end of the query"
    return QueryError(f"the query cannot be read at column {at + 1}: {found} does not fit there", column=at,
                      hint=_remedy(query[:at], rest, set(expected)))


def _remedy(before: str, rest: str, expected: set[str]) -> str:
    """What to do where the query cannot go on with `rest`: what is left open or closed too often, else what could stand there."""
    for name, sign in (("RBRACE", "}"), ("RPAR", ")")):
        if name in expected and not rest.strip():
            return f"close it with {sign}"
    if "_TO" in expected:
        return "a range is [1 TO 5], a list is (this, that)"
    if rest[:1] in (")", ",") and "LIST_WORD" in expected:
        return "a list has a value before that: (this, that)"
    opened = {")": "(", "}": "{"}.get(rest[:1])
    said = _CLOSED.sub("", before)
    if opened and said.count(opened) <= said.count(rest[0]):
        return f"nothing is open that {rest[0]} closes: leave it out, or put it in quotes"
    wanted = sorted({_WANTED[name] for name in expected if name in _WANTED})
    quotes = "put text with special characters in quotes" if rest.strip() else ""
    return "; ".join(filter(None, (f"expected {' or '.join(wanted)}" if wanted else "", quotes)))


def _no_stage(rest: str, at: int) -> QueryError:
    word = next(iter(rest[1:].split()), "").lower()[:30]
    if word in STAGES:
        return QueryError(f"`| {word}` cannot be read as it stands", column=at, hint=f"try {STAGE_EXAMPLES[word]}")
    near = difflib.get_close_matches(word, STAGES, n=1, cutoff=0.5)
    hint = f"did you mean | {near[0]}?" if near else "stages are stats, sort, limit and compare; put | in quotes to search for it"
    return QueryError(f"behind a bar stands a stage{f', `{word}` is none' if word else ''}", column=at, hint=hint)


def _no_braces(query: str, at: int) -> QueryError:
    before = re.search(r"[^\s(){}]*\Z", query[:at])
    word = (before.group() if before else "").lower()[-30:]
    near = difflib.get_close_matches(word, KINDS, n=1, cutoff=0.6)
    return QueryError("braces hold what other spans of the trace are, behind any, all, none, parent, child, ancestor or descendant",
                      column=at, hint=f"did you mean {near[0]}{{...}}?" if near else "put text with braces in quotes")


def _check_size(node: Node) -> None:
    """Bounds depth and number of terms, without recursion: what follows recurses over the tree."""
    todo: list[tuple[Node, int, int]] = [(node, 1, 0)]
    while todo:
        part, depth, braces = todo.pop()
        if depth > DEPTH_MAX:
            raise QueryError(f"a query is nested at most {DEPTH_MAX} deep: remove some parentheses or NOTs")
        if isinstance(part, SpanSet):
            braces += 1
            if braces > BRACES_DEPTH_MAX:
                raise QueryError(f"braces stand at most {BRACES_DEPTH_MAX} deep within each other", column=part.at,
                                 hint="ask the inner question in a search of its own")
        todo.extend((child, depth + 1, braces) for child in children(part))
    parts = list(walk(node))
    sets = [part for part in parts if isinstance(part, SpanSet)]
    if len(sets) > BRACES_MAX:
        raise QueryError(f"a query has at most {BRACES_MAX} pairs of braces, this one has {len(sets)}", column=sets[-1].at,
                         hint="each is a search of its own: leave some out")
    terms = sum(len(part.value.items) if isinstance(part, Term) and isinstance(part.value, Listing) else 1
                for part in parts if isinstance(part, Term | Has | Is | Text))
    if terms > TERMS_MAX:
        raise QueryError(f"a query has at most {TERMS_MAX} terms and list values, this one has {terms}")
