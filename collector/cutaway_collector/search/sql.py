"""From the tree of a query to SQL text and the values bound to it.

Not a place where user text meets SQL text: what is written here is registry constants and `{p0:Type}` placeholders; names of
attributes, words, patterns and numbers travel as parameters. Conditions may be NULL where a number is missing, which a WHERE reads
as false; negation makes that explicit, so `-ttft:>1s` keeps spans without a time to first token.

Text is compared in both of the forms in which Unicode writes an accented letter, composed and apart (NFC, NFD); without regard to
case where it is free text. What folds to more than one letter (ß and SS) is not found by its fold.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from cutaway_collector.errors import QueryError
from cutaway_collector.search import aggregates, fields, scores, spansets, values
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters as Parameters
from cutaway_collector.search.scores import Score
from cutaway_collector.search.tree import And, Has, Is, Listing, Literal, Node, Not, Or, Range, Regex, SpanSet, Term, Text

COMPARISONS: Final = (">", ">=", "<", "<=")


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that is no field of the registry. `scope` is "span", "resource" or "": the span's, else the resource's."""

    key: str
    scope: str

    @property
    def name(self) -> str:
        """As the user may write it."""
        return f"{self.scope}.{self.key}" if self.scope else self.key

    def maps(self) -> tuple[str, ...]:
        """The map columns to look into, in order."""
        both = ("SpanAttributes", "ResourceAttributes")
        return {"span": both[:1], "resource": both[1:]}.get(self.scope, both)

    def present(self, parameters: Parameters) -> str:
        """SQL condition: the span has it."""
        key = parameters.text(self.key)
        return "(" + " OR ".join(f"mapContains({column}, {key})" for column in self.maps()) + ")"

    def exists(self, parameters: Parameters) -> str:
        """SQL condition: the span has it, be it as a long array of numbers, which no comparison looks into."""
        numbers = "" if self.scope == "resource" else f" OR mapContains(SpanNumbers, {parameters.text(self.key)})"
        return f"({self.present(parameters)}{numbers})"

    def expression(self, parameters: Parameters) -> str:
        """SQL String expression, '' when absent."""
        key = parameters.text(self.key)
        first, *rest = self.maps()
        return f"if(mapContains({first}, {key}), {first}[{key}], {rest[0]}[{key}])" if rest else f"{first}[{key}]"

    def equals(self, value: str, parameters: Parameters) -> str:
        """SQL condition: the attribute is exactly `value`. The last part is implied, and makes the item indexes skip granules."""
        forms = _forms(value)
        equal = f"{self.present(parameters)} AND {self.expression(parameters)} IN ({', '.join(map(parameters.text, forms))})"
        keyed = [parameters.text(f"{self.key}={form}") for form in forms]
        items = " OR ".join(f"has({column.removesuffix('s')}Items, {item})" for item in keyed for column in self.maps())
        return f"({equal} AND ({items}))"


Target: TypeAlias = Field | Key | Score | Measure


def resolve(name: str, scope: str, *, at: int = 0) -> Target:
    """The field of that name or alias, or the aggregate of a series; in the scope `score` the score; else the attribute.

    An aggregate that a column of otel_traces holds already is the field of that column. at: where the name stands. Raises
    QueryError for a series whose layer, head, aggregate or bound cannot be read.
    """
    if scope == scores.SCOPE:
        return Score(name)
    if scope:
        return Key(name, scope)
    found = fields.lookup(name) or aggregates.measure(name, at)
    if isinstance(found, Measure) and found.layer is None and found.head is None and found.bound is None:
        whole = f"{found.series.name}.{found.aggregate}"
        return fields.lookup(whole) or (fields.lookup(found.series.name) if found.aggregate == "mean" else None) or found
    return found or Key(name, "")


