"""Edits the text of a query the way a person would: one `field:value` term added, negated, widened to a list or taken away.

Not a parser: it splits at blanks outside of quotes, patterns and brackets, which is enough to find terms that it wrote itself. What
stands behind a bar (`| stats ...`) stays as it is.
"""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z_@][A-Za-z0-9_./@-]*")
"""Words without a meaning of their own as a value: no glob, no regular expression, no number (7 would also find 7.0)."""
_BARE_KEY: Final = re.compile(r"[A-Za-z][\w.@$/-]*")
_FLAGS: Final = frozenset({"has", "is"})
_KEYWORDS: Final = frozenset({"AND", "OR", "NOT", "TO"})
_PIECE: Final = re.compile(r'"(?:\\.|[^"\\])*"|(?<=[:,(])/(?:\\.|[^/\\])+/|[\s\S]')
"""A quoted text, a pattern, or one character."""
_OPEN: Final = {"(": ")", "[": "]", "{": "}"}


def quoted(value: str) -> str:
    """A value as the language reads it back unchanged: bare when it is a plain word, else in double quotes."""
    if _PLAIN.fullmatch(value) and value not in _KEYWORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def field_name(key: str) -> str:
    """An attribute key as the language takes it on the left of a colon: quoted where a bare one would be read otherwise."""
    if _BARE_KEY.fullmatch(key) and key not in _FLAGS and not key.startswith(("span.", "resource.")):
        return key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand outside of quotes, patterns and brackets, without empty ones."""
    parts: list[str] = [""]
    waiting: list[str] = []
    for piece in _PIECE.findall(text):
        if not waiting and separator.fullmatch(piece):
            parts.append("")
            continue
        parts[-1] += piece
        if piece in _OPEN:
            waiting.append(_OPEN[piece])
        elif waiting and piece == waiting[-1]:
            waiting.pop()
    return [part for part in parts if part]


_BLANK: Final = re.compile(r"\s")
_BAR: Final = re.compile(r"\|")
_COMMA: Final = re.compile(r",")


def terms(query: str) -> list[str]:
    """The blank-separated terms, quotes, patterns and brackets kept whole."""
    return _split(query, _BLANK)


def _stages(query: str) -> tuple[str, str]:
    """What is searched, and the stages behind it with their bar, "" for none."""
    found = terms(query)
    at = next((index for index, term in enumerate(found) if term.startswith("|")), len(found))
    return " ".join(found[:at]) if at < len(found) else query, " ".join(found[at:])


def without_stage(query: str, name: str) -> str:
    """The query without its stage of that name, `sort` for one."""
    searched, stages = _stages(query)
    kept = [stage.strip() for stage in _split(stages, _BAR) if stage.strip().split()[:1] not in ([name], [])]
    return " ".join([*([searched] if searched else []), *(f"| {stage}" for stage in kept)]) if stages else query


def has(query: str, term: str) -> bool:
    """True when the term stands in the query as written here."""
    return term in terms(_stages(query)[0])


def without(query: str, term: str) -> str:
    """The query with that term taken away wherever it stands."""
    if not has(query, term):
        return query
    searched, stages = _stages(query)
    return " ".join([*(part for part in terms(searched) if part != term), *([stages] if stages else [])])


def adding(query: str, term: str) -> str:
    """The query narrowed by a term."""
    searched, stages = _stages(query)
    searched = searched.strip()
    # An OR at top level would swallow the new term's AND: keep what was there together.
    if "OR" in terms(searched):
        searched = f"({searched})"
    return " ".join(part for part in (searched, term, stages) if part)


def toggled(query: str, term: str) -> str:
    """The term removed where it stands, else added; its opposite (`-term`) leaves, since both together match nothing."""
    if has(query, term):
        return without(query, term)
    opposite = term[1:] if term.startswith("-") else "-" + term
    return adding(without(query, opposite), term)


def values(query: str, field: str) -> list[str]:
    """The values, as written, among which the query's own terms let the field choose: of `field:value` and `field:(one, two)`."""
    out: list[str] = []
    for value in _positive(query, field):
        inner = value[1:-1] if value.startswith("(") and value.endswith(")") else value
        out += [part.strip() for part in _split(inner, _COMMA) if part.strip()]
    return out


def _positive(query: str, field: str) -> list[str]:
    found = [term.removeprefix(f"{field}:") for term in terms(_stages(query)[0]) if term.startswith(f"{field}:")]
    return [value for value in found if value and value[0] not in "<>=!~[/*"]


def including(query: str, field: str, value: str) -> str:
    """The value allowed besides the others that the query allows the field, or no longer where it was: `field:(one, two)`."""
    chosen = values(query, field)
    chosen = [one for one in chosen if one != value] if value in chosen else [*chosen, value]
    for opposite in (f"-{field}:{value}", f"-has:{field}"):
        query = without(query, opposite)
    return _choosing(query, field, chosen)


def dropping(query: str, field: str, value: str) -> str:
    """The value no longer among those that the query lets the field choose from."""
    chosen = values(query, field)
    return _choosing(query, field, [one for one in chosen if one != value]) if value in chosen else query


def only(query: str, field: str, value: str) -> str:
    """The value alone, whatever else the query said of the field's values and whether it is there."""
    return _choosing(_without_choice(query, field), field, [value])


def lacking(query: str, field: str) -> str:
    """Nothing but what lacks the field, whatever else the query said of its values."""
    return adding(unchosen(query, field), f"-has:{field}")


def unchosen(query: str, field: str) -> str:
    """Without what the query's own terms say of the field's values and whether it is there; as it stands where they say nothing."""
    return _choosing(_without_choice(query, field), field, [])


def _without_choice(query: str, field: str) -> str:
    for term in terms(_stages(query)[0]):
        if term.startswith((f"-{field}:", f"{field}:!=")) or term in (f"has:{field}", f"-has:{field}"):
            query = without(query, term)
    return query


def _choosing(query: str, field: str, chosen: list[str]) -> str:
    for value in _positive(query, field):
        query = without(query, f"{field}:{value}")
    if not chosen:
        return query
    return adding(query, f"{field}:{chosen[0]}" if len(chosen) == 1 else f"{field}:({', '.join(chosen)})")
