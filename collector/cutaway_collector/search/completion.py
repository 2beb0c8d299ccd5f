"""What could stand at the caret of a half-typed query: names that are known or stored, and values that can match the rest.

Not the reading of the query (see `caret`) and not the writing of a suggestion into it. Names come from the language's registries
and the store, values from the store, within a fraction of a second, so that typing is never held up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector.columns import SCORES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError, StoreError
from cutaway_collector.search import aggregates, caret, fields, language, rows, scores, sql
from cutaway_collector.search.caret import Context
from cutaway_collector.search.fields import Field
from cutaway_collector.search.parameters import Parameters
from cutaway_collector.search.scores import Score
from cutaway_collector.search.spansets import MEANINGS
from cutaway_collector.search.sql import Key
from cutaway_collector.search.stats import FUNCTIONS
from cutaway_collector.search.window import Window

SECONDS_MAX: Final = 0.2
"""What a store has found by then is offered."""
ITEMS_MAX: Final = 20
CHARACTERS_MAX: Final = 200
"""Longer values are texts to search in, not values to choose from."""
_LAST_NS: Final = 2**63 - 1
_EVERY_SPAN: Final = "duration:>=0"
"""Stands in for the term that is being typed, whatever surrounds it."""
_QUANTILES: Final = ((0.5, "median"), (0.95, "95th percentile"), (0.99, "99th percentile"))


@dataclass(frozen=True, slots=True)
class Item:
    """One suggestion. text: the name or value as stored, unquoted. kind: what it is, in a word. count: spans that have it, -1 where
    that was not asked."""

    text: str
    kind: str
    help: str = ""
    unit: str = ""
    count: int = -1


@dataclass(frozen=True, slots=True)
class Completion:
    """items: the best first. restricted: values were looked for among the spans that the rest of the query finds; False where the
    rest cannot be read yet. cut: time was up, there may be others."""

    context: Context
    items: tuple[Item, ...]
    restricted: bool = True
    cut: bool = False


def vocabulary() -> dict[str, Any]:
    """All that the language itself gives names to, as plain JSON values: a page keeps it, and asks only for what is stored."""
    return {
        "fields": [{"name": one.name, "aliases": one.aliases, "kind": one.kind, "unit": one.unit, "help": one.description,
                    "values": one.values} for one in fields.FIELDS],
        "series": [{"name": one.name, "unit": one.unit, "help": one.phrase} for one in aggregates.SERIES],
        "aggregates": [{"name": name, "help": words} for name, (_, words) in aggregates.AGGREGATES.items()],
        "flags": [{"name": one.name, "help": f"spans {one.phrase}"} for one in fields.FLAGS],
        "kinds": [{"name": kind, "help": words} for kind, words in MEANINGS.items()],
        "functions": [{"name": name, "help": words} for name, (_, words) in FUNCTIONS.items()],
        "stages": list(language.STAGES),
    }


def complete(store: Store, text: str, at: int, *, start_ns: int | None = None, end_ns: int | None = None) -> Completion:
    """Suggestions that only the store knows, for the caret behind `at` characters. What it does not answer in time is left out."""
    place = caret.context(text, at)
    span = Window(max(start_ns or 0, 0), min(max(_LAST_NS if end_ns is None else end_ns, 1), _LAST_NS))
    try:
        if place.kind in ("field", "has", "argument"):
            return Completion(place, *_names(store, place.prefix, span))
        if place.kind == "value":
            return _values(store, text, place, span)
    except StoreError:
        # A store that is away or busy says so on the page of results; here it has no suggestions.
        return Completion(place, (), cut=True)
    return Completion(place, ())


def _names(store: Store, typed: str, span: Window) -> tuple[tuple[Item, ...], bool, bool]:
    """Attributes and scores in whose name the typed text stands, those that begin with it first."""
    scope, prefix = language.split_scope(typed)
    wanted = scope == scores.SCOPE or (not scope and prefix)
    items, cut = _scores(store, prefix, span) if wanted else ([], False)
    if scope != scores.SCOPE:
        found = _attributes(store, scope, prefix, span)
        items, cut = items + found[0], cut or found[1]
    return tuple(items[:ITEMS_MAX]), True, cut


def _scores(store: Store, prefix: str, span: Window) -> tuple[list[Item], bool]:
    parameters = Parameters()
    part, since = parameters.text(prefix), parameters.bind(max(0, span.start_ns - scores.CLOCK_SLACK_S * 10**9), "Int64")
    found = store.query(
        f"SELECT ScoreName, count() AS n FROM {rows.table(store, SCORES.name)} WHERE Timestamp >= fromUnixTimestamp64Nano({since}) "
        f"AND positionCaseInsensitiveUTF8(ScoreName, {part}) > 0 GROUP BY ScoreName "
        f"ORDER BY startsWith(lowerUTF8(ScoreName), lowerUTF8({part})) DESC, n DESC, ScoreName LIMIT {ITEMS_MAX}",
        parameters.values, seconds_max=SECONDS_MAX)
    items = [Item(str(name), "score", "newest value or label of this score", count=int(count)) for name, count in found.rows
             if _writable(str(name))]
    return items, found.cut


def _attributes(store: Store, scope: str, prefix: str, span: Window) -> tuple[list[Item], bool]:
    parameters = Parameters()
    keys = ", ".join(f"mapKeys({column})" for column in Key("", scope).maps())
    part = parameters.text(prefix)
    found = store.query(
        f"SELECT key, count() AS n FROM (SELECT arrayJoin(arrayDistinct(arrayConcat({keys}))) AS key FROM {rows.table(store)} "
        f"WHERE {span.condition(parameters)}) WHERE key != '' AND positionCaseInsensitiveUTF8(key, {part}) > 0 GROUP BY key "
        f"ORDER BY startsWith(lowerUTF8(key), lowerUTF8({part})) DESC, n DESC, key LIMIT {2 * ITEMS_MAX}",
        parameters.values, seconds_max=SECONDS_MAX)
    words = {"span": "of spans", "resource": "of who sent the spans"}.get(scope, "of spans, or of who sent them")
    # Without a scope a name of the registry is the field, which the vocabulary offers.
    items = [Item(str(key), "attribute", words, count=int(count)) for key, count in found.rows
             if _writable(str(key)) and (scope or fields.lookup(str(key)) is None)]
    return items, found.cut


def _writable(text: str) -> bool:
    """Whether a one-line field can hold it, and a suggestion should."""
    return 0 < len(text) <= CHARACTERS_MAX and not any(char in text for char in "\0\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")


def _values(store: Store, text: str, place: Context, span: Window) -> Completion:
    scope, key = language.split_scope(place.field)
    target = None if scope else aggregates.measure(key) if _is_measure(key) and fields.lookup(key) is None else None
    if target is not None or not key:
        return Completion(place, ())
    named = sql.resolve(key, scope)
    if not isinstance(named, Field | Key):
        return Completion(place, _labels(store, named, place.prefix, span) if isinstance(named, Score) else ())
    number = isinstance(named, Field) and named.kind == "number"
    if not number and any(sign in place.operator for sign in "<>~"):
        return Completion(place, ())  # a text is neither more nor less, and a pattern is not one of the values
    condition, parameters, restricted = _rest(store, text, place, span)
    if isinstance(named, Field) and named.kind == "number":
        items, cut = _figures(store, named, condition, parameters)
        return Completion(place, items, restricted, cut)
    expression = named.expression if isinstance(named, Field) else named.expression(parameters)
    present = named.present if isinstance(named, Field) else named.present(parameters)
    value = f"arrayJoin({expression})" if isinstance(named, Field) and named.kind == "list" else f"toString({expression})"
    part = parameters.text(place.prefix)
    found = rows.run(
        store,
        f"SELECT value, count() AS n FROM (SELECT {value} AS value FROM {rows.table(store)} WHERE {condition} AND {present}) "
        f"WHERE value != '' AND positionCaseInsensitiveUTF8(value, {part}) > 0 GROUP BY value "
        f"ORDER BY startsWith(lowerUTF8(value), lowerUTF8({part})) DESC, n DESC, value LIMIT {ITEMS_MAX}",
        parameters.values, seconds_max=SECONDS_MAX)
    items = tuple(Item(str(one), "value", count=int(count)) for one, count in found.rows if _writable(str(one)))
    return Completion(place, items, restricted, found.cut)


def _is_measure(key: str) -> bool:
    try:
        return aggregates.measure(key) is not None
    except QueryError:
        return True


def _labels(store: Store, score: Score, prefix: str, span: Window) -> tuple[Item, ...]:
    """Words that the score was given."""
    parameters = Parameters()
    name, part = parameters.text(score.key), parameters.text(prefix)
    since = parameters.bind(max(0, span.start_ns - scores.CLOCK_SLACK_S * 10**9), "Int64")
    found = store.query(
        f"SELECT Label, count() AS n FROM {rows.table(store, SCORES.name)} WHERE ScoreName = {name} AND Label != '' "
        f"AND Timestamp >= fromUnixTimestamp64Nano({since}) AND positionCaseInsensitiveUTF8(Label, {part}) > 0 "
        f"GROUP BY Label ORDER BY n DESC, Label LIMIT {ITEMS_MAX}", parameters.values, seconds_max=SECONDS_MAX)
    return tuple(Item(str(label), "label", count=int(count)) for label, count in found.rows if _writable(str(label)))


def _figures(store: Store, named: Field, condition: str, parameters: Parameters) -> tuple[tuple[Item, ...], bool]:
    """Thresholds worth a thought: what lies above them is a half, a twentieth, a hundredth of what the rest of the query finds."""
    levels = ", ".join(str(level) for level, _ in _QUANTILES)
    figure = f"toFloat64({named.expression})"
    found = rows.run(
        store, f"SELECT quantilesTDigestIf({levels})(assumeNotNull({figure}), isFinite({figure})) FROM {rows.table(store)} "
               f"WHERE {condition} AND {named.present}", parameters.values, seconds_max=SECONDS_MAX)
    figures: Sequence[float] = found.rows[0][0] if found.rows else ()
    items = [Item(_amount(float(value), named.unit), "number", f"the {words} of what the rest finds")
             for value, (_, words) in zip(figures, _QUANTILES, strict=False) if value == value and value >= 0]
    return tuple({item.text: item for item in items}.values()), found.cut


def _amount(value: float, unit: str) -> str:
    """A number as one types it, of three digits."""
    if unit in ("ns", "s"):
        seconds = value / 1e9 if unit == "ns" else value
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
            if seconds >= scale:
                return f"{_digits(seconds / scale)}{name}"
        return "0s"
    return _digits(value)


def _digits(value: float) -> str:
    return str(round(value)) if value >= 100 else f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")


def _rest(store: Store, text: str, place: Context, span: Window) -> tuple[str, Parameters, bool]:
    """SQL condition of the query without the term at the caret, its parameters, and whether it could be read."""
    for rest in (*_without(text, place), ""):
        parameters = Parameters(database=store.database)
        try:
            within = span.condition(parameters)
            return f"{within} AND {sql.condition(language.parse(rest), parameters)}", parameters, bool(rest)
        except QueryError:
            continue
    raise AssertionError("the empty query can be read")


def _without(text: str, place: Context) -> list[str]:
    """The query with a term that every span fulfils in the place of the one at the caret; then without what stands right of it.

    Within braces only what they hold counts: the rest is about other spans.
    """
    behind = place.end
    if place.listed:
        closing = text.find(")", behind)
        behind = closing + 1 if closing >= 0 else len(text)
    left, right = text[place.inside : place.term], text[behind:]
    right = right[: _end(right, braces=place.inside > 0)]
    closed = ")" * place.open
    return [f"{left} {_EVERY_SPAN} {right}", f"{left} {_EVERY_SPAN} {right}{closed}", f"{left} {_EVERY_SPAN}{closed}"]


def _end(text: str, *, braces: bool) -> int:
    """Where the condition ends that began left of the text: at the brace that closes it, or at the first stage."""
    depth, quoted, at = 0, False, 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quoted:
            at += 1
        elif char == '"':
            quoted = not quoted
        elif not quoted and char == "{":
            depth += 1
        elif not quoted and char == "}":
            if depth == 0 and braces:
                return at
            depth -= 1
        elif not quoted and char == "|" and depth == 0 and (at == 0 or text[at - 1].isspace()):
            return at
        at += 1
    return at
