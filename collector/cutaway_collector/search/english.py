"""A query said in plain English, and warnings about names that look like slips.

Not a paraphrase of the text: the sentence is made from the same tree and the same registry as the SQL, so it says what is searched.
"""

from __future__ import annotations

import re
from typing import Final

from cutaway_collector.search import aggregates, fields, sql, values
from cutaway_collector.search.aggregates import Measure
from cutaway_collector.search.fields import Field
from cutaway_collector.search.language import KINDS, STAGE_EXAMPLES, STAGES, read, split_scope
from cutaway_collector.search.scores import Score
from cutaway_collector.search.sql import Target
from cutaway_collector.search.tree import (
    EVERYTHING,
    Aggregate,
    And,
    Has,
    Is,
    Listing,
    Literal,
    Node,
    Not,
    Or,
    Query,
    Range,
    Regex,
    Sort,
    SpanSet,
    Stats,
    Term,
    Text,
    Value,
    walk,
)

_COMPARED: Final = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}
_SETS: Final = {
    "any": "in a trace that has a span", "none": "in a trace that has no span", "parent": "with a parent", "child": "with a child",
    "ancestor": "below a span", "descendant": "above a span",
}
_SETS_NEGATED: Final = {
    "any": _SETS["none"], "none": _SETS["any"], "parent": "without a stored parent", "child": "without a child",
    "ancestor": "not below a span", "descendant": "not above a span",
}
_FIGURES: Final = {
    "sum": "sum of", "mean": "mean of", "min": "smallest", "max": "largest", "p50": "median of", "p90": "90th percentile of",
    "p95": "95th percentile of", "p99": "99th percentile of", "std": "standard deviation of",
    "distinct": "number of distinct values of", "count": "number of spans with",
}
_WORD_AS_OPERATOR: Final = ("and", "or", "not")
_UNITS: Final = tuple(unit for unit in values.units("ns") if len(unit) > 1)
_PLURAL: Final = re.compile(r"(?:\w+ )?(?:tokens|steps|bits)\b")
_BRACES: Final = re.compile(r"([^\W\d]\w{1,20})\{.*\}", re.DOTALL)
_STAGE: Final = re.compile(rf".\|({'|'.join(STAGES)})", re.DOTALL)


def explain(query: str) -> str:
    """One sentence: which spans the query finds, and what is done with them. Raises QueryError as `language.read` does."""
    found = read(query)
    spans = _spans(found.where)
    if found.stats is not None:
        said = _figures(found.stats, f"of {spans}")
    elif found.compare is not None:
        other = "all other spans" if found.compare.other is None else _spans(read(found.compare.other).where)
        said = f"{spans} compared with {other}"
    else:
        said = spans
    return f"{said[0].upper()}{said[1:]}{_order(found)}."


def _spans(tree: Node) -> str:
    return "all spans" if tree == EVERYTHING else f"spans {_clause(tree, negated=False, nested=False)}"


def _figures(stats: Stats, of: str) -> str:
    by = f" by {' and '.join(_name(sql.resolve(*reversed(split_scope(name.text)))) for name in stats.by)}" if stats.by else ""
    every = f", every {stats.every.text}" if stats.every is not None else ""
    return f"{' and '.join(_figure(one) for one in stats.aggregates)} {of}{by}{every}"


def _figure(one: Aggregate) -> str:
    if not one.field:
        return "count"
    name = _name(sql.resolve(*reversed(split_scope(one.field)), at=one.field_at))
    return f"{_FIGURES.get(one.function, one.function + ' of')} {name}"


def _order(query: Query) -> str:
    said = ""
    if isinstance(query.sort, Sort):
        down = query.sort.text.startswith("-")
        said += f", sorted by {query.sort.text.removeprefix('-')}, {'largest' if down else 'smallest'} first"
    if query.limit is not None:
        said += f", {query.limit.count} of them at most" if said or not query.stats else f", {query.limit.count} groups at most"
    return said