def condition(node: Node, parameters: Parameters) -> str:
    """One SQL condition over otel_traces. Raises QueryError where a value does not fit its field."""
    if isinstance(node, And | Or):
        joined = (" AND " if isinstance(node, And) else " OR ").join(condition(part, parameters) for part in node.parts)
        return f"({joined})" if node.parts else "1"
    if isinstance(node, Not):
        return f"(NOT ifNull({condition(node.part, parameters)}, 0))"
    if isinstance(node, SpanSet):
        return spansets.where(node.kind, lambda: condition(node.part, parameters), parameters)
    if isinstance(node, Has):
        return _exists(resolve(node.field, node.scope, at=node.at), parameters)
    if isinstance(node, Is):
        return f"({is_flag(node).condition})"
    if isinstance(node, Text):
        return free_text(node.value, parameters)
    return _term(node, parameters)


def _exists(target: Target, parameters: Parameters) -> str:
    if isinstance(target, Field):
        return f"({target.present})"
    return target.exists(parameters) if isinstance(target, Key) else target.present(parameters)


def is_flag(node: Is) -> fields.Flag:
    """The flag of an `is:` term. Raises QueryError with the nearest one."""
    found = fields.flag(node.flag)
    if found is None:
        known = tuple(flag.name for flag in fields.FLAGS)
        near = fields.nearest(node.flag, known)
        raise QueryError(f"there is no is:{node.flag[:40]}", column=node.at,
                         hint=f"did you mean is:{near}?" if near else f"known are {', '.join('is:' + name for name in known)}")
    return found


def _term(term: Term, parameters: Parameters) -> str:
    target = resolve(term.field, term.scope, at=term.at)
    if isinstance(target, Score):
        return _score(target, term, parameters)
    if isinstance(target, Measure):
        return _measure(target, term, parameters)
    if term.operator in COMPARISONS:
        return _compare(target, term, parameters)
    if term.operator == "!=":
        present = target.present if isinstance(target, Field) else target.present(parameters)
        return f"({present} AND NOT ifNull({_matches(target, term, parameters)}, 0))"
    return _matches(target, term, parameters)


def _matches(target: Field | Key, term: Term, parameters: Parameters) -> str:
    value = term.value
    if isinstance(value, Listing):
        return "(" + " OR ".join(_match_one(target, item, parameters) for item in value.items) + ")"
    if isinstance(value, Range):
        return _range(target, value, term, parameters)
    return _match_one(target, value, parameters)


def _match_one(target: Field | Key, value: Literal | Regex, parameters: Parameters) -> str:
    if isinstance(value, Literal) and not value.quoted and value.text == "*":
        return _exists(target, parameters)
    if isinstance(target, Key):
        return _match_attribute(target, value, parameters)
    if target.kind == "number":
        if isinstance(value, Regex):
            raise QueryError(f"{target.name} is a number, a regular expression does not fit it", column=value.at,
                             hint=f"try {target.name}:>{values.example(target.unit)}")
        return f"({target.expression} = {parameters.number(values.number(value, target.unit, target.name), target.unit)})"
    match = _text_match(value, parameters, target)
    if target.kind == "list":
        return f"arrayExists(item -> {match('item')}, {target.expression})"
    return f"({match(target.expression)})"


def _match_attribute(target: Key, value: Literal | Regex, parameters: Parameters) -> str:
    if isinstance(value, Regex) or values.is_glob(value):
        match = _text_match(value, parameters, None)
        return f"({target.present(parameters)} AND ({match(target.expression(parameters))}))"
    equal = target.equals(values.plain(value), parameters)
    if value.quoted or not values.looks_numeric(value):
        return equal
    number = parameters.number(values.number(value, "", target.name), "")
    return f"({equal} OR toFloat64OrNull({target.expression(parameters)}) = {number})"


