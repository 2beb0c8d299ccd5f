"""What stands at the caret of a query that is still being typed: a field, a value of which field, a flag, a stage.

Not the parser, which wants a whole query: this reads tokens from the left and stops at the caret, so it cannot fail.
`static/query_context.js` reads them in the same way, for what needs no store; a test holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal

Kind = Literal["field", "value", "has", "flag", "stage", "argument", "joint", "none"]
"""`has`: the field behind `has:`; `argument`: a name behind a stage's first word; `joint`: where `stats` goes on with by or every;
`none`: free text in quotes, a pattern, a range, a number of rows or an interval."""

_NAME: Final = r"[^\W\d][\w.@$/-]*"
_OPERATOR: Final = r"(?:>=|<=|!=|==|!~|[<>=~])"
_TERM: Final = re.compile(
    # A name, what may follow that of a series, and an operator.
    rf'((?:(?:span|resource|score)\.)?(?:"(?:\\.|[^"\\])+"|{_NAME}(?:\[[^\[\]"{{}}|]*\](?:\.\w+)?)?(?:\(\s*[<>=!][^()"{{}}|]*\))?))'
    rf"(:{_OPERATOR}?|\s*{_OPERATOR})\s*"
)
_STRING: Final = re.compile(r'"(?:\\.|[^"\\])*("?)', re.DOTALL)
_REGEX: Final = re.compile(r"/(?:\\.|[^/\\])*(/?)")
_BLANKS: Final = re.compile(r"\s+")
_MINUS: Final = re.compile(r"-(?=\S)|NOT(?=[\s(])\s*")
_VALUE: Final = re.compile(r'(?:[^\s()"{}]|\{[^\s(){}"]*\})*')
_ITEM: Final = re.compile(r'[^\s(),"]*')
_WORD: Final = re.compile(r'(?:[^\s()"{}]|\{[^\s(){}"]*\})+')
_REST_OF_NAME: Final = re.compile(r"[\w.@$/-]*")
_REST_OF_VALUE: Final = re.compile(r'[^\s(),"\[\]{}|]*')
_REST_OF_PHRASE: Final = re.compile(r'[^\s"]*')
_QUOTES: Final = re.compile(r'\\.|"', re.DOTALL)
_STAGE_WORD: Final = re.compile(r"(?:[\w.@$/][\w.@$/-]*)?\Z")
_COMPARED: Final = re.compile(r"\s*compare\s*\(")
_EVERY: Final = re.compile(r"\severy\s")
_FIGURED: Final = re.compile(r"\)\s+\Z|\sby\s+[^\s,](?:.*[^\s,])?\s+\Z", re.DOTALL)
"""A figure has ended, or a name to group by."""
_TYPED_NAME: Final = re.compile(rf'(?:(?:span|resource|score)\.)?(?:"(?:\\.|[^"\\])*"?|{_NAME})?\Z')


@dataclass(frozen=True, slots=True)
class Context:
    """The caret's place. Offsets count characters.

    start, end: what an accepted suggestion takes the place of; never left of the token at the caret. prefix: what of it is typed,
    without quotes. field: whose value it is, as written; operator: what stands between. term: where the whole term begins, its
    minus included. inside: behind the innermost open brace, 0 without any. open: parentheses open from there on. listed: the value
    is one of a list.
    """

    kind: Kind
    start: int
    end: int
    prefix: str = ""
    field: str = ""
    operator: str = ""
    term: int = 0
    inside: int = 0
    open: int = 0
    listed: bool = False


@dataclass(slots=True)
class _Reading:
    """What has been read so far. groups: offsets behind each open `(` (negative) and `{`, outermost first."""

    groups: list[int] = field(default_factory=list)
    negated: int = -1

    @property
    def inside(self) -> int:
        """Behind the innermost open brace."""
        return next((group for group in reversed(self.groups) if group > 0), 0)

    @property
    def open(self) -> int:
        """Parentheses open within it."""
        found = 0
        for group in reversed(self.groups):
            if group > 0:
                break
            found += 1
        return found


def context(text: str, caret: int) -> Context:
    """The place of a caret behind the first `caret` characters."""
    caret = max(0, min(caret, len(text)))
    left, at = text[:caret], 0
    reading = _Reading()
    while at < caret:
        if blanks := _BLANKS.match(left, at):
            at = blanks.end()
            continue
        start = at
        if left[at] == "|" and not reading.groups and (at == 0 or left[at - 1] in " \t\n)}"):
            return _stage(text, at + 1, caret)
        if minus := _MINUS.match(left, at):
            reading.negated, at = start, minus.end()
            continue
        term = reading.negated if reading.negated >= 0 else start
        if found := _TERM.match(left, at):
            at, place = _value(text, left, found, term, reading)
            if place is not None:
                return place
        elif found := _STRING.match(left, at):
            at = found.end()
            if not found[1]:
                return _field(text, start, caret, term, reading) if at == caret else _nothing(caret)
        elif left[at] in "({":
            at += 1
            reading.groups.append(at if left[at - 1] == "{" else -at)
        elif left[at] in ")}":
            at += 1
            if reading.groups:
                reading.groups.pop()
        else:
            word = _WORD.match(left, at)
            at = word.end() if word else at + 1
            if at == caret:
                return _field(text, start, caret, term, reading)
        reading.negated = -1
    term = reading.negated if reading.negated >= 0 else caret
    return _field(text, caret, caret, term, reading)


def _nothing(caret: int) -> Context:
    return Context("none", caret, caret)


def _field(text: str, start: int, caret: int, term: int, reading: _Reading) -> Context:
    """A name is being typed, or a word that may become one."""
    typed = text[start:caret]
    if not _TYPED_NAME.match(typed):
        return _nothing(caret)
    end = _REST_OF_NAME.match(text, caret).end()  # type: ignore[union-attr]  # the pattern matches nothing too
    prefix = re.sub(r"\\(.)", r"\1", typed.replace('"', "", 1).removesuffix('"')) if '"' in typed else typed
    return Context("field", start, end, prefix, term=term, inside=reading.inside, open=reading.open)


def _value(text: str, left: str, found: re.Match[str], term: int, reading: _Reading) -> tuple[int, Context | None]:
    """Reads what stands behind `field:`. (where the reading goes on, None), or the place of a caret within."""
    name, operator, at, caret = found[1], found[2].strip(), found.end(), len(left)
    opening = left[at : at + 1]
    if opening == "(":
        return _list(text, left, name, operator, at + 1, term, reading)
    if opening == "[":
        closing = left.find("]", at)
        return (closing + 1, None) if closing >= 0 else (caret, _nothing(caret))
    if opening == "/" and (pattern := _REGEX.match(left, at)):
        return (pattern.end(), None) if pattern[1] and pattern.end() < caret else (caret, _nothing(caret))
    quoted = _STRING.match(left, at)
    end = quoted.end() if quoted else _VALUE.match(left, at).end()  # type: ignore[union-attr]  # the pattern matches nothing too
    if end < caret or (quoted and quoted[1]):
        return end, None
    return end, _typed(text, at, caret, name, operator, term, reading, listed=False)


def _list(
    text: str, left: str, name: str, operator: str, at: int, term: int, reading: _Reading
) -> tuple[int, Context | None]:
    caret = len(left)
    while True:
        while at < caret and (left[at].isspace() or left[at] == ","):
            at += 1
        if at < caret and left[at] == ")":
            return at + 1, None
        quoted = _STRING.match(left, at)
        end = quoted.end() if quoted else _ITEM.match(left, at).end()  # type: ignore[union-attr]  # the pattern matches nothing too
        if end == caret and not (quoted and quoted[1]):
            return end, _typed(text, at, caret, name, operator, term, reading, listed=True)
        at = max(end, at + 1)
        if at >= caret:
            return caret, _nothing(caret)


def _typed(
    text: str, start: int, caret: int, name: str, operator: str, term: int, reading: _Reading, *, listed: bool
) -> Context:
    """A value is being typed."""
    typed = text[start:caret]
    if typed.startswith('"'):
        prefix = re.sub(r"\\(.)", r"\1", typed[1:])
        quotes = [match for match in _QUOTES.finditer(text, caret) if match[0] == '"']
        # An odd number of quotes to the right: the first of them closes this one.
        end = quotes[0].end() if len(quotes) % 2 else _REST_OF_PHRASE.match(text, caret).end()  # type: ignore[union-attr]  # matches nothing too
    else:
        prefix = typed
        end = _REST_OF_VALUE.match(text, caret).end()  # type: ignore[union-attr]  # the pattern matches nothing too
    plain = name in ("has", "is") and operator in (":", "=")
    kind: Kind = ("has" if name == "has" else "flag") if plain and not listed else "value"
    return Context(kind, start, end, prefix, name, operator, term, reading.inside, reading.open, listed)


def _stage(text: str, at: int, caret: int) -> Context:
    """Behind a pipe: the name of a stage, or a word behind it. Within `compare (` stands a condition like any other."""
    if found := _COMPARED.match(text, at, caret):
        place = context(text[found.end() :], caret - found.end())
        moved = {name: getattr(place, name) + found.end() for name in ("start", "end", "term", "inside")}
        return replace(place, **moved)
    at = text.rfind("|", at, caret) + 1 or at
    word = _STAGE_WORD.search(text[:caret])
    start = max(word.start() if word else caret, at)
    end = _REST_OF_NAME.match(text, caret).end()  # type: ignore[union-attr]  # the pattern matches nothing too
    return Context(_place(text[at:start]), start, end, text[start:caret], term=start)


def _place(said: str) -> Kind:
    """What a word can be in front of which a stage says so much."""
    stage = next(iter(said.split()), "")
    if not stage:
        return "stage"
    if stage == "limit" or (stage == "stats" and _EVERY.search(said)):
        return "none"
    return "joint" if stage == "stats" and _FIGURED.search(said) else "argument"