def warnings(tree: Node) -> list[str]:
    """One sentence for each part of the query that is searched as written but looks like a slip."""
    nodes = list(walk(tree))
    return list(dict.fromkeys(filter(None, (*map(_warning, nodes), _parted(nodes), _quotes(nodes)))))


def _parted(nodes: list[Node]) -> str:
    """`duration:>5 ms` asks for 5 seconds and for the word ms."""
    bare = any(isinstance(node, Term) and isinstance(node.value, Literal) and values.looks_numeric(node.value) for node in nodes)
    words = [node.value.text for node in nodes if isinstance(node, Text) and not node.value.quoted]
    unit = next((word for word in words if word in _UNITS), "")
    return f"`{unit}` is searched as a word. A unit stands directly behind its number: 5{unit}." if bare and unit else ""


def _quotes(nodes: list[Node]) -> str:
    """`'out of memory'` asks for three words, two of them with a quote."""
    written = [node.value for node in nodes if isinstance(node, Term | Text)]
    bare = [value.text for value in written if isinstance(value, Literal) and not value.quoted]
    opens = next((place for place, text in enumerate(bare) if text.startswith("'")), len(bare))
    if not any(text.endswith("'") and len(text) > 1 for text in bare[opens:]):
        return ""
    return f"`{bare[opens][:50]}` is searched with its quote. What belongs together stands in double quotes."


def _unlisted(field: Field, value: Value) -> str:
    """A value that a field with a closed list of values never has."""
    known = tuple(one.lower() for one in field.values)
    for item in value.items if isinstance(value, Listing) else (value,):
        if isinstance(item, Literal) and item.text and not values.is_glob(item) and values.plain(item).lower() not in known:
            near = fields.nearest(item.text, known)
            guess = f" Did you mean `{near}`?" if near else ""
            return f"`{item.text[:50]}` is no {field.phrase}: there are {', '.join(field.values)}.{guess}"
    return ""


def _warning(node: Node) -> str:
    if isinstance(node, Text) and not node.value.quoted:
        return _slip(node.value.text)
    if not isinstance(node, Term | Has) or node.scope:
        return ""
    target = sql.resolve(node.field, node.scope, at=node.at)
    if isinstance(target, sql.Key):
        guess = _guess(node.field)
        return f"`{node.field[:50]}` is no field: it is searched as an attribute. {guess}" if guess else ""
    value = node.value if isinstance(node, Term) else None
    named = isinstance(target, Field) and target.name == "error"
    if named and isinstance(value, Literal) and value.text in ("true", "false"):
        return "`error` is the class of the error. For spans that failed write is:error, for the others -is:error."
    if isinstance(target, Field) and target.values and value is not None:
        return _unlisted(target, value)
    return ""


def _guess(name: str) -> str:
    """What somebody may have meant by a name that is no field."""
    lower = name.lower()
    if lower in STAGES:
        return f"Did you mean the stage `{STAGE_EXAMPLES[lower]}`?"
    if lower in fields.TIME_WORDS:
        return f"{fields.TIME_REMEDY.capitalize()}."
    near = aggregates.nearest(name)
    return f"Did you mean `{near}`?" if near else ""


def _slip(word: str) -> str:
    if word in _WORD_AS_OPERATOR:
        return f"`{word}` is searched as a word. The operator is written in capitals: {word.upper()}."
    if word.startswith("!") and len(word) > 1:
        return f"`{word[:50]}` is searched as a word. What is not wanted has a minus in front: -{word[1:50]}."
    braces, stage = _BRACES.fullmatch(word), _STAGE.search(word)
    if braces:
        near = fields.nearest(braces[1], KINDS)
        guess = f"Did you mean `{near}{{…}}`?" if near else f"Questions about other spans of a trace begin with {', '.join(KINDS)}."
        return f"`{word[:50]}` is searched as a word. {guess}"
    if stage:
        return f"`{word[:50]}` is searched as a word. A stage has a blank before its bar: ` | {stage[1]}`."
    return ""