def _measure(target: Measure, term: Term, parameters: Parameters) -> str:
    """An aggregate compared: the condition is over its figure, of spans that have one."""
    value = term.value
    if isinstance(value, Literal) and not value.quoted and value.text == "*" and term.operator in ("=", "!="):
        return target.present(parameters) if term.operator == "=" else "0"

    def test(operator: str, one: Literal | Regex) -> str:
        if isinstance(one, Regex):
            raise QueryError(f"{target.name} is a number, a regular expression does not fit it", column=one.at,
                             hint=f"try {target.name}:>{values.example(target.unit)}")
        return f"value {operator} {parameters.bind(float(values.number(one, target.unit, target.name)), 'Float64')}"

    if term.operator in COMPARISONS:
        if not isinstance(value, Literal):
            raise QueryError(f"{term.operator} compares with one number", column=value.at,
                             hint=f"try {target.name}:{term.operator}20")
        return target.where(parameters, test(term.operator, value))
    if isinstance(value, Range):
        tests = [test(sign, end) for sign, end in ((">=", value.low), ("<=", value.high)) if end.quoted or end.text != "*"]
        found = " AND ".join(tests) or "1"
    else:
        found = " OR ".join(test("=", item) for item in (value.items if isinstance(value, Listing) else (value,)))
    return target.where(parameters, f"NOT ({found})" if term.operator == "!=" else f"({found})")


def _score(target: Score, term: Term, parameters: Parameters) -> str:
    """A score compared by its value, or by value or label where a word could be either."""
    value = term.value
    if term.operator in COMPARISONS:
        if not isinstance(value, Literal):
            raise QueryError(f"{term.operator} compares with one number", column=value.at,
                             hint=f"try {target.name}:{term.operator}0.5")
        number = parameters.number(values.number(value, "", target.name), "")
        return target.where(parameters, f"Value {term.operator} {number}")
    if isinstance(value, Range):
        ends = [f"Value {operator} {parameters.number(values.number(end, '', target.name), '')}"
                for operator, end in ((">=", value.low), ("<=", value.high)) if end.quoted or end.text != "*"]
        matched = target.where(parameters, f"({' AND '.join(ends) or '1'})")
    else:
        items = value.items if isinstance(value, Listing) else (value,)
        matched = target.where(parameters, f"({' OR '.join(_score_is(target, item, parameters) for item in items)})")
    return f"({target.present(parameters)} AND NOT {matched})" if term.operator == "!=" else matched


def _score_is(target: Score, value: Literal | Regex, parameters: Parameters) -> str:
    if isinstance(value, Literal) and not value.quoted and value.text == "*":
        return "1"
    match = f"({_text_match(value, parameters, None)('Label')})"
    if isinstance(value, Regex) or value.quoted or not values.looks_numeric(value):
        return match
    return f"({match} OR Value = {parameters.number(values.number(value, '', target.name), '')})"


def _text_match(value: Literal | Regex, parameters: Parameters, target: Field | None) -> Callable[[str], str]:
    """What a text has to be, as a function of the expression that gives the text."""
    if isinstance(value, Regex):
        pattern = parameters.text(value.pattern)
        return lambda text: f"match({text}, {pattern})"
    if values.is_glob(value):
        globs = [parameters.text(form) for form in _forms(values.like(value.text))]
        return lambda text: " OR ".join(f"{text} LIKE {glob}" for glob in globs)
    plain = values.plain(value)
    bound = [parameters.text(form) for form in _forms(values.spelling(target, plain) if target else plain)]
    return lambda text: " OR ".join(f"{text} = {form}" for form in bound)


def _forms(text: str) -> list[str]:
    """The text in the forms in which Unicode may write it: as typed, composed (NFC) and apart (NFD), each once."""
    if text.isascii():
        return [text]
    return list(dict.fromkeys([text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)]))


def _number_of(target: Field | Key, column: int, parameters: Parameters) -> tuple[str, str, str]:
    """(SQL number expression, its unit, name). Raises QueryError for text and lists."""
    if isinstance(target, Key):
        return f"toFloat64OrNull({target.expression(parameters)})", "", target.name
    if target.kind != "number":
        raise QueryError(f"{target.name} is text, it has no order to compare by", column=column,
                         hint=f"try {target.name}:word, {target.name}:wor* or {target.name}:/pattern/")
    return target.expression, target.unit, target.name