def _clause(node: Node, *, negated: bool, nested: bool) -> str:
    if isinstance(node, Not):
        return _clause(node.part, negated=not negated, nested=nested)
    if isinstance(node, And | Or):
        # Negation moves inwards: not (a and b) is said as "not a or not b".
        word = " and " if isinstance(node, And) != negated else " or "
        text = word.join(_clause(part, negated=negated, nested=True) for part in node.parts)
        return f"({text})" if nested else text
    if isinstance(node, SpanSet):
        return _set(node, negated)
    if isinstance(node, Is):
        flag = sql.is_flag(node)
        return flag.negated if negated else flag.phrase
    if isinstance(node, Text):
        return f"that {'do not mention' if negated else 'mention'} {_quoted(node.value)}"
    if isinstance(node, Has):
        return f"that {'lack' if negated else 'have'} {_name(sql.resolve(node.field, node.scope, at=node.at))}"
    return _term(node, negated)


def _set(node: SpanSet, negated: bool) -> str:
    """The spans in the braces are said as they are matched there, without the negation of the whole."""
    if node.part == EVERYTHING:
        kind = "any" if node.kind == "all" else node.kind
        return (_SETS_NEGATED if negated else _SETS)[kind]
    if node.kind == "all":
        return f"{_SETS['any' if negated else 'none']} {_clause(node.part, negated=True, nested=True)}"
    return f"{(_SETS_NEGATED if negated else _SETS)[node.kind]} {_clause(node.part, negated=False, nested=True)}"


def _term(term: Term, negated: bool) -> str:
    target = sql.resolve(term.field, term.scope, at=term.at)
    name = _name(target)
    field = target if isinstance(target, Field) else None
    if term.operator == "!=":
        if negated:
            return f"that lack {name} or whose {name} {_value(term.value, field, negated=False)}"
        return f"that have {name} and whose {name} {_value(term.value, field, negated=True)}"
    if term.operator in _COMPARED:
        unit = target.unit if isinstance(target, Field | Measure) else ""
        number = values.said(term.value, unit) if isinstance(term.value, Literal) else ""
        return f"whose {name} {_be(field)} {'missing or not ' if negated else ''}{_COMPARED[term.operator]} {number}"
    if isinstance(term.value, Literal) and not term.value.quoted and term.value.text == "*":
        return f"that {'lack' if negated else 'have'} {name}"
    return f"whose {name} {_be(field) + ' missing or ' if negated else ''}{_value(term.value, field, negated=negated)}"


def _name(target: Target) -> str:
    if isinstance(target, Field | Measure):
        return target.phrase
    if isinstance(target, Score):
        return f"score {target.key}"
    return f"{target.scope + ' ' if target.scope else ''}attribute {target.key}"


def _be(field: Field | None) -> str:
    return "are" if field is not None and _PLURAL.match(field.phrase) else "is"


def _value(value: Value, field: Field | None, *, negated: bool) -> str:
    """The predicate of a value: "is gpt2", "does not match llama*", "is from 10 to 50"."""
    be, do = (f"{_be(field)} not", "does not ") if negated else (_be(field), "")
    unit = field.unit if field is not None else ""
    if isinstance(value, Listing):
        return (" and " if negated else " or ").join(_value(item, field, negated=negated) for item in value.items)
    if isinstance(value, Range):
        low, high = ("" if not end.quoted and end.text == "*" else values.said(end, unit) for end in (value.low, value.high))
        if low and high:
            return f"{be} from {low} to {high}"
        return f"{be} at least {low}" if low else f"{be} at most {high}" if high else f"{be} there"
    if isinstance(value, Regex) or values.is_glob(value):
        verb = f"{do}match" if negated else "matches"
        return f"{verb} the regular expression /{value.pattern}/" if isinstance(value, Regex) else f"{verb} {value.text}"
    if unit and not value.quoted:
        return f"{be} {values.said(value, unit)}"
    text = values.spelling(field, values.plain(value)) if field else values.plain(value)
    if field is not None and field.kind == "list":
        return f"{do}contain{'' if negated else 's'} {text}"
    return f"{be} {text}" if text else f"{be} empty"


def _quoted(value: Literal) -> str:
    return f"“{value.text if values.is_glob(value) else values.plain(value)}”"