def _compare(target: Field | Key, term: Term, parameters: Parameters) -> str:
    if not isinstance(term.value, Literal):
        raise QueryError(f"{term.operator} compares with one number", column=term.value.at,
                         hint=f"try {term.field}:{term.operator}20")
    expression, unit, name = _number_of(target, term.at, parameters)
    try:
        number = values.number(term.value, unit, name)
    except QueryError as error:
        if isinstance(target, Key) and target.key.lower() in fields.TIME_WORDS:
            raise QueryError(str(error), column=error.column, hint=fields.TIME_REMEDY) from None
        raise
    return f"({expression} {term.operator} {parameters.number(number, unit)})"


def _range(target: Field | Key, value: Range, term: Term, parameters: Parameters) -> str:
    expression, unit, name = _number_of(target, term.at, parameters)
    ends = [
        f"{expression} {operator} {parameters.number(values.number(end, unit, name), unit)}"
        for operator, end in ((">=", value.low), ("<=", value.high)) if end.quoted or end.text != "*"
    ]
    if not ends:
        return _exists(target, parameters)
    return f"({' AND '.join(ends)})"


_INDEXED: Final = (re.compile(r"[a-z0-9]{3,}"), re.compile(r"[a-z0-9]{2,}"))
"""Parts of a text in small letters that the index of words answers, long ones before short ones."""
_SURE: Final = re.compile(r"[a-jl-rt-zA-JL-RT-Z0-9]{2,}")
"""The same of a glob or another alphabet: without k and s, which there are the sign of kelvin and the long s, too."""
_HEX_ID: Final = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")


def free_text(value: Literal, parameters: Parameters) -> str:
    """SQL condition: the text occurs in a name, message, attribute value or event of the span; letter case does not matter.

    A word of 16 or 32 hex digits also finds the span or trace of that id. Plain ASCII is looked for in the texts of a span joined
    by NUL, in small letters, of which the store may hold an index of words; so are the parts of anything else that are plain.
    """
    glob = values.is_glob(value)
    plain = values.plain(value)
    if not glob and plain.isascii() and plain and "\0" not in plain:
        # The index knows words: each part of one that the text has in it is asked for too.
        lower = plain.lower()
        indexed = next(filter(None, (parts.findall(lower) for parts in _INDEXED)), [])
        return f"({' OR '.join([_has_all([*indexed, lower], parameters), *_of_that_id(value, parameters)])})"
    forms = _forms(values.like(value.text) if glob else plain)
    needles = [parameters.text(f"%{form}%" if glob else form) for form in forms]

    def found(text: str) -> str:
        test = "{0} ILIKE {1}" if glob else "positionCaseInsensitiveUTF8({0}, {1}) > 0"
        return " OR ".join(test.format(text, needle) for needle in needles)

    parts = [found(column) for column in ("SpanName", "ServiceName", "GenAiModel", "StatusMessage")]
    parts += [f"arrayExists(value -> {found('value')}, mapValues({column}))" for column in ("SpanAttributes", "ResourceAttributes")]
    parts.append(f"arrayExists(name -> {found('name')}, `Events.Name`)")
    parts.append(f"arrayExists(event -> arrayExists(value -> {found('value')}, mapValues(event)), `Events.Attributes`)")
    exact = f"({' OR '.join(parts)})"
    # Composed, so that no letter is asked for that the other form of the text has and this one lacks.
    runs = values.runs(value.text) if glob else [plain]
    sure = [part.lower() for run in runs for part in _SURE.findall(unicodedata.normalize("NFC", run))]
    return f"({_has_all(sure, parameters)} AND {exact})" if sure else exact


def _has_all(needles: list[str], parameters: Parameters) -> str:
    patterns = [f"%{values.like_literal(needle)}%" for needle in dict.fromkeys(needles)]
    return " AND ".join(f"SpanTextLower LIKE {parameters.text(pattern)}" for pattern in patterns)


def _of_that_id(value: Literal, parameters: Parameters) -> list[str]:
    if not _HEX_ID.fullmatch(value.text):
        return []
    return [f"{'TraceId' if len(value.text) == 32 else 'SpanId'} = {parameters.text(value.text.lower())}"]
